//! What a pass goes by: the registry and the debts as PostgreSQL has them at this moment, and
//! whether Redis is the server that was registered.
//!
//! Invariant: nothing of it outlives the pass. By what was read in another one, debts would be paid
//! to a server that is not registered any more.

use std::rc::Rc;

use crate::client::failure::Failure;
use crate::client::making::made;
use crate::client::server::Server;
use crate::connection;
use crate::pg::error::Outcome;
use crate::pg::snapshot::Fresh;
use crate::pg::transaction::{self, End};
use crate::registry::{self, Home, Registration};

/// What PostgreSQL says.
pub struct Look {
    pub registration: Option<Rc<Registration>>,
    pub owes: bool,
    /// Paid debts take much of it.
    pub has_room_to_give: bool,
}

/// The registration, if this very server was registered and has its table.
pub fn usable(look: &Look, server: &Server) -> Result<Option<Rc<Registration>>, Failure> {
    let Some(registration) = &look.registration else { return Ok(None) };
    if registration.server != server.identity() || registration.home.is_outmoded() {
        return Ok(None);
    }
    if registration.home == Home::Memory {
        return Ok(Some(registration.clone()));
    }
    let found = connection::ask(|session| Ok(made(session, &registration.table)?))?;
    Ok(found.is_of(registration.generation).then(|| registration.clone()))
}

/// Reads the registry in a transaction of its own, without an id; `None` if there is none.
pub fn look() -> Outcome<Option<Look>> {
    transaction::run(|| {
        // Needs a transaction to find out the database's name.
        connection::introduce();
        if !registry::is_installed() {
            return Ok(End::Commit(None));
        }
        let fresh = Fresh::push();
        let look = Look {
            registration: registry::usable(&fresh.snapshot).ok(),
            owes: registry::debts::is_any(&fresh.snapshot),
            has_room_to_give: registry::debts::are_worth_shrinking(),
        };
        Ok(End::Commit(Some(look)))
    })
}
