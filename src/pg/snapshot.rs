//! Which transactions a snapshot sees as complete: what the whole protocol hangs on.
//!
//! Transaction ids in Redis are 64 bits wide, those in a snapshot 32. Both are compared as 64-bit
//! numbers: a snapshot's bounds are widened with a next id that is read after it was taken, and
//! lie within half a turn of it on both sides. If that were wrong, a writer of a former turn would
//! pass for one that is running, or a running one for a complete one.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::pg_sys;

use super::bare;

/// A snapshot that somebody else keeps alive: the active one, or one pushed by [`Fresh`].
#[derive(Clone, Copy)]
pub struct Snapshot {
    raw: pg_sys::Snapshot,
    xmin: u64,
    xmax: u64,
}

impl Snapshot {
    /// The snapshot of the calling statement.
    pub fn active() -> Self {
        // A function called from SQL, and a commit with `Fresh`, have one.
        Self::of(bare::GetActiveSnapshot())
    }

    fn of(raw: pg_sys::Snapshot) -> Self {
        let next = about_next_xid();
        // SAFETY: an active snapshot stays where it is until it is popped.
        let data = unsafe { &*raw };
        Self { raw, xmin: widen(data.xmin, next), xmax: widen(data.xmax, next) }
    }

    pub fn raw(&self) -> pg_sys::Snapshot {
        self.raw
    }

    /// Whether a transaction had ended, one way or the other, when the snapshot was taken.
    pub fn is_complete(&self, xid: u64) -> bool {
        if xid < self.xmin {
            return true;
        }
        if xid >= self.xmax {
            return false;
        }
        let narrow = pg_sys::TransactionId::from(xid as u32);
        // SAFETY: the snapshot is alive, and the id is between its bounds, so it was assigned.
        !unsafe { pg_sys::XidInMVCCSnapshot(narrow, self.raw) }
    }

    /// Whether all top-level transactions of a range had.
    pub fn are_complete(&self, range: RangeInclusive<u64>) -> bool {
        let is_past = *range.end() < self.xmin;
        let is_running = |xid: &u64| range.contains(xid);
        is_past || *range.end() < self.xmax && !self.in_progress().iter().any(is_running)
    }

    pub fn xmax(&self) -> u64 {
        self.xmax
    }

    /// The transactions below `xmax` that were running: without subtransactions, unless a standby
    /// took it, which may be none by now: such a snapshot does not tell them apart.
    pub fn in_progress(&self) -> Vec<u64> {
        let (running, running_below) = self.lists();
        let all_alike = if self.kind().1 { running_below } else { &[] };
        running.iter().chain(all_alike).map(|xid| widen(*xid, self.xmax)).collect()
    }
}

/// What a snapshot says of every transaction there was when it was taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Contents {
    bounds: (u64, u64),
    running: Vec<pg_sys::TransactionId>,
    running_below: Vec<pg_sys::TransactionId>,
    /// Whether some of the subtransactions are left out, and whether a standby took it, which
    /// lists the running ones elsewhere.
    kind: (bool, bool),
}

impl Snapshot {
    pub fn contents(&self) -> Contents {
        let (running, running_below) = self.lists();
        let (running, running_below) = (running.to_vec(), running_below.to_vec());
        Contents { bounds: (self.xmin, self.xmax), running, running_below, kind: self.kind() }
    }

    /// Whether these are its contents.
    pub fn is(&self, contents: &Contents) -> bool {
        contents.bounds == (self.xmin, self.xmax)
            && contents.kind == self.kind()
            && (&contents.running[..], &contents.running_below[..]) == self.lists()
    }

    fn kind(&self) -> (bool, bool) {
        // SAFETY: as in `of`.
        let data = unsafe { &*self.raw };
        (data.suboverflowed, data.takenDuringRecovery)
    }

    /// Who was running: transactions, and subtransactions.
    fn lists(&self) -> (&[pg_sys::TransactionId], &[pg_sys::TransactionId]) {
        // SAFETY: as in `of`.
        let data = unsafe { &*self.raw };
        // SAFETY: the array has xcnt members.
        let running = unsafe { ids(data.xip, data.xcnt as usize) };
        // SAFETY: the array has subxcnt members.
        let below = unsafe { ids(data.subxip, usize::try_from(data.subxcnt).unwrap_or(0)) };
        (running, below)
    }
}

