//! Names and literals as SQL writes them, by PostgreSQL's own rules.

use pgrx::pg_sys;

use super::text::{c_string, statement};

pub fn identifier(name: &str) -> String {
    let name = statement(name);
    // SAFETY: the name itself or a palloc'ed quoted copy; copied again here.
    c_string(unsafe { pg_sys::quote_identifier(name.as_ptr()) })
}

pub fn literal(text: &str) -> String {
    let text = statement(text);
    // SAFETY: a palloc'ed quoted copy.
    c_string(unsafe { pg_sys::quote_literal_cstr(text.as_ptr()) })
}

/// A value for a person to read. The output function of a user's type is the user's code.
pub fn value(type_oid: pg_sys::Oid, value: pg_sys::Datum) -> String {
    let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
    // SAFETY: a catalogue look-up into two locals.
    unsafe { pg_sys::getTypeOutputInfo(type_oid, &raw mut function, &raw mut is_varlena) };
    if !super::classify::is_built_in(function) {
        return "…".to_owned();
    }
    // SAFETY: a built-in output function and a value of its type; a palloc'ed C string.
    let text = c_string(unsafe { pg_sys::OidOutputFunctionCall(function, value) });
    let bare = matches!(
        type_oid,
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID | pg_sys::NUMERICOID
    );
    if bare { text } else { literal(&text) }
}

/// `name` or `schema.name` as written in SQL, folded and quoted anew, with the schema in which
/// CREATE would put it; `None` if it is neither.
pub fn qualified_name(text: &str) -> Option<String> {
    let text = statement(text);
    // SAFETY: cut apart in place by SplitIdentifierString, so a copy.
    let copy = unsafe { pg_sys::pstrdup(text.as_ptr()) };
    let mut parts = std::ptr::null_mut();
    // SAFETY: fills the list with pointers into the copy.
    let well_formed = unsafe { pg_sys::SplitIdentifierString(copy, b'.' as _, &raw mut parts) };
    let parts = super::tree::nodes::<std::ffi::c_char>(parts);
    if !well_formed || parts.is_empty() || parts.len() > 2 {
        return None;
    }
    let mut quoted: Vec<_> = parts.iter().map(|part| identifier(&c_string(*part))).collect();
    if quoted.len() == 1 {
        quoted.insert(0, identifier(&creation_schema()));
    }
    Some(quoted.join("."))
}

/// Raises if the search path has no schema to create in, as CREATE would.
fn creation_schema() -> String {
    let range_var = pg_sys::RangeVar {
        type_: pg_sys::NodeTag::T_RangeVar,
        relpersistence: pg_sys::RELPERSISTENCE_PERMANENT as _,
        ..pg_sys::RangeVar::default()
    };
    // SAFETY: reads the search path; checks nothing but that there is a schema.
    let namespace = unsafe { pg_sys::RangeVarGetCreationNamespace(&raw const range_var) };
    // SAFETY: a palloc'ed name, or NULL.
    c_string(unsafe { pg_sys::get_namespace_name(namespace) })
}
