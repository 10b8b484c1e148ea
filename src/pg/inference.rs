//! The types of `$1, $2, …` where the caller gave none: what the query itself makes of them.

use std::ffi::{CString, c_char, c_int, c_void};

use pg_cache_core::error::Error;
use pgrx::pg_sys;

use super::arguments::Argument;
use super::error::Outcome;
use super::execute::in_spi;

unsafe extern "C-unwind" {
    // Without pgrx's guard, so that `catch` keeps the user's error whole.
    fn SPI_prepare_params(
        query: *const c_char,
        setup: pg_sys::ParserSetupHook,
        argument: *mut c_void,
        options: c_int,
    ) -> pg_sys::SPIPlanPtr;
    #[cfg_attr(feature = "pg14", link_name = "parse_variable_parameters")]
    fn setup_parse_variable_parameters(
        state: *mut pg_sys::ParseState,
        types: *mut *mut pg_sys::Oid,
        count: *mut c_int,
    );
}

/// The types of the parameters: as given, or as the query itself infers them for untyped ones.
pub fn parameter_types(query: &CString, given: &[Argument]) -> Outcome<Vec<pg_sys::Oid>> {
    let mut types: Vec<_> = given.iter().map(|argument| argument.type_oid).collect();
    if types.contains(&pg_sys::InvalidOid) {
        types = inferred(query, &types)?;
        if types.len() != given.len() {
            return Err(Error::ArgumentCount { given: given.len(), wanted: types.len() }.into());
        }
        // Where the query infers nothing, as in `$1 IS NULL`, a text stays a text.
        for type_oid in &mut types {
            if matches!(*type_oid, pg_sys::InvalidOid | pg_sys::UNKNOWNOID) {
                *type_oid = pg_sys::TEXTOID;
            }
        }
    }
    Ok(types)
}

/// What the parser's hook for parameters without a type reads and extends.
struct Inference {
    types: *mut pg_sys::Oid,
    count: c_int,
}

/// Analyses once with open types, as PREPARE without a type list does, and reads what came out.
fn inferred(query: &CString, types: &[pg_sys::Oid]) -> Outcome<Vec<pg_sys::Oid>> {
    let bytes = std::mem::size_of_val(types);
    // SAFETY: a palloc'ed array, since the hook may enlarge it with repalloc.
    let array = unsafe { pg_sys::palloc(bytes) }.cast::<pg_sys::Oid>();
    // SAFETY: both have room for that many oids, and do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(types.as_ptr(), array, types.len()) };
    let count = c_int::try_from(types.len()).unwrap_or(0);
    let mut inference = Inference { types: array, count };
    let (text, argument) = (query.as_ptr(), std::ptr::from_mut(&mut inference).cast());
    // SAFETY: the plan is dropped with SPI's memory; only the types are kept, in `array`, which the
    // hook enlarges where it stands: in the caller's context.
    let prepare = || unsafe { SPI_prepare_params(text, Some(leave_types_open), argument, 0) };
    // SAFETY: one C call over plain pointers; an error ends the statement.
    unsafe { in_spi(prepare) }?;
    let count = usize::try_from(inference.count).unwrap_or(0);
    // SAFETY: the hook keeps the array as long as it says.
    Ok(unsafe { std::slice::from_raw_parts(inference.types, count) }.to_vec())
}

unsafe extern "C-unwind" fn leave_types_open(
    state: *mut pg_sys::ParseState,
    argument: *mut c_void,
) {
    // SAFETY: the Inference on the stack of `inferred`.
    let inference = unsafe { &mut *argument.cast::<Inference>() };
    let (types, count) = (&raw mut inference.types, &raw mut inference.count);
    // SAFETY: both live until the analysis ends.
    unsafe { setup_parse_variable_parameters(state, types, count) };
}
