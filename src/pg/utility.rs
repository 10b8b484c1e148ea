//! Runs one statement of ours that changes the database, as the caller would.

use std::ffi::{CString, c_char, c_int, c_long};

use super::error::{Outcome, catch};
use super::execute::connected;

unsafe extern "C-unwind" {
    // Without pgrx's guard, so that `catch` keeps the error whole.
    fn SPI_execute(statement: *const c_char, read_only: bool, count: c_long) -> c_int;
}

pub fn run(statement: &str) -> Outcome<()> {
    let statement = CString::new(statement).unwrap_or_default();
    let text = statement.as_ptr();
    // SAFETY: C calls over a C string that outlives them; an error ends the statement.
    let code = unsafe { catch(|| connected(|| SPI_execute(text, false, 0))) }?;
    if code < 0 {
        pgrx::error!("SPI_execute failed: error code {code}");
    }
    Ok(())
}
