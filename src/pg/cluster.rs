//! Which history of which cluster this is: recovery and timeline.

use pgrx::pg_sys;

/// Whether this is a standby, or a server that is still being recovered.
pub fn in_recovery() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// The timeline that a primary writes to now. The control file shows the old one for a while after
/// a promotion.
#[cfg(not(feature = "pg14"))]
pub fn timeline() -> u32 {
    // SAFETY: reads shared memory; only asked on a primary.
    unsafe { pg_sys::GetWALInsertionTimeLine() }
}

#[cfg(feature = "pg14")]
pub fn timeline() -> u32 {
    // Sets the variable once recovery is over; it never changes after that.
    in_recovery();
    // SAFETY: a global of the backend.
    unsafe { pg_sys::ThisTimeLineID }
}
