//! Functions of PostgreSQL that read what this backend knows, called as they are.
//!
//! pgrx sets a jump point before each call, which costs more than the functions below do, and a hit
//! calls nearly all of them. Invariant: none can raise an error, in any version that is supported;
//! one that did would jump over Rust's frames.

use pgrx::pg_sys;

unsafe extern "C" {
    pub safe fn GetUserId() -> pg_sys::Oid;
    pub safe fn GetSessionUserId() -> pg_sys::Oid;
    /// Of the calling statement; there must be one.
    pub safe fn GetActiveSnapshot() -> pg_sys::Snapshot;
    /// Assigns nothing.
    pub safe fn GetTopTransactionIdIfAny() -> pg_sys::TransactionId;
    /// As above, in 64 bits.
    pub safe fn GetTopFullTransactionIdIfAny() -> pg_sys::FullTransactionId;
    /// 1 at the top, one more for each savepoint.
    pub safe fn GetCurrentTransactionNestLevel() -> std::ffi::c_int;
    /// Not in recovery.
    #[cfg(not(feature = "pg14"))]
    pub safe fn GetWALInsertionTimeLine() -> pg_sys::TimeLineID;
}
