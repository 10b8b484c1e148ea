//! Keys beyond `pg_cache.pending_keys_max`, settled in the middle of their transaction.
//!
//! The transaction stands in the lists and is not complete, so nothing can be filled again before
//! it ends: what is deleted stays deleted, and a bucket needs to be bumped but once. The lock on
//! `redis_server` is kept from the first delivery on, so a generation that is made meanwhile waits
//! for us. From the second delivery on the answer is taken at the next: Redis works while the
//! statement goes on.
//!
//! Keys that did not arrive, as far as is known, are put back at the bottom of the stack: they are
//! settled at the end, or owed by name, whatever savepoint they were noted in. Then nothing more is
//! settled early until there are more than can be owed by name; what fails from there on makes the
//! transaction owe everything, without names.

use std::collections::HashSet;
use std::rc::Rc;

use pg_cache_core::debt::Owing;
use pg_cache_core::pending::{Owed, Pending};
use pg_cache_core::tag::Bucket;

use crate::client::failure::Failure;
use crate::client::scripts::Settlement;
use crate::pg::error::Outcome;
use crate::pg::snapshot::Fresh;
use crate::pg::{guc, host, xact};
use crate::registry::{self, Registration};
use crate::{connection, stats};

use super::delivery::{self, Delivery};
use super::{DEBTS_MAX, Deadline, GROUPS_MAX, TRANSACTION, Transaction, listing};

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

/// Whether enough has come together for the first step, or for the next one.
pub fn is_due(keys: usize) -> bool {
    let is_full = keys >= guc::pending_keys_max();
    if !is_full && keys < STEP_KEYS {
        return false;
    }
    TRANSACTION.with_borrow(|transaction| match transaction.has_failed_early {
        true => keys >= DEBTS_MAX,
        false => is_full || transaction.early.is_some(),
    })
}

/// Settles the keys that are pending now.
pub fn settle() -> Outcome<()> {
    let Some(xid) = xact::xid() else { return Ok(()) };
    // Until it is done, an error or a cancel that is caught in a savepoint leaves the transaction
    // owing everything: what arrived before is not known any more.
    let (sent, early, was_coarse) = TRANSACTION.with_borrow_mut(|transaction| {
        if transaction.early.is_none() {
            transaction.put_back();
        }
        let keys = transaction.pending.as_mut().map(Pending::take_keys).unwrap_or_default();
        let sent = Rc::new(transaction.stored.take_with(Owed { tags: Vec::new(), keys }));
        transaction.in_flight.push(sent.clone());
        let was_coarse = std::mem::replace(&mut transaction.coarse, true);
        (sent, transaction.early.take(), was_coarse)
    });
    let deadline = Deadline::start();
    let is_locked =
        xact::with_lasting_locks(|| super::lock(&deadline, registry::lock_for_writing))?;
    let is_first = early.is_none();
    let mut early = early.unwrap_or_default();
    let mut is_former = false;
    let mut is_lost = false;
    let listed = listing::list(xid, &sent.owed, &deadline);
    let fresh = Fresh::push();
    let found = listed.and_then(|listed| Ok((listed, super::registration(&fresh, is_locked)?)));
    let settled = match found {
        Ok((listed, Some(found))) => {
            // Whatever became of the last step, these keys are to be deleted: programs that read
            // Redis see no debts.
            let collected = early.collect(&deadline);
            is_lost = collected.is_err();
            if !is_lost {
                TRANSACTION
                    .with_borrow_mut(|transaction| transaction.in_flight = vec![sent.clone()]);
            }
            let delivery = Delivery::new(&found, &fresh.snapshot, xid, listed, &deadline);
            is_former = delivery.is_former;
            collected.and(early.deliver(&found, &delivery, &sent.owed, is_first))
        }
        Ok((_, None)) => Err(super::unmade()),
        Err(failure) => Err(failure),
    };
    TRANSACTION.with_borrow_mut(|transaction| {
        transaction.coarse = was_coarse || is_former;
        transaction.has_failed_early = settled.is_err();
        match settled {
            Ok(()) if early.posted.is_some() => {}
            Ok(()) => transaction.in_flight.clear(),
            Err(_) if host::skips("guard.putback") => transaction.in_flight.clear(),
            Err(_) => transaction.put_back(),
        }
        transaction.early = Some(early);
    });
    // What an earlier step lost is told anew at the end: then it shows whether that can be.
    if is_lost { Ok(()) } else { told(settled) }
}

/// Before the commit: what did not arrive is pending again. Gives the time that is left, if it was
/// begun.
pub fn finish() -> Option<Deadline> {
    let early = TRANSACTION.with_borrow_mut(|transaction| {
        let has_posted = transaction.early.as_ref().is_some_and(|early| early.posted.is_some());
        let is_something = has_posted || !transaction.in_flight.is_empty();
        is_something.then(|| transaction.early.take().unwrap_or_default())
    });
    let mut early = early?;
    let deadline = Deadline::start();
    let has_posted = early.posted.is_some();
    let collected = early.collect(&deadline);
    TRANSACTION.with_borrow_mut(|transaction| {
        match collected {
            Ok(()) if has_posted => transaction.in_flight.clear(),
            _ => transaction.put_back(),
        }
        transaction.early = Some(early);
    });
    Some(deadline)
}

impl Transaction {
    /// Keys that were sent, and of which nobody knows whether they arrived, are noted again, where
    /// no rollback to a savepoint takes them away.
    fn put_back(&mut self) {
        let lost = std::mem::take(&mut self.in_flight);
        let count: usize = lost.iter().map(|lost| lost.owed.keys.len()).sum();
        if count + self.keys() > DEBTS_MAX {
            self.coarse = true;
            return;
        }
        for lost in lost {
            let Owing { owed, .. } = &*lost;
            for (tag, key) in owed.keys.iter() {
                let is_durable = lost.is_durable(tag, key);
                if is_durable || lost.is_stored(tag, key) {
                    self.stored.note(1, is_durable, key);
                } else {
                    let pending = &mut self.pending;
                    pending
                        .get_or_insert_with(|| Pending::with_limits(GROUPS_MAX))
                        .note_key(1, key);
                }
            }
        }
    }
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
        owed: &Owed,
        is_first: bool,
    ) -> Result<(), Failure> {
        if self.generation != registration.generation {
            self.generation = registration.generation;
            self.bumped.clear();
        }
        let mut buckets = delivery::buckets_of(registration, owed);
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
        let collected = connection::collect(deadline.left(), |session| {
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
