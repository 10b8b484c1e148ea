//! What is kept for each trigger.
//!
//! Invariant: it was made from the table's definition as it is now. The table is locked while its
//! triggers fire, so no message about it can come between the look at the count of changes and the
//! use of what is kept. If that broke, a row would be noted under a column's old place, or under
//! the root of a tree that it has left.

use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::rc::Rc;

use pgrx::{pg_guard, pg_sys};

use super::Fired;
use crate::pg::error::Outcome;

thread_local! {
    static CHANGES: Cell<u64> = const { Cell::new(0) };
}

/// What else a table's rows are written by: the schema's name, casts to JSON and their functions.
const WATCHED: [pg_sys::SysCacheIdentifier::Type; 3] = [
    pg_sys::SysCacheIdentifier::NAMESPACEOID,
    pg_sys::SysCacheIdentifier::CASTSOURCETARGET,
    pg_sys::SysCacheIdentifier::PROCOID,
];

/// Counts changes of tables' definitions. Once per backend.
pub fn watch() {
    let nothing = pg_sys::Datum::from(0usize);
    // SAFETY: the callback lives as long as the library, which is never unloaded.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(changed), nothing) };
    for cache in WATCHED {
        // SAFETY: as above.
        unsafe { pg_sys::CacheRegisterSyscacheCallback(cache as c_int, Some(renamed), nothing) };
    }
}

#[pg_guard]
extern "C-unwind" fn renamed(_argument: pg_sys::Datum, _cache: c_int, _hash: u32) {
    CHANGES.set(CHANGES.get() + 1);
}

#[pg_guard]
extern "C-unwind" fn changed(_argument: pg_sys::Datum, _relation: pg_sys::Oid) {
    CHANGES.set(CHANGES.get() + 1);
}

/// How many changes of tables' definitions this backend has heard of.
pub fn changes() -> u64 {
    CHANGES.get()
}

/// What each trigger needs at every row, made when it first fires after a change of any table. Any:
/// what is made from one table's definition may hang on another's, the root's of its partitions.
pub struct Kept<T> {
    changes: Cell<u64>,
    /// The one that fired last stands last.
    of_triggers: RefCell<Vec<(pg_sys::Oid, Rc<T>)>>,
}

/// Statements fire the triggers of a few tables; more than this are made anew.
const KEPT_MAX: usize = 64;

impl<T> Kept<T> {
    pub const fn new() -> Self {
        Self { changes: Cell::new(0), of_triggers: RefCell::new(Vec::new()) }
    }

    pub fn get(
        &self,
        fired: Fired<'_>,
        make: impl FnOnce(Fired<'_>) -> Outcome<T>,
    ) -> Outcome<Rc<T>> {
        let trigger = fired.trigger().tgoid;
        if let Some(kept) = self.find(trigger) {
            return Ok(kept);
        }
        let seen = CHANGES.get();
        let made = Rc::new(make(fired)?);
        let mut of_triggers = self.of_triggers.borrow_mut();
        // Making it reads catalogues, and with them messages about changes.
        if seen == CHANGES.get() {
            if of_triggers.len() >= KEPT_MAX {
                of_triggers.clear();
            }
            of_triggers.push((trigger, Rc::clone(&made)));
        }
        Ok(made)
    }

    fn find(&self, trigger: pg_sys::Oid) -> Option<Rc<T>> {
        let mut of_triggers = self.of_triggers.borrow_mut();
        if self.changes.replace(CHANGES.get()) != CHANGES.get() {
            of_triggers.clear();
            return None;
        }
        let (last, kept) = of_triggers.last()?;
        if *last == trigger {
            return Some(Rc::clone(kept));
        }
        let place = of_triggers.iter().position(|(oid, _)| *oid == trigger)?;
        let end = of_triggers.len() - 1;
        of_triggers.swap(place, end);
        of_triggers.last().map(|(_, kept)| Rc::clone(kept))
    }
}
