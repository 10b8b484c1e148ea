//! Owns the locks that the protocol is built on: who is the worker, and who writes right now.
//!
//! Invariant: at most one process holds a database's worker lock, of a class that SQL cannot take;
//! and whoever is about to bump holds RowExclusiveLock on `redis_server`. Were a writer overlooked
//! here, it could commit what no list and no debt tells of.

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pgrx::pg_sys;

use super::host::Holdoffs;

/// Tell these locks from any other of their class: "pgca", "pgcb".
const WORKER_LOCK: u32 = 0x7067_6361;
const WAITER_LOCK: u32 = 0x7067_6362;

const EXCLUSIVE: c_int = pg_sys::ExclusiveLock as c_int;

/// Of one who only looks: two who look at once do not take each other for a worker.
const LOOK: c_int = pg_sys::ShareLock as c_int;

fn role_lock(role: u32, database: u32) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        locktag_field1: database,
        locktag_field2: role,
        locktag_field3: 0,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_USERLOCK as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

fn worker_lock() -> pg_sys::LOCKTAG {
    // SAFETY: a global of the backend.
    role_lock(WORKER_LOCK, unsafe { pg_sys::MyDatabaseId }.to_u32())
}

/// Whether somebody wants our database for himself: DROP DATABASE, CREATE DATABASE from it as a
/// template, a new name. They hold a lock that no session could start against, and wait five
/// seconds at most for those who are there to go.
pub fn is_database_wanted() -> bool {
    const MODE: c_int = pg_sys::RowExclusiveLock as c_int;
    let tag = pg_sys::LOCKTAG {
        locktag_field1: 0,
        locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
        // SAFETY: a global of the backend.
        locktag_field3: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    // SAFETY: a session's lock, not a transaction's; does not wait.
    let result = unsafe { pg_sys::LockAcquire(&raw const tag, MODE, true, true) };
    if result == pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL {
        return true;
    }
    // SAFETY: just taken.
    unsafe { pg_sys::LockRelease(&raw const tag, MODE, true) };
    false
}

/// Takes a lock until the process ends or gives it back; false if another process has it.
fn take(tag: &pg_sys::LOCKTAG, mode: c_int) -> bool {
    // SAFETY: a session's lock, not a transaction's; does not wait.
    let result = unsafe { pg_sys::LockAcquire(std::ptr::from_ref(tag), mode, true, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

fn give_back(tag: &pg_sys::LOCKTAG, mode: c_int) {
    // SAFETY: taken by `take`.
    unsafe { pg_sys::LockRelease(std::ptr::from_ref(tag), mode, true) };
}

/// Whether another process has it. Whoever wants it while we look does not get it.
fn is_held(tag: &pg_sys::LOCKTAG) -> bool {
    let is_free = take(tag, LOOK);
    if is_free {
        give_back(tag, LOOK);
    }
    !is_free
}

/// Takes this database's worker lock; false if another process has it.
pub fn become_worker() -> bool {
    take(&worker_lock(), EXCLUSIVE)
}

pub fn resign() {
    give_back(&worker_lock(), EXCLUSIVE);
}

/// Takes the lock of the one who waits on behalf of a database. Its process has none, so nobody
/// else lets go of a session's locks when it ends: the lock would stay until the server restarts.
pub fn become_waiter(database: u32) -> bool {
    let nothing = pg_sys::Datum::from(0usize);
    // SAFETY: the callback lives as long as the library, which is never unloaded.
    unsafe { pg_sys::before_shmem_exit(Some(let_go_of_all), nothing) };
    take(&role_lock(WAITER_LOCK, database), EXCLUSIVE)
}

/// Gives it back before its process ends.
pub fn stop_waiting(database: u32) {
    give_back(&role_lock(WAITER_LOCK, database), EXCLUSIVE);
}

unsafe extern "C-unwind" fn let_go_of_all(_code: c_int, _nothing: pg_sys::Datum) {
    // SAFETY: of this process, which ends.
    unsafe { pg_sys::LockReleaseAll(pg_sys::USER_LOCKMETHOD as u16, true) };
}

/// Whether somebody waits already.
pub fn is_waited_for(database: u32) -> bool {
    is_held(&role_lock(WAITER_LOCK, database))
}

/// Whether some process is the worker of this database. Never raises: without an answer, no.
pub fn is_running() -> bool {
    is_taken(worker_lock())
}

/// The same of any database.
pub fn is_running_in(database: u32) -> bool {
    is_taken(role_lock(WORKER_LOCK, database))
}

fn is_taken(lock: pg_sys::LOCKTAG) -> bool {
    let held = Holdoffs::now();
    catch_unwind(AssertUnwindSafe(|| is_held(&lock))).unwrap_or_else(|_| {
        held.restore();
        false
    })
}

/// A transaction that holds a lock: its process, and its number there.
pub type Holder = (c_int, u32);

#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
unsafe extern "C-unwind" {
    // Not among pgrx's bindings; does not raise.
    #[link_name = "BackendIdGetProc"]
    fn process_of(process: c_int) -> *mut pg_sys::PGPROC;
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
use pg_sys::ProcNumberGetProc as process_of;

/// The transactions that hold RowExclusiveLock or more on the relation and are not over.
///
/// Prepared transactions are left out: they bumped and owe already, and may stay for ever. Such a
/// one still bears the number that it had in its process, which meanwhile has another or none.
pub fn holders(relation: pg_sys::Oid) -> Vec<Holder> {
    let mut found = all_holders(relation, SHARE);
    found.retain(is_running_there);
    found
}

/// Whether any transaction holds such a lock, prepared ones among them.
pub fn is_held_for_writing(relation: pg_sys::Oid) -> bool {
    !all_holders(relation, SHARE).is_empty()
}

/// Whether any other transaction holds a lock on the relation, whatever it does there. The very try
/// to lock it for oneself alone takes an id, and writes to the log, whatever comes of it.
pub fn is_used(relation: pg_sys::Oid) -> bool {
    !all_holders(relation, ACCESS_EXCLUSIVE).is_empty()
}

const SHARE: c_int = pg_sys::ShareLock as c_int;
const ACCESS_EXCLUSIVE: c_int = pg_sys::AccessExclusiveLock as c_int;

/// Those whose locks are in the way of one in this mode.
fn all_holders(relation: pg_sys::Oid, mode: c_int) -> Vec<Holder> {
    let tag = pg_sys::LOCKTAG {
        // SAFETY: a global of the backend.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: relation.to_u32(),
        locktag_field3: 0,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    let mut count = 0;
    // SAFETY: a palloc'ed array of `count` members, of locks other than our own.
    let conflicts = unsafe { pg_sys::GetLockConflicts(&raw const tag, mode, &raw mut count) };
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: as above.
    let found = unsafe { std::slice::from_raw_parts(conflicts, count) };
    let holders = found.iter().map(holder).collect();
    // SAFETY: palloc'ed by the call above.
    unsafe { pg_sys::pfree(conflicts.cast()) };
    holders
}

fn is_running_there(holder: &Holder) -> bool {
    let (process, number) = *holder;
    if process < 0 {
        // Prepared before the last restart of the server.
        return false;
    }
    // SAFETY: a slot in shared memory, or NULL if no process has it.
    let slot = unsafe { process_of(process) };
    // SAFETY: as above; whoever has the slot by now, the memory stays.
    !slot.is_null() && number_in(unsafe { &*slot }) == number
}

#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
fn number_in(slot: &pg_sys::PGPROC) -> u32 {
    slot.lxid
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn number_in(slot: &pg_sys::PGPROC) -> u32 {
    slot.vxid.lxid
}

#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
fn holder(id: &pg_sys::VirtualTransactionId) -> Holder {
    (id.backendId, id.localTransactionId)
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn holder(id: &pg_sys::VirtualTransactionId) -> Holder {
    (id.procNumber, id.localTransactionId)
}
