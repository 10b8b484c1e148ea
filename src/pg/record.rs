//! One row as the result of a function with OUT arguments.

use pgrx::pg_sys;

use super::call::Call;

/// The row of these columns, in the order of the function's declaration; `None` is NULL. Only the
/// SQL script of another version can declare another number of them, and that is an error: a row
/// that says nothing would be read as a yes.
pub fn datum(call: &Call, columns: &[Option<pg_sys::Datum>]) -> pg_sys::Datum {
    let mut shape: pg_sys::TupleDesc = std::ptr::null_mut();
    // SAFETY: looks up the declared result of the function that is being served.
    unsafe {
        pg_sys::get_call_result_type(call.raw(), std::ptr::null_mut(), &raw mut shape);
    }
    // SAFETY: NULL, or a descriptor that was just made in this call's memory context.
    let declared = unsafe { shape.as_ref() }.map_or(0, |shape| shape.natts);
    assert!(usize::try_from(declared) == Ok(columns.len()), "a row of {declared} columns");
    let mut values: Vec<pg_sys::Datum> =
        columns.iter().map(|column| column.unwrap_or(pg_sys::Datum::from(0usize))).collect();
    let mut nulls: Vec<bool> = columns.iter().map(Option::is_none).collect();
    // SAFETY: gives an anonymous row type its number.
    let shape = unsafe { pg_sys::BlessTupleDesc(shape) };
    // SAFETY: as many values and marks as the descriptor has columns, of its types.
    let tuple = unsafe { pg_sys::heap_form_tuple(shape, values.as_mut_ptr(), nulls.as_mut_ptr()) };
    // SAFETY: just made.
    let header = unsafe { (*tuple).t_data };
    // SAFETY: a tuple's header holds its row type, set above.
    unsafe { pg_sys::HeapTupleHeaderGetDatum(header) }
}
