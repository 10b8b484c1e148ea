//! Work whose errors end nothing and whose traces are none: in a subtransaction that is always
//! rolled back.
//!
//! A subtransaction takes no id as long as nothing writes. Locks, memory, role and settings of the
//! work go with it, also after an error.

use pgrx::pg_sys;

use super::error::{Failed, Outcome, attempt};

/// Runs `work` and rolls back whatever it did; an error of it comes as its message. A cancel goes
/// on: it means the whole statement.
///
/// What comes out must own its memory: what PostgreSQL allocated goes with the subtransaction.
pub fn undone<T: 'static>(work: impl FnOnce() -> Outcome<T>) -> Outcome<Result<T, String>> {
    let (memory, outcome) = rolled_back(work);
    match outcome {
        Ok(result) => {
            memory.end();
            Ok(Ok(result))
        }
        Err(failed) => {
            memory.leave();
            // The error that goes on may stand in that memory, which then goes with its parent.
            let message = failed.message_unless_cancelled()?;
            memory.end();
            Ok(Err(message))
        }
    }
}

/// The same for those who sort errors out by themselves: those that come out of `work` go on.
pub fn tried<T: 'static>(work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let (memory, outcome) = rolled_back(work);
    match outcome {
        Ok(result) => {
            memory.end();
            Ok(result)
        }
        Err(failed) => {
            memory.leave();
            Err(failed.again())
        }
    }
}

fn rolled_back<T>(work: impl FnOnce() -> Outcome<T>) -> (Memory, Result<T, Failed>) {
    let memory = Memory::start();
    // SAFETY: a global of the backend.
    let owner = unsafe { pg_sys::CurrentResourceOwner };
    // SAFETY: rolled back below, whatever comes of the work.
    unsafe { pg_sys::BeginInternalSubTransaction(std::ptr::null()) };
    memory.enter();
    let outcome = attempt(work);
    // SAFETY: the subtransaction from above; what the work began inside is gone with it.
    unsafe { pg_sys::RollbackAndReleaseCurrentSubTransaction() };
    // SAFETY: what was there before; a rollback leaves the parent's own owner.
    unsafe { pg_sys::CurrentResourceOwner = owner };
    (memory, outcome)
}

/// A memory context of its own.
struct Memory {
    outer: pg_sys::MemoryContext,
    inner: pg_sys::MemoryContext,
}

impl Memory {
    fn start() -> Self {
        // SAFETY: a global of the backend.
        let outer = unsafe { pg_sys::CurrentMemoryContext };
        // SAFETY: deleted by `end`, or with its parent.
        let inner = unsafe {
            pg_sys::AllocSetContextCreateInternal(
                outer,
                c"pg_cache attempt".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        };
        Self { outer, inner }
    }

    fn enter(&self) {
        // SAFETY: a live context.
        unsafe { pg_sys::MemoryContextSwitchTo(self.inner) };
    }

    fn leave(&self) {
        // SAFETY: the context that the caller was in.
        unsafe { pg_sys::MemoryContextSwitchTo(self.outer) };
    }

    fn end(self) {
        self.leave();
        // SAFETY: nobody is in it, and nothing points into it.
        unsafe { pg_sys::MemoryContextDelete(self.inner) };
    }
}
