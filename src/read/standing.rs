//! What the registry says to a reader, remembered for as long as nothing can have changed it.
//!
//! Two small scans are a third of a hit's own work, and find the same nearly every time. A table
//! holds the same rows for the same snapshot until some transaction ends, and PostgreSQL counts
//! those that do: it keeps its own snapshots by the same argument.
//!
//! Invariant: what is remembered was read after the count that it is remembered with. Had it been
//! read before, a registration or a debt that came between would be overlooked for good. What hangs
//! on more than tables, a promotion say, is asked each time.

use std::cell::RefCell;
use std::rc::Rc;

use pg_cache_core::reason::Reason;

use crate::pg::host;
use crate::pg::snapshot::{self, Contents, Snapshot};
use crate::registry::{self, Registration};

pub struct Standing {
    pub registration: Rc<Registration>,
    /// Whether it is known that nobody owes anything.
    pub is_free_of_debts: bool,
}

/// Of a database without debts.
struct Known {
    ended: u64,
    snapshot: Contents,
    registration: Rc<Registration>,
}

thread_local! {
    static KNOWN: RefCell<Option<Known>> = const { RefCell::new(None) };
}

/// What counts under the snapshot, if a reader may use it.
pub fn of(snapshot: &Snapshot) -> Result<Standing, Reason> {
    let standing = match known(snapshot) {
        Some(registration) => Standing { registration, is_free_of_debts: true },
        None => look(snapshot)?,
    };
    registry::check_reach(snapshot, &standing.registration)?;
    Ok(standing)
}

fn known(snapshot: &Snapshot) -> Option<Rc<Registration>> {
    let holds = |known: &&Known| {
        let is_settled = known.ended == snapshot::ended() && snapshot.is(&known.snapshot);
        is_settled || host::skips("guard.standing")
    };
    KNOWN.with_borrow(|known| Some(known.as_ref().filter(holds)?.registration.clone()))
}

fn look(snapshot: &Snapshot) -> Result<Standing, Reason> {
    let ended = snapshot::ended();
    let registration = registry::standing(snapshot)?;
    let is_free_of_debts = registry::debts::is_free(snapshot);
    let known = is_free_of_debts.then(|| {
        let (snapshot, registration) = (snapshot.contents(), registration.clone());
        Known { ended, snapshot, registration }
    });
    KNOWN.set(known);
    Ok(Standing { registration, is_free_of_debts })
}
