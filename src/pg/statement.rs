//! Hears when a statement has done all its work, that of its AFTER triggers included.

use std::sync::OnceLock;

use pgrx::pg_sys;

use super::error::{self, Outcome};

type Finish = unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc);

pub struct Listener {
    /// Asked at each statement: it must be cheap, and raise nothing.
    pub wants_to_hear: fn() -> bool,
    pub finished: fn() -> Outcome<()>,
}

static LISTENER: OnceLock<Listener> = OnceLock::new();

/// Whoever was there before.
static NEXT: OnceLock<Finish> = OnceLock::new();

unsafe extern "C-unwind" {
    /// Without pgrx's guard: an error of it passes through a frame that owns nothing.
    fn standard_ExecutorFinish(query: *mut pg_sys::QueryDesc);
}

/// Listens. Once per backend.
pub fn listen(listener: Listener) {
    if LISTENER.set(listener).is_err() {
        return;
    }
    // SAFETY: a global of the backend, which libraries set while they are loaded.
    if let Some(next) = unsafe { pg_sys::ExecutorFinish_hook } {
        NEXT.get_or_init(|| next);
    }
    // SAFETY: as above; the library is never unloaded.
    unsafe { pg_sys::ExecutorFinish_hook = Some(finish) };
}

unsafe extern "C-unwind" fn finish(query: *mut pg_sys::QueryDesc) {
    match NEXT.get() {
        // SAFETY: what it was called with.
        Some(next) => unsafe { next(query) },
        // SAFETY: as above.
        None => unsafe { standard_ExecutorFinish(query) },
    }
    if let Some(listener) = LISTENER.get().filter(|listener| (listener.wants_to_hear)()) {
        error::enter(|| {
            (listener.finished)()?;
            Ok(pg_sys::Datum::from(0usize))
        });
    }
}
