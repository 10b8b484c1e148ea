//! Counts changes of what a query's meaning hangs on beside the objects that it names.
//!
//! PostgreSQL throws a saved plan away when an object in it changes, not when another object comes
//! to stand before it: a table of that name in an earlier schema, a better matching function. Nor
//! does it when a role gains a membership that a row security policy asks for. Each such change
//! moves this counter, and a plan that saw another count is analysed anew. The count moves for
//! unrelated objects too: that costs an analysis, never a stale meaning.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::c_int;

use pgrx::pg_sys::SysCacheIdentifier as Cache;
use pgrx::{pg_guard, pg_sys};

thread_local! {
    static CHANGES: Cell<u64> = const { Cell::new(0) };
    /// Partitions and inheritance children, whose triggers a plan was told of.
    static RELATIONS: RefCell<Option<HashSet<pg_sys::Oid>>> = const { RefCell::new(None) };
    /// Partitioned tables that a plan reads.
    static PARTITIONED: RefCell<Option<HashSet<pg_sys::Oid>>> = const { RefCell::new(None) };
}

/// Names of relations, their attributes, functions, operators and types; casts, collations and enum
/// labels; roles and their memberships; event triggers, by which schema changes are noted.
const WATCHED: [Cache::Type; 12] = [
    // Its owner is the member of pg_database_owner.
    Cache::DATABASEOID,
    Cache::RELNAMENSP,
    Cache::ATTNUM,
    Cache::PROCNAMEARGSNSP,
    Cache::OPERNAMENSP,
    Cache::TYPENAMENSP,
    Cache::CASTSOURCETARGET,
    Cache::COLLNAMEENCNSP,
    Cache::ENUMTYPOIDNAME,
    Cache::AUTHOID,
    Cache::AUTHMEMROLEMEM,
    Cache::EVENTTRIGGEROID,
];

/// Listens. Once per backend.
pub fn watch() {
    for cache in WATCHED {
        let nothing = pg_sys::Datum::from(0usize);
        // SAFETY: the callback lives as long as the library, which is never unloaded.
        unsafe { pg_sys::CacheRegisterSyscacheCallback(cache as c_int, Some(changed), nothing) };
    }
    let nothing = pg_sys::Datum::from(0usize);
    // SAFETY: as above.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), nothing) };
}

/// Counts changes of this relation too: a saved plan hangs on the relations that it names, not on
/// their children.
pub fn watch_relation(relation: pg_sys::Oid) {
    RELATIONS.with_borrow_mut(|watched| watched.get_or_insert_default().insert(relation));
}

/// Has the partitions of this table looked up anew whenever the schema may have changed.
pub fn watch_partitions(relation: pg_sys::Oid) {
    PARTITIONED.with_borrow_mut(|watched| watched.get_or_insert_default().insert(relation));
}

#[pg_guard]
extern "C-unwind" fn relation_changed(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let watched = RELATIONS.with_borrow(|watched| {
        watched
            .as_ref()
            .is_some_and(|watched| relation == pg_sys::InvalidOid || watched.contains(&relation))
    });
    CHANGES.set(CHANGES.get() + u64::from(watched));
}

#[pg_guard]
extern "C-unwind" fn changed(_argument: pg_sys::Datum, _cache: c_int, _hash: u32) {
    CHANGES.set(CHANGES.get() + 1);
}

/// The count, after catching up with what others committed, as the start of a statement that takes
/// locks would.
pub fn catch_up() -> u64 {
    // SAFETY: processes pending invalidation messages; none of ours is held over it.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    CHANGES.get()
}

/// The count as it is.
pub fn seen() -> u64 {
    CHANGES.get()
}

/// Catches up, and counts a change of everything: each kept plan is analysed anew.
///
/// A backend that looks up the partitions of a table while the message of an ATTACH or DETACH
/// arrives can keep the list that it was making, until the next message about that table: it then
/// answers without the new partition's rows, in all its transactions, where others show them (seen
/// in PostgreSQL 15 by itself). What such a backend stored, others would be served. So here, where
/// all messages have arrived, the lists are forgotten.
pub fn renew() {
    catch_up();
    CHANGES.set(CHANGES.get() + 1);
    let partitioned = PARTITIONED.with_borrow(|watched| watched.clone().unwrap_or_default());
    partitioned.into_iter().for_each(forget);
}

/// As if a message had come that this relation changed.
fn forget(relation: pg_sys::Oid) {
    let message = pg_sys::SharedInvalRelcacheMsg {
        id: pg_sys::SHAREDINVALRELCACHE_ID as i8,
        // SAFETY: a global of the backend.
        dbId: unsafe { pg_sys::MyDatabaseId },
        relId: relation,
    };
    let mut message = pg_sys::SharedInvalidationMessage { rc: message };
    // SAFETY: in a transaction; a message of this kind, which is only read.
    unsafe { pg_sys::LocalExecuteInvalidationMessage(&raw mut message) };
}
