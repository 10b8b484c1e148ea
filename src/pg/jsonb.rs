//! A jsonb datum and its text, in UTF-8 as it stands in Redis.
//!
//! Invariant: what cannot be a jsonb of this database is the caller's error, never PostgreSQL's:
//! its context would show what the text holds.

use std::ffi::CString;

use pg_cache_core::error::Error;
use pgrx::pg_sys;

use super::arguments::read_text;
use super::error::{Outcome, replace};
use super::{row_text, text};

/// As jsonb writes it.
pub fn text(value: pg_sys::Datum) -> Vec<u8> {
    let shown = row_text::shown(pg_sys::Oid::from(pg_sys::F_JSONB_OUT), value);
    row_text::utf8(shown).into_owned()
}

/// Reads a text from Redis.
pub fn from_utf8(bytes: &[u8], unreadable: impl Fn() -> Error) -> Outcome<pg_sys::Datum> {
    let bytes = text::from_utf8(bytes).ok_or_else(&unreadable)?;
    let literal = CString::new(bytes.into_owned()).map_err(|_| unreadable())?;
    let literal = pg_sys::Datum::from(literal.as_ptr());
    read_text(pg_sys::JSONBOID, literal).map_err(|raised| replace(raised, unreadable()))
}

/// Whether it is an object.
pub fn is_object(value: pg_sys::Datum) -> bool {
    const HEADER_BYTES: usize = 4;
    let Some(header) = text::bytes(value).first_chunk::<HEADER_BYTES>() else {
        return false;
    };
    u32::from_ne_bytes(*header) & pg_sys::JB_FOBJECT != 0
}
