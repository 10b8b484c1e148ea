//! Owes keys in the place of transactions that are over.
//!
//! What was left in shared memory is written down as debts, before Redis is asked for anything:
//! from then on it survives whatever may come, and is paid as all debts are.

use pg_cache_core::debt::{Debt, Ledger};
use pg_cache_core::lost::Found;
use pg_cache_core::tag::Tag;

use crate::pg::error::Outcome;
use crate::pg::transaction::{self, End};
use crate::pg::{identity, shmem};
use crate::registry;

/// Whether anybody has left any.
pub fn is_any() -> bool {
    shmem::shared().is_some_and(|shared| shared.lost.is_any_of(identity::database()))
}

/// What was left.
pub fn left() -> Vec<Found> {
    shmem::shared().map(|shared| shared.lost.of(identity::database())).unwrap_or_default()
}

/// Somebody else has it, or nobody needs it.
pub fn forget(left: &[Found]) {
    shmem::shared().inspect(|shared| shared.lost.forget(left));
}

/// Writes down what was left; later, if somebody has the table now.
pub fn adopt() -> Outcome<()> {
    let left = left();
    let named = left.iter().map(|found| Debt {
        tag: Tag::key(&found.key),
        key: Some(&found.key),
        yields: false,
    });
    let debts = Ledger::default().enter(1, named.collect(), false);
    let is_written = transaction::run(|| {
        let xid = transaction::top_xid();
        if !registry::debts::lock() {
            return Ok(End::Abort(false));
        }
        registry::debts::write(xid, &debts)?;
        Ok(End::Commit(true))
    })?;
    if is_written {
        forget(&left);
    }
    Ok(())
}
