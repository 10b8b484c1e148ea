//! Runs one statement of ours that changes the database, as the caller would.

use std::ffi::{c_char, c_int, c_long};

use super::error::Outcome;
use super::execute::in_spi;

unsafe extern "C-unwind" {
    // Without pgrx's guard, so that `catch` keeps the error whole.
    fn SPI_execute(statement: *const c_char, read_only: bool, count: c_long) -> c_int;
}

pub fn run(statement: &str) -> Outcome<()> {
    let statement = super::text::statement(statement);
    let text = statement.as_ptr();
    // SAFETY: a C string that outlives the call.
    let execute = || unsafe { SPI_execute(text, false, 0) };
    // SAFETY: one C call over a plain pointer; an error ends the statement.
    let code = unsafe { in_spi(execute) }?;
    if code < 0 {
        pgrx::error!("SPI_execute failed: error code {code}");
    }
    Ok(())
}
