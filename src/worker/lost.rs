//! Owes keys in the place of transactions that are over.
//!
//! What was left in shared memory is written down as debts, before Redis is asked for anything:
//! from then on it survives whatever may come, and is paid as all debts are.

use pg_cache_core::debt::{Debt, Ledger};
use pg_cache_core::tag::Tag;

use crate::pg::error::Outcome;
use crate::pg::transaction::{self, End};
use crate::pg::{identity, shmem};
use crate::{registry, stats};

/// Whether anybody has left any.
pub fn is_any() -> bool {
    let database = identity::database();
    let is_named = shmem::shared().is_some_and(|shared| shared.lost.is_any_of(database));
    is_named || stats::database().is_some_and(|database| database.has_lost_all() > 0)
}

/// Writes down what was left; later, if somebody has the table now.
pub fn adopt() -> Outcome<()> {
    let Some(shared) = shmem::shared().filter(|_| is_any()) else { return Ok(()) };
    let found = shared.lost.of(identity::database());
    let without_names = stats::database().map_or(0, |database| database.has_lost_all());
    let named = found.iter().map(|found| Debt {
        tag: Tag::key(&found.key),
        key: Some(&found.key),
        yields: false,
    });
    let debts = Ledger::default().enter(1, named.collect(), without_names > 0);
    let is_written = transaction::run(|| {
        let xid = transaction::top_xid();
        if !registry::lock_debts() {
            return Ok(End::Abort(false));
        }
        registry::owe(xid, &debts)?;
        Ok(End::Commit(true))
    })?;
    if is_written {
        shared.lost.forget(&found);
        stats::database().inspect(|database| database.found_all(without_names));
    }
    Ok(())
}
