//! Owns the locks that the protocol is built on: who is the worker, and who writes right now.
//!
//! Invariant: at most one process holds a database's worker lock, of a class that SQL cannot take;
//! and whoever is about to bump holds RowExclusiveLock on `redis_server`. Were a writer overlooked
//! here, it could commit what no list and no debt tells of.

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pgrx::pg_sys;

/// Tells this lock from any other of its class: "pgca".
const WORKER_LOCK: u32 = 0x7067_6361;

const EXCLUSIVE: c_int = pg_sys::ExclusiveLock as c_int;

/// The tables of the registry, in the order in which they are locked.
const TABLES: [&std::ffi::CStr; 3] = [c"redis_server", c"redis_alive", c"redis_debt"];

fn worker_lock() -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        // SAFETY: a global of the backend.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: WORKER_LOCK,
        locktag_field3: 0,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_USERLOCK as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

/// Takes this database's worker lock until the process ends or resigns; false if another has it.
pub fn become_worker() -> bool {
    let tag = worker_lock();
    // SAFETY: a session's lock, not a transaction's; does not wait.
    let result = unsafe { pg_sys::LockAcquire(&raw const tag, EXCLUSIVE, true, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

pub fn resign() {
    let tag = worker_lock();
    // SAFETY: taken by `become_worker`.
    unsafe { pg_sys::LockRelease(&raw const tag, EXCLUSIVE, true) };
}

/// Whether some process is the worker of this database. Never raises: without an answer, no.
pub fn is_running() -> bool {
    let look = || {
        let free = become_worker();
        if free {
            resign();
        }
        !free
    };
    catch_unwind(AssertUnwindSafe(look)).unwrap_or(false)
}

/// A transaction that holds a lock.
pub type Holder = (i32, u32);

/// Who holds RowExclusiveLock or more on the relation; prepared transactions excepted, which owe.
pub fn holders(relation: pg_sys::Oid) -> Vec<Holder> {
    let tag = pg_sys::LOCKTAG {
        // SAFETY: a global of the backend.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: relation.to_u32(),
        locktag_field3: 0,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    let (mode, mut count) = (pg_sys::ShareLock as c_int, 0);
    // SAFETY: a palloc'ed array of `count` members, of locks other than our own.
    let conflicts = unsafe { pg_sys::GetLockConflicts(&raw const tag, mode, &raw mut count) };
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: as above.
    let found = unsafe { std::slice::from_raw_parts(conflicts, count) };
    let holders = found.iter().map(holder).filter(|(process, _)| *process >= 0).collect();
    // SAFETY: palloc'ed by the call above.
    unsafe { pg_sys::pfree(conflicts.cast()) };
    holders
}

/// The process is negative for a prepared transaction.
#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
fn holder(id: &pg_sys::VirtualTransactionId) -> Holder {
    (id.backendId, id.localTransactionId)
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn holder(id: &pg_sys::VirtualTransactionId) -> Holder {
    (id.procNumber, id.localTransactionId)
}

/// What became of the attempt to lock the registry's tables.
pub enum Tables {
    /// Locked until the transaction ends; the oid of `redis_server`.
    Locked(pg_sys::Oid),
    /// Somebody rewrites or drops one of them.
    Busy,
    /// There are none.
    Missing,
}

/// Locks the tables as a reader or a writer would, without waiting: a worker that waits for DROP
/// EXTENSION with one of the tables in hand is a deadlock.
pub fn lock_tables(schema: &str, to_write: bool) -> Tables {
    let schema = super::text::statement(schema);
    // SAFETY: a catalogue look-up; InvalidOid if there is none.
    let namespace = unsafe { pg_sys::get_namespace_oid(schema.as_ptr(), true) };
    let mode = if to_write { pg_sys::RowExclusiveLock } else { pg_sys::AccessShareLock } as c_int;
    let mut server = pg_sys::InvalidOid;
    for table in TABLES {
        // SAFETY: a catalogue look-up.
        let find = || unsafe { pg_sys::get_relname_relid(table.as_ptr(), namespace) };
        let found = find();
        if found == pg_sys::InvalidOid {
            return Tables::Missing;
        }
        // SAFETY: kept until the transaction ends; catches up with what others committed.
        if !unsafe { pg_sys::ConditionalLockRelationOid(found, mode) } {
            return Tables::Busy;
        }
        if find() != found {
            return Tables::Busy;
        }
        if server == pg_sys::InvalidOid {
            server = found;
        }
    }
    Tables::Locked(server)
}
