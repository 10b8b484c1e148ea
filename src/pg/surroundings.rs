//! Counts changes of what a query's meaning hangs on beside the objects that it names.
//!
//! PostgreSQL throws a saved plan away when an object in it changes, not when another object comes
//! to stand before it: a table of that name in an earlier schema, a better matching function. Nor
//! does it when a role gains a membership that a row security policy asks for. Each such change
//! moves this counter, and a plan that saw another count is analysed anew. The count moves for
//! unrelated objects too: that costs an analysis, never a stale meaning.

use std::cell::Cell;
use std::ffi::c_int;

use pgrx::pg_sys::SysCacheIdentifier as Cache;
use pgrx::{pg_guard, pg_sys};

thread_local! {
    static CHANGES: Cell<u64> = const { Cell::new(0) };
}

/// Names of relations, their attributes, functions, operators and types; casts, collations and enum
/// labels; roles and their memberships.
const WATCHED: [Cache::Type; 11] = [
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
];

/// Listens. Once per backend.
pub fn watch() {
    for cache in WATCHED {
        let nothing = pg_sys::Datum::from(0usize);
        // SAFETY: the callback lives as long as the library, which is never unloaded.
        unsafe { pg_sys::CacheRegisterSyscacheCallback(cache as c_int, Some(changed), nothing) };
    }
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
pub fn renew() {
    catch_up();
    CHANGES.set(CHANGES.get() + 1);
}
