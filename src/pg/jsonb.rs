//! jsonb values and their text.
//!
//! Invariant: a text of others that cannot be a jsonb of this database is the caller's error, never
//! PostgreSQL's: its context would show what the text holds.

use std::ffi::{CStr, CString};

use pg_cache_core::error::Error;
use pgrx::pg_sys;

use super::arguments::read_text;
use super::error::{Outcome, class, defect_in, replace};
use super::subtransaction::tried;
use super::text;

/// The text of a jsonb, in the server's encoding.
pub fn to_text<'a>(value: pg_sys::Datum) -> &'a [u8] {
    let out = pg_sys::Oid::from(pg_sys::F_JSONB_OUT);
    // SAFETY: the output function of the value's type.
    let text = unsafe { pg_sys::OidOutputFunctionCall(out, value) };
    // SAFETY: a palloc'ed C string of the caller's context.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}

/// A jsonb datum of JSON text in the server's encoding. What jsonb has limits for, and a text of
/// ours goes beyond, is PostgreSQL's error.
pub fn datum(text: Vec<u8>) -> Outcome<pg_sys::Datum> {
    let Ok(text) = CString::new(text) else { return Err(defect_in("JSON with a NUL")) };
    read_text(pg_sys::JSONBOID, pg_sys::Datum::from(text.as_ptr()))
}

/// Reads a text that others left in Redis.
pub fn from_utf8(bytes: &[u8], unreadable: impl Fn() -> Error) -> Outcome<pg_sys::Datum> {
    let text = text::from_utf8(bytes).ok_or_else(&unreadable)?;
    datum(text.into_owned()).map_err(|raised| replace(raised, unreadable()))
}

/// Whether it is an object.
pub fn is_object(value: pg_sys::Datum) -> bool {
    const HEADER_BYTES: usize = 4;
    let Some(header) = text::bytes(value).first_chunk::<HEADER_BYTES>() else {
        return false;
    };
    u32::from_ne_bytes(*header) & pg_sys::JB_FOBJECT != 0
}

/// Milliseconds between 1970 and 2000, when PostgreSQL's time begins.
const EPOCH_MS: i64 = 946_684_800_000;

/// A moment in milliseconds since 1970 as JSON has it, which every timestamptz can be read from.
pub fn moment(unix_ms: i64) -> String {
    let micros = unix_ms.saturating_sub(EPOCH_MS).saturating_mul(1000);
    let mut buffer = [0 as std::ffi::c_char; pg_sys::MAXDATELEN as usize + 1];
    let value = pg_sys::Datum::from(micros);
    let (type_oid, at) = (pg_sys::TIMESTAMPTZOID, buffer.as_mut_ptr());
    // SAFETY: room for the longest date; NULL: in the session's own time zone.
    unsafe { pg_sys::JsonEncodeDateTime(at, value, type_oid, std::ptr::null()) };
    super::text::c_string(buffer.as_ptr())
}

/// Whether this text, in the server's encoding, is a jsonb. An error that says nothing of the text,
/// such as memory that is short, is the caller's.
pub fn is_one(text: &[u8]) -> Outcome<bool> {
    /// Data exceptions, and limits that the text exceeds.
    const OF_TEXT: [&str; 2] = ["22", "54"];
    let Ok(text) = std::ffi::CString::new(text) else { return Ok(false) };
    tried(|| {
        let literal = pg_sys::Datum::from(text.as_ptr());
        match read_text(pg_sys::JSONBOID, literal) {
            Ok(_) => Ok(true),
            Err(raised) if OF_TEXT.contains(&&class(&raised)[..]) => Ok(false),
            Err(raised) => Err(raised),
        }
    })
}
