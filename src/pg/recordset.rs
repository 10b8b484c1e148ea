//! A cached JSON array as a set of rows: PostgreSQL's own `json_to_recordset` reads it.

use pg_cache_core::error::Error;
use pgrx::pg_sys;

use super::call::Call;
use super::error::{Outcome, catch};
use super::plan::Column;

/// The names of the column definition list of the call, or an error where there is none.
pub fn expected_columns(call: &Call) -> Result<Vec<String>, Error> {
    let info = call.result_info();
    // SAFETY: NULL or a node.
    let is_set = !info.is_null() && unsafe { (*info).type_ } == pg_sys::NodeTag::T_ReturnSetInfo;
    if !is_set {
        return Err(Error::RowsContext);
    }
    // SAFETY: the tag says what it is.
    let info = unsafe { &*info.cast::<pg_sys::ReturnSetInfo>() };
    if info.expectedDesc.is_null() {
        return Err(Error::RowsContext);
    }
    // SAFETY: belongs to the executor, which outlives the call; forgotten, not freed, below.
    let description = unsafe { pgrx::PgTupleDesc::from_pg_unchecked(info.expectedDesc) };
    let names = description.iter().map(|column| super::text::name(&column.attname)).collect();
    std::mem::forget(description);
    Ok(names)
}

/// Refuses names that the query does not return: they would silently be NULL.
pub fn check_columns(expected: &[String], returned: &[Column]) -> Result<(), Error> {
    for name in expected {
        match returned.iter().filter(|column| column.name == *name).count() {
            1 => {}
            0 => {
                let returned = returned.iter().map(|column| column.name.clone()).collect();
                return Err(Error::ColumnNotReturned { name: name.clone(), returned });
            }
            _ => return Err(Error::DuplicateColumn { name: name.clone() }),
        }
    }
    Ok(())
}

unsafe extern "C-unwind" {
    /// Without pgrx's guard, so that `catch` keeps the errors of input functions whole.
    fn json_to_recordset(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
}

/// Hands the call's own result set to `json_to_recordset`, which fills it.
pub fn return_rows(call: &Call, json: pg_sys::Datum) -> Outcome<pg_sys::Datum> {
    let mut function = pg_sys::FmgrInfo::default();
    let oid = pg_sys::Oid::from(pg_sys::F_JSON_TO_RECORDSET);
    // SAFETY: a built-in function.
    unsafe { pg_sys::fmgr_info(oid, &raw mut function) };
    let bytes = std::mem::size_of::<pg_sys::FunctionCallInfoBaseData>()
        + std::mem::size_of::<pg_sys::NullableDatum>();
    // SAFETY: zeroed room for a call with one argument.
    let inner = unsafe { pg_sys::palloc0(bytes) }.cast::<pg_sys::FunctionCallInfoBaseData>();
    // SAFETY: just allocated.
    let fields = unsafe { &mut *inner };
    fields.flinfo = &raw mut function;
    fields.resultinfo = call.result_info();
    fields.nargs = 1;
    // SAFETY: room for one argument was allocated behind the fixed part.
    for argument in unsafe { fields.args.as_mut_slice(1) } {
        *argument = pg_sys::NullableDatum { value: json, isnull: false };
    }
    // SAFETY: the built-in's own call convention; it fills the executor's result set.
    let fill = || unsafe { json_to_recordset(inner) };
    // SAFETY: one C call over plain pointers; its error ends the statement.
    let datum = unsafe { catch(fill) }?;
    call.null();
    Ok(datum)
}
