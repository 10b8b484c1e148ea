//! jsonb values as text.

use pgrx::pg_sys;

/// The text of a jsonb, in the server's encoding.
pub fn to_text<'a>(value: pg_sys::Datum) -> &'a [u8] {
    let out = pg_sys::Oid::from(pg_sys::F_JSONB_OUT);
    // SAFETY: the output function of the value's type.
    let text = unsafe { pg_sys::OidOutputFunctionCall(out, value) };
    // SAFETY: a palloc'ed C string of the caller's context.
    unsafe { std::ffi::CStr::from_ptr(text) }.to_bytes()
}
