//! Telling Redis ahead of the commit, where by experience it is near.
//!
//! The last statement that changes something new sends BUMP and waits for nothing; the commit finds
//! the answer there. The transaction stands in the lists and is not complete, so nothing can be
//! filled again before it ends. The price is that readers compute from then on, so [`Pace`] sees to
//! it that this is not for long. Schema changes are never told ahead, and nothing is where Redis is
//! known to be in trouble. Nor is a transaction that names keys: a program that finds one gone may
//! put back what it read before the commit, and a rollback would have deleted it for nothing.
//!
//! No lock is held in between: a transaction that stays open after all must not hold up the worker.
//! So what was told counts only in the generation and on the server that the commit finds
//! registered, under the lock and a snapshot taken behind it. Had the table been lost since, then
//! either the worker registered another generation, which that snapshot sees; or it will, and then
//! it waits for the lock. A prepared transaction tells everything anew.

use std::cell::Cell;
use std::time::{Duration, Instant};

use pg_cache_core::pace::Pace;
use pg_cache_core::pending::{Owed, Pending};
use pg_cache_core::tag::{Bucket, Tag};

use crate::client::scripts::Settlement;
use crate::pg::error::Outcome;
use crate::pg::snapshot::Fresh;
use crate::pg::{guc, host, xact};
use crate::registry::{self, Home, Registration};
use crate::{connection, stats};

use super::delivery::{self, Delivery};
use super::{Deadline, TRANSACTION};

/// More than this is worth a round trip of its own.
const TOLD_MAX: usize = 100;

thread_local! {
    static PACE: Cell<Pace> = const { Cell::new(Pace::new()) };
}

/// What a transaction has changed, statement by statement, and what Redis was told of it.
#[derive(Default)]
pub struct Ahead {
    /// After how many statements more was pending than before.
    changes: u32,
    pending: usize,
    /// The end of the last of them.
    changed_at: Option<Instant>,
    told: Option<Told>,
}

/// A delivery that was sent and is not yet known to have arrived.
struct Told {
    buckets: Vec<Bucket>,
    settlement: Settlement,
    ticket: u64,
}

impl Ahead {
    /// Learns from this transaction, which commits with so much pending.
    pub fn before_commit(&mut self, pending: usize) {
        let Some(changed_at) = self.changed_at.take() else { return };
        let is_soon = changed_at.elapsed() <= Duration::from_millis(guc::ahead_ms());
        learn(self.changes, is_soon && pending == self.pending);
    }

    /// Learns from a transaction that is over; of one that does not commit, that its end came not
    /// in time.
    pub fn end(&mut self) {
        if self.changed_at.take().is_some() {
            learn(self.changes, false);
        }
    }
}

fn learn(changes: u32, soon: bool) {
    let mut pace = PACE.get();
    pace.ended(changes, soon);
    PACE.set(pace);
}

/// A statement is done, and something is pending: tells it if that will have been all.
pub fn statement_finished() -> Outcome<()> {
    if guc::ahead_ms() == 0 || !xact::is_block() {
        return Ok(());
    }
    let is_near_end = TRANSACTION.with_borrow_mut(|transaction| {
        let pending = transaction.pending.as_ref().map_or(0, Pending::count);
        let ahead = &mut transaction.ahead;
        if pending == ahead.pending || transaction.early.is_some() {
            return false;
        }
        ahead.changes += 1;
        ahead.pending = pending;
        ahead.changed_at = Some(Instant::now());
        let is_near = PACE.get().is_near_end(ahead.changes) && pending <= TOLD_MAX;
        is_near && transaction.keys() == 0
    });
    if is_near_end {
        let told = tell();
        TRANSACTION.with_borrow_mut(|transaction| transaction.ahead.told = told);
    }
    Ok(())
}

/// Sends what is pending over the connection that is there. Whatever stands in the way is met again
/// at the commit.
fn tell() -> Option<Told> {
    let xid = xact::xid()?;
    let owed =
        TRANSACTION.with_borrow(|transaction| transaction.pending.as_ref().map(Pending::copy));
    let owed = owed.filter(|owed| !owed.tags.contains(&Tag::CATALOGUE))?;
    let fresh = Fresh::try_push()?;
    let registration = registry::seen_by_writer(&fresh.snapshot).ok()??;
    if registration.home == Home::Memory || !connection::is_trusted() {
        return None;
    }
    let deadline = Deadline::start();
    let delivery = Delivery::new(&registration, &fresh.snapshot, xid, 0, &deadline);
    if delivery.is_former {
        return None;
    }
    let buckets = delivery::buckets_of(&registration, &owed);
    let settlement = delivery.settlement(&buckets, &owed.keys, &[]);
    let ticket = connection::tell(|session| Ok(settlement.post(session)?))?;
    Some(Told { buckets, settlement, ticket })
}

/// Whether all that is owed was told, to the table and the server that count, and has arrived.
pub fn has_told(
    registration: &Registration,
    buckets: &[Bucket],
    owed: &Owed,
    deadline: &Deadline,
) -> bool {
    let told = TRANSACTION.with_borrow_mut(|transaction| transaction.ahead.told.take());
    let Some(told) = told else { return false };
    let is_all = owed.keys.is_empty() && buckets.iter().all(|bucket| told.buckets.contains(bucket));
    if !is_all && !host::skips("guard.covers") {
        return false;
    }
    let started = Instant::now();
    let arrived = connection::collect(deadline.left(), |session| {
        let found = told.settlement.collect(session, told.ticket)?;
        match host::skips("guard.ahead") {
            true => Ok(()),
            false => registration.check_settled(session.server(), &found),
        }
    });
    if arrived.is_ok() {
        let time_us = stats::us_since(started);
        stats::delivered(true, told.buckets.len(), 0, time_us);
    }
    arrived.is_ok()
}
