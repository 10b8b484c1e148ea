//! Where the write-ahead log stands: on which timeline, how far flushed, how far replayed.

use std::cell::Cell;

use pgrx::pg_sys;

thread_local! {
    /// Whether this server is known to be one that writes: it stays one while any process lives.
    static IS_PRIMARY: Cell<bool> = const { Cell::new(false) };
}

/// Whether this server replays somebody else's log.
pub fn is_standby() -> bool {
    if !IS_PRIMARY.get() {
        // SAFETY: reads shared memory.
        IS_PRIMARY.set(!unsafe { pg_sys::RecoveryInProgress() });
    }
    !IS_PRIMARY.get()
}

/// The timeline of the transactions that a snapshot taken before this call can see: that of new
/// records on a primary, that of the last record replayed on a standby. (The control file lags.)
pub fn timeline() -> u64 {
    if is_standby() {
        let mut timeline = 0;
        // SAFETY: reads shared memory under its lock.
        unsafe { pg_sys::GetXLogReplayRecPtr(&raw mut timeline) };
        return u64::from(timeline);
    }
    insertion_timeline()
}

#[cfg(not(feature = "pg14"))]
fn insertion_timeline() -> u64 {
    u64::from(super::bare::GetWALInsertionTimeLine())
}

#[cfg(feature = "pg14")]
fn insertion_timeline() -> u64 {
    // SAFETY: a global that RecoveryInProgress has set when it found that recovery is over.
    u64::from(unsafe { pg_sys::ThisTimeLineID })
}

/// Makes sure that all that this backend has seen survives a crash: a commit is visible before it
/// is flushed when synchronous_commit is off, and neither an entry nor a message may outlive it. A
/// standby has nothing to flush: it sees only what its primary has flushed.
pub fn flush_seen() {
    if !is_standby() {
        let position = end();
        flush_to(position - header_before(position));
    }
}

/// Makes sure that this backend's last commit survives a crash: with synchronous_commit off it is
/// not flushed yet. Costs nothing if it is.
pub fn flush_commit() {
    // SAFETY: a variable of this process: the end of a record that was written, or nowhere.
    let position = unsafe { pg_sys::XactLastCommitEnd };
    if !is_standby() {
        flush_to(position);
    }
}

/// Waits until what lies before this position is on disk, of a server that writes.
fn flush_to(position: pg_sys::XLogRecPtr) {
    if position > flushed() {
        // SAFETY: a position that was handed out to somebody; waits until it is written.
        unsafe { pg_sys::XLogFlush(position) };
    }
}

/// The position may stand behind the header of a page that nobody has written yet, and then there
/// is nothing up to it to flush: XLogFlush would raise.
fn header_before(position: pg_sys::XLogRecPtr) -> u64 {
    let short = size_of::<pg_sys::XLogPageHeaderData>().next_multiple_of(8) as u64;
    let long = size_of::<pg_sys::XLogLongPageHeaderData>().next_multiple_of(8) as u64;
    // SAFETY: a constant of the cluster.
    let segment = u64::try_from(unsafe { pg_sys::wal_segment_size }).unwrap_or(1).max(1);
    if position % segment == long {
        long
    } else if position % u64::from(pg_sys::XLOG_BLCKSZ) == short {
        short
    } else {
        0
    }
}

/// Whether the log tells enough for others to decode changes from it.
pub fn is_logical() -> bool {
    // SAFETY: a setting, fixed while the server runs.
    let level = unsafe { pg_sys::wal_level };
    level >= pg_sys::WalLevel::WAL_LEVEL_LOGICAL as i32
}

/// The position behind the last record: it only grows, and whoever sees another's commit reads a
/// greater one than that one did before its commit record.
pub fn end() -> u64 {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::GetXLogInsertRecPtr() }
}

#[cfg(not(feature = "pg14"))]
fn flushed() -> pg_sys::XLogRecPtr {
    // SAFETY: reads shared memory; the timeline is not asked for.
    unsafe { pg_sys::GetFlushRecPtr(std::ptr::null_mut()) }
}

#[cfg(feature = "pg14")]
fn flushed() -> pg_sys::XLogRecPtr {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::GetFlushRecPtr() }
}

/// The end of the record that a standby replays now: once [`replayed`] has reached it, all that
/// was visible before is known to this backend's caches too.
#[cfg(not(feature = "pg14"))]
pub fn replaying() -> pg_sys::XLogRecPtr {
    // SAFETY: reads shared memory under its lock.
    unsafe { pg_sys::GetCurrentReplayRecPtr(std::ptr::null_mut()) }
}

/// 14 does not tell: anything beyond the last record is beyond the one being replayed.
#[cfg(feature = "pg14")]
pub fn replaying() -> pg_sys::XLogRecPtr {
    replayed() + 1
}

pub fn replayed() -> pg_sys::XLogRecPtr {
    // SAFETY: reads shared memory under its lock.
    unsafe { pg_sys::GetXLogReplayRecPtr(std::ptr::null_mut()) }
}
