//! Transactions of the worker's own, and the one with which it makes a base.
//!
//! Invariant: between two of them the worker has neither a snapshot nor a transaction id, so it
//! holds back neither VACUUM nor anybody who waits for old snapshots. An error leaves the
//! transaction open on purpose: it ends the process, whose exit aborts it.

use pgrx::pg_sys;

use super::error::{self, Outcome};

/// How a transaction ends.
pub enum End<T> {
    Commit(T),
    Abort(T),
}

/// Runs one transaction with an active snapshot.
pub fn run<T>(body: impl FnOnce() -> Outcome<End<T>>) -> Outcome<T> {
    begin();
    // SAFETY: in a transaction; the first snapshot of READ COMMITTED.
    let snapshot = unsafe { pg_sys::GetTransactionSnapshot() };
    // SAFETY: copied, and popped below or by the abort.
    unsafe { pg_sys::PushActiveSnapshot(snapshot) };
    let (result, commits) = match body()? {
        End::Commit(result) => (result, true),
        End::Abort(result) => (result, false),
    };
    if commits {
        // SAFETY: pushed above.
        unsafe { pg_sys::PopActiveSnapshot() };
        // SAFETY: begun above.
        unsafe { pg_sys::CommitTransactionCommand() };
    } else {
        // SAFETY: begun above; drops the snapshot too.
        unsafe { pg_sys::AbortCurrentTransaction() };
    }
    // SAFETY: between two transactions; sends what the statistics collector should know.
    unsafe { pg_sys::pgstat_report_stat(true) };
    Ok(result)
}

/// The same for work that can be done without: an error undoes it, and comes as its message.
pub fn tried<T>(body: impl FnOnce() -> Outcome<End<T>>) -> Outcome<Result<T, String>> {
    match error::attempt(|| run(body)) {
        Ok(result) => Ok(Ok(result)),
        Err(failed) => {
            let message = failed.message_unless_cancelled()?;
            // SAFETY: begun by `run`, and open after an error.
            unsafe { pg_sys::AbortCurrentTransaction() };
            Ok(Err(message))
        }
    }
}

/// Commits an empty transaction that has an id, and returns the id.
pub fn empty() -> u64 {
    begin();
    let xid = top_xid();
    // SAFETY: begun above.
    unsafe { pg_sys::CommitTransactionCommand() };
    xid
}

fn begin() {
    // SAFETY: now() of the transaction is this moment.
    unsafe { pg_sys::SetCurrentStatementStartTimestamp() };
    // SAFETY: outside of any transaction.
    unsafe { pg_sys::StartTransactionCommand() };
}

/// The id of the transaction at hand, assigned if it has none.
pub fn top_xid() -> u64 {
    // SAFETY: in a transaction of a primary.
    unsafe { pg_sys::GetTopFullTransactionId() }.value
}
