//! What the transaction at hand allows.

use pg_cache_core::reason::Reason;
use pgrx::pg_sys;

/// Whether every statement of this transaction sees the snapshot of its first.
pub fn keeps_snapshot() -> bool {
    // SAFETY: a global of the backend, set at the start of the transaction.
    let isolation = unsafe { pg_sys::XactIsoLevel };
    isolation >= pg_sys::XACT_REPEATABLE_READ as i32
}

/// Why this transaction must compute for itself, if it must.
///
/// With a transaction id, own changes are visible before anything could be noted of them; under
/// SERIALIZABLE, a read that PostgreSQL does not see cannot be part of a conflict.
pub fn obstacle() -> Option<Reason> {
    // SAFETY: reads the state of the current transaction; assigns nothing.
    let xid = unsafe { pg_sys::GetTopTransactionIdIfAny() };
    if xid != pg_sys::InvalidTransactionId {
        return Some(Reason::OwnXid);
    }
    // SAFETY: a global of the backend, set at the start of the transaction.
    let isolation = unsafe { pg_sys::XactIsoLevel };
    (isolation == pg_sys::XACT_SERIALIZABLE as i32).then_some(Reason::Serializable)
}

/// Gives the transaction its id. Raises where it may not write, in the name of `what`.
pub fn assign_xid(what: &std::ffi::CStr) {
    // SAFETY: a C string; raises or returns.
    unsafe { pg_sys::PreventCommandIfReadOnly(what.as_ptr()) };
    // SAFETY: in a transaction that may write.
    unsafe { pg_sys::GetTopTransactionId() };
}