/// An array of ids, which is nowhere if it is empty.
unsafe fn ids<'a>(
    first: *const pg_sys::TransactionId,
    count: usize,
) -> &'a [pg_sys::TransactionId] {
    match count {
        0 => &[],
        // SAFETY: promised by the caller.
        _ => unsafe { std::slice::from_raw_parts(first, count) },
    }
}

/// A snapshot of this very moment, active while it lives.
pub struct Fresh {
    pub snapshot: Snapshot,
}

impl Fresh {
    pub fn push() -> Self {
        // SAFETY: a new snapshot, whatever the transaction's own is.
        let latest = unsafe { pg_sys::GetLatestSnapshot() };
        // SAFETY: copied by PostgreSQL; popped when this value is dropped.
        unsafe { pg_sys::PushActiveSnapshot(latest) };
        Self { snapshot: Snapshot::active() }
    }
}

impl Fresh {
    /// None where PostgreSQL takes no new snapshots: while parallel workers run.
    pub fn try_push() -> Option<Self> {
        // SAFETY: reads the state of the current transaction.
        let is_parallel = unsafe { pg_sys::IsInParallelMode() };
        (!is_parallel).then(Self::push)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // An error has already taken PostgreSQL's own way out, or will: it pops what is left.
        if !std::thread::panicking() {
            // SAFETY: pushed above, and everything pushed since was popped.
            unsafe { pg_sys::PopActiveSnapshot() };
        }
    }
}

/// How many transactions with an id have ended, one way or the other, since the server was started.
/// PostgreSQL counts them to know whether its last snapshot is still the present one: while the
/// number stays the same, the tables hold the same rows for the same snapshot.
pub fn ended() -> u64 {
    // SAFETY: points into shared memory, which lives as long as we; no reference is made.
    let count = unsafe { &raw mut (*transam_variables()).xactCompletionCount };
    // SAFETY: an aligned number that only PostgreSQL writes, whole.
    unsafe { AtomicU64::from_ptr(count) }.load(Ordering::Acquire)
}

#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
fn transam_variables() -> pg_sys::VariableCache {
    // SAFETY: a global that is set before there are backends.
    unsafe { pg_sys::ShmemVariableCache }
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn transam_variables() -> *mut pg_sys::TransamVariablesData {
    // SAFETY: a global that is set before there are backends.
    unsafe { pg_sys::TransamVariables }
}

/// The next transaction id, as far as this server knows: a standby's lags behind its primary's.
pub fn next_xid() -> u64 {
    // SAFETY: reads shared memory under its lock.
    unsafe { pg_sys::ReadNextFullTransactionId() }.value
}

/// The same without the lock that whoever takes an id needs: every hit asks, and it need not be
/// exact to widen others by.
fn about_next_xid() -> u64 {
    // SAFETY: as in `ended`.
    let next = unsafe { &raw mut (*transam_variables()).nextXid.value };
    // SAFETY: as in `ended`.
    unsafe { AtomicU64::from_ptr(next) }.load(Ordering::Acquire)
}

/// The 64-bit id within half a turn of `near` whose lower half this is.
fn widen(xid: pg_sys::TransactionId, near: u64) -> u64 {
    let distance = xid.into_inner().wrapping_sub(near as u32) as i32;
    near.saturating_add_signed(i64::from(distance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_widen_to_the_nearest() {
        // Danger: after four thousand million transactions everything seems to run, or nothing.
        let turn = 1u64 << 32;
        let wide = |xid: u32, near| widen(pg_sys::TransactionId::from(xid), near);
        assert_eq!(wide(100, 105), 100);
        assert_eq!(wide(105, 100), 105);
        assert_eq!(wide(u32::MAX, turn + 5), turn - 1);
        assert_eq!(wide(7, turn + 5), turn + 7);
        assert_eq!(wide(7, turn - 2), turn + 7);
        assert_eq!(wide(3, 3), 3);
    }
}
