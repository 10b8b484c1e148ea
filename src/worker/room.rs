//! Gives the room back that rows took which are gone: paid debts, delivered events.
//!
//! Invariant: it comes last in a pass, and a worker to whom it is refused (a foreign key, a hook, a
//! full disk) goes on and does not try again. Otherwise each worker would end there, and no debt be
//! paid and no event leave any more.

use crate::pg::error::{self, Outcome};
use crate::pg::transaction::{self, End};

/// Of one table.
#[derive(Default)]
pub struct Room {
    is_refused: bool,
}

impl Room {
    /// Truncates the table, if nothing is left in it and nobody is in the way.
    pub fn give_back(&mut self, table: &str, shrink: fn() -> Outcome<End<()>>) -> Outcome<()> {
        if self.is_refused {
            return Ok(());
        }
        if let Err(message) = transaction::tried(shrink)? {
            error::log(&format!("pg_cache worker: cannot truncate {table} ({message})"));
            self.is_refused = true;
        }
        Ok(())
    }
}
