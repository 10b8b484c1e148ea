//! Keys beyond `pg_cache.pending_keys_max`, settled in the middle of their transaction.
//!
//! The transaction stands in the lists and is not complete, so nothing can be filled again before
//! it ends: what is deleted stays deleted, and a bucket needs to be bumped but once. The lock on
//! `redis_server` is kept from the first delivery on, so a generation that is made meanwhile waits
//! for us. From the second delivery on the answer is taken at the next: Redis works while the
//! statement goes on. Whatever did not arrive makes the transaction owe everything at its end.

use std::collections::HashSet;
use std::rc::Rc;

use pg_cache_core::pending::{Owed, Pending};
use pg_cache_core::tag::Bucket;

use crate::client::failure::Failure;
use crate::client::scripts::Settlement;
use crate::pg::error::Outcome;
use crate::pg::snapshot::Fresh;
use crate::pg::xact;
use crate::registry::{self, Registration};
use crate::{connection, stats};

use super::delivery::{self, Delivery};
use super::{Deadline, TRANSACTION};

/// Once it has begun, it goes on in steps that fit into the socket's buffer.
const STEP_KEYS: usize = 1000;

#[derive(Default)]
pub struct Early {
    generation: u128,
    /// Buckets that list this transaction.
    bumped: HashSet<Bucket>,
    posted: Option<Posted>,
}

/// A delivery that was sent and is not yet known to have arrived.
struct Posted {
    registration: Rc<Registration>,
    is_former: bool,
    settlement: Settlement,
    ticket: u64,
    buckets: Vec<Bucket>,
}

/// Whether enough has come together for the next step, if there was a first.
pub fn is_due(keys: usize) -> bool {
    keys >= STEP_KEYS && TRANSACTION.with_borrow(|transaction| transaction.early.is_some())
}

/// Settles the keys that are pending now.
pub fn settle() -> Outcome<()> {
    let Some(xid) = xact::xid() else { return Ok(()) };
    // Until it is done nobody else knows of these keys: an error or a cancel that is caught in a
    // savepoint leaves the transaction owing everything.
    let (keys, early, was_coarse) = TRANSACTION.with_borrow_mut(|transaction| {
        let keys = transaction.pending.as_mut().map(Pending::take_keys).unwrap_or_default();
        let keys = transaction.stored.take_with(Owed { tags: Vec::new(), keys }).owed.keys;
        let was_coarse = std::mem::replace(&mut transaction.coarse, true);
        (keys, transaction.early.take(), was_coarse)
    });
    let deadline = Deadline::start();
    let is_locked =
        xact::with_lasting_locks(|| super::lock(&deadline, registry::lock_for_writing))?;
    let fresh = Fresh::push();
    let is_first = early.is_none();
    let mut early = early.unwrap_or_default();
    let mut is_former = false;
    let settled = match super::registration(&fresh, is_locked) {
        Ok(Some(found)) => {
            // Whatever became of the last step, these keys are to be deleted: programs that read
            // Redis see no debts.
            let collected = early.collect(&deadline);
            let delivery = Delivery::new(&found, &fresh.snapshot, xid, &deadline);
            is_former = delivery.is_former;
            collected.and(early.deliver(&found, &delivery, keys, is_first))
        }
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    TRANSACTION.with_borrow_mut(|transaction| {
        transaction.early = Some(early);
        transaction.coarse = was_coarse || is_former || settled.is_err();
    });
    told(settled)
}

/// Before the commit: whether something did not arrive.
pub fn finish(deadline: &Deadline) -> Outcome<bool> {
    let early = TRANSACTION.with_borrow_mut(|transaction| transaction.early.take());
    let Some(mut early) = early else { return Ok(false) };
    let collected = early.collect(deadline);
    let failed = collected.is_err();
    TRANSACTION.with_borrow_mut(|transaction| transaction.early = Some(early));
    told(collected)?;
    Ok(failed)
}

fn told(settled: Result<(), Failure>) -> Outcome<()> {
    if let Err(failure) = settled {
        super::refuse_if_asked(&failure)?;
        connection::warn_unsettled(&failure);
    }
    Ok(())
}

impl Early {
    fn deliver(
        &mut self,
        registration: &Rc<Registration>,
        delivery: &Delivery<'_>,
        keys: Vec<Box<[u8]>>,
        is_first: bool,
    ) -> Result<(), Failure> {
        if self.generation != registration.generation {
            self.generation = registration.generation;
            self.bumped.clear();
        }
        let owed = Owed { tags: Vec::new(), keys };
        let mut buckets = delivery::buckets_of(registration, &owed);
        buckets.retain(|bucket| !self.bumped.contains(bucket));
        stats::settled_early();
        if is_first {
            // Waits for the answer: it teaches the server the script.
            delivery.settle(&buckets, &owed.keys, &[])?;
            self.bumped.extend(buckets);
            return Ok(());
        }
        let (settlement, ticket) = delivery.post(&buckets, &owed.keys)?;
        stats::delivered(true, buckets.len(), owed.keys.len(), 0);
        let (registration, is_former) = (registration.clone(), delivery.is_former);
        self.posted = Some(Posted { registration, is_former, settlement, ticket, buckets });
        Ok(())
    }

    /// Takes the answer to the last post.
    fn collect(&mut self, deadline: &Deadline) -> Result<(), Failure> {
        let Some(posted) = self.posted.take() else { return Ok(()) };
        let Posted { registration, is_former, settlement, ticket, buckets } = posted;
        let collected = connection::ask_within(deadline.left(), |session| {
            let found = settlement.collect(session, ticket)?;
            registration.check_told(session.server(), &found, is_former)
        });
        match &collected {
            Ok(()) => self.bumped.extend(buckets),
            Err(_) => stats::delivered(false, 0, 0, 0),
        }
        collected
    }
}
