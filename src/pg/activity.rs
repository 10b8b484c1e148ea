//! Progress of a long call, shown as the query in `pg_stat_activity`.

use std::ffi::CString;

use pgrx::pg_sys;

/// Puts the statement's own text back when the work is over, also after an error.
pub struct Shown;

impl Shown {
    pub fn start() -> Self {
        Self
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        // SAFETY: the text of the statement that the client sent, or NULL.
        let statement = unsafe { pg_sys::debug_query_string };
        report(statement);
    }
}

/// A worker that has nothing to do.
pub fn idle() {
    // SAFETY: as below.
    unsafe {
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
    }
}

pub fn show(progress: &str) {
    if let Ok(text) = CString::new(progress) {
        report(text.as_ptr());
    }
}

fn report(text: *const std::ffi::c_char) {
    // SAFETY: copies the text into this backend's slot in shared memory.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text) };
}
