//! jsonb of text that we wrote: PostgreSQL's own input function reads it.

use std::ffi::CString;

use pgrx::pg_sys;

use super::arguments::read_text;
use super::error::{Outcome, defect_in};

/// A jsonb datum of JSON text in the server's encoding. What jsonb has limits for, and a text of
/// ours goes beyond, is PostgreSQL's error.
pub fn datum(text: Vec<u8>) -> Outcome<pg_sys::Datum> {
    let Ok(text) = CString::new(text) else { return Err(defect_in("JSON with a NUL")) };
    read_text(pg_sys::JSONBOID, pg_sys::Datum::from(text.as_ptr()))
}
