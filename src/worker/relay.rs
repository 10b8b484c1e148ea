//! Sends what stands in the outbox, in order, and deletes what Redis acknowledged.
//!
//! One batch at a time: it reads what a snapshot sees, makes sure that those commits survive a
//! crash, sends, and deletes the rows in the same transaction. Invariant: a message is sent only
//! when its transaction's debts are paid, its row goes only when it was acknowledged, and a batch
//! is committed before the next one is sent; the records of
//! streams (`client::relay`) then tell of any row that is still there whether it was sent.
//!
//! A message that Redis refuses by itself (another type stands under the stream's name, a command
//! with a wrong argument, one whose answer is too large) is put *aside*, with all later ones to the
//! same place, so that it keeps nobody else waiting and nothing overtakes it. What is aside is
//! tried again every few seconds. When the server as a whole is in the way, everything waits.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use pg_cache_core::message::aside::{Aside, TARGETS_MAX};
use pg_cache_core::message::hold;
use pg_cache_core::message::horizon::{Horizon, Moment};
use pg_cache_core::message::place::Place;
use pg_cache_core::room;

use crate::client::failure::Failure;
use crate::client::relay::{Claims, Fate, Sent};
use crate::outbox::{Batch, Limits, Queue, Waiting};
use crate::pg::error::Outcome;
use crate::pg::snapshot::{self, Snapshot};
use crate::pg::transaction::{self, End};
use crate::pg::{activity, error, host, identity, lockers, standbys, wal};
use crate::registry;

use super::sending::send_past;
use super::tokens::release_left;
use super::{Step, Trouble};

/// What one batch takes: one pipeline, one commit.
const BATCH: Limits = Limits { rows: 1000, bytes: 1024 * 1024 };

/// After that the worker looks at the rest of its work.
const STEP_MS: u64 = 200;

/// An empty outbox that takes as much is truncated.
const SHRINK_BYTES_MIN: u64 = 8 * 1024 * 1024;

/// How often an outbox in which nothing was found is walked from its front, at the most; and how
/// many times as long as that took it is not.
const AUDIT_EVERY_MS: u64 = 1_000;
const AUDIT_REST_TIMES: u64 = 10;

/// How long what was put aside rests.
const RETRY_EVERY_MS: u64 = 5_000;

type Target = Box<[u8]>;

pub struct Relay {
    claims: RefCell<Claims>,
    /// To whom something was put aside, and who refused when it was tried again.
    aside: Aside,
    retry: Retry,
    horizon: Horizon,
    /// Whether the next walk is of all of the outbox, and when one is due.
    is_audit: bool,
    audit_due_at_ms: u64,
    /// Whether Redis has taken anything.
    has_delivered: Cell<bool>,
}

/// Where trying again what was put aside stands.
#[derive(Default)]
struct Retry {
    /// Known targets are only complete after the first round.
    is_complete_once: bool,
    cursor: Option<i64>,
    due_at_ms: u64,
}

/// What a step came to.
#[derive(Default)]
pub struct Relayed {
    /// Whether anything was sent.
    pub has_worked: bool,
    /// Whether a debt is to be paid first.
    pub is_held: bool,
    /// Whether nobody can tell who owes: somebody has the table of debts.
    pub is_locked_out: bool,
    /// Whether nothing was found in an outbox that takes much.
    pub has_room_to_give: bool,
}

/// What a batch came to.
#[derive(Default)]
struct Handled {
    rows: usize,
    is_all: bool,
    has_more: bool,
    /// The next one's transaction owes something, which is to be paid first.
    is_held: bool,
    is_locked_out: bool,
    /// What the table takes, when nothing was found in it.
    bytes: u64,
    trouble: Option<Failure>,
}

impl Default for Relay {
    fn default() -> Self {
        let (system, database) = identity::origin();
        let scope = format!("{system}.{database}");
        Self {
            claims: RefCell::new(Claims::new(scope, host::random, wal::end)),
            aside: Aside::new(TARGETS_MAX),
            retry: Retry::default(),
            horizon: Horizon::default(),
            is_audit: false,
            audit_due_at_ms: host::monotonic_ms() + AUDIT_EVERY_MS,
            has_delivered: Cell::new(false),
        }
    }
}

/// Whether there is something to send, for one who is not to send it.
pub fn is_anything_new() -> Outcome<bool> {
    transaction::run(|| {
        let Some(queue) = Queue::open_for_relay() else { return Ok(End::Commit(false)) };
        let batch = queue.next(0, Limits { rows: 1, bytes: 0 }, &Snapshot::active());
        Ok(End::Commit(batch.is_something()))
    })
}

/// Whether anything is left, refused or not, for one who leaves.
pub fn is_anything_left() -> Outcome<bool> {
    transaction::run(|| {
        let left = registry::is_installed()
            && Queue::open_for_relay().is_none_or(|queue| !queue.is_empty(&Snapshot::active()));
        Ok(End::Commit(left))
    })
}

impl Relay {
    /// Sends for a while, while no debt can be paid.
    pub fn step_past_debts(&mut self) -> Outcome<()> {
        match self.step(&|_| true) {
            Err(Trouble::Postgres(raised)) => Err(raised),
            // The next one tells, and so does whoever waits for Redis.
            Ok(_) | Err(Trouble::Redis(_)) => Ok(()),
        }
    }

    /// Sends for a while. Of some transactions it is known that what they owe cannot be paid for
    /// now.
    pub fn step(&mut self, is_stuck: &dyn Fn(u64) -> bool) -> Step<Relayed> {
        let mut relayed = Relayed { has_worked: self.try_again()?, ..Relayed::default() };
        let until_ms = host::monotonic_ms() + STEP_MS;
        // Until it is known what is aside, something new could overtake it.
        while self.retry.is_complete_once && !lockers::is_database_wanted() {
            let handled = self.batch(is_stuck)?;
            relayed.has_worked |= handled.rows > 0;
            relayed.is_held |= handled.is_held;
            relayed.is_locked_out |= handled.is_locked_out;
            // After something was sent the next batch tells of it.
            match handled.trouble {
                Some(trouble) if handled.rows == 0 => return Err(trouble.into()),
                Some(_) => break,
                None => {}
            }
            relayed.has_room_to_give =
                room::is_too_much(handled.bytes, SHRINK_BYTES_MIN, standbys::is_any);
            let waits = handled.is_held || handled.is_locked_out;
            if waits || !(handled.has_more || self.walks_again(&handled)) {
                break;
            }
            if host::monotonic_ms() >= until_ms {
                break;
            }
            host::check_interrupts();
        }
        Ok(relayed)
    }

    /// When nothing is left, now and then the whole outbox is walked: whoever put a row there by
    /// hand did not follow the rule by which the horizon goes.
    fn walks_again(&mut self, handled: &Handled) -> bool {
        self.is_audit = handled.rows == 0 && host::monotonic_ms() >= self.audit_due_at_ms;
        self.is_audit
    }

    /// The next to be sent; if it comes from before the horizon, that is not to be relied on.
    fn next(&mut self, queue: &Queue, snapshot: &Snapshot) -> Batch {
        if !std::mem::take(&mut self.is_audit) {
            let from = self.horizon.begin(&snapshot.in_progress(), snapshot.xmax());
            return queue.next(from, BATCH, snapshot);
        }
        let began_ms = host::monotonic_ms();
        let batch = queue.next(0, BATCH, snapshot);
        let now_ms = host::monotonic_ms();
        let rest_ms = AUDIT_REST_TIMES * now_ms.saturating_sub(began_ms);
        self.audit_due_at_ms = now_ms + rest_ms.max(AUDIT_EVERY_MS);
        if batch.is_something() {
            self.horizon.start_over();
        }
        batch
    }

    fn advance(&mut self, number: Option<u64>, snapshot: &Snapshot, log_end: u64) {
        let (listed, above) = (snapshot.in_progress(), snapshot.xmax()..snapshot::next_xid());
        self.horizon.advance(number, &Moment { listed: &listed, above, log_end });
    }

    fn batch(&mut self, is_stuck: &dyn Fn(u64) -> bool) -> Step<Handled> {
        // Before the snapshot is taken.
        let log_end = wal::end();
        let handled = transaction::run(|| {
            let Some(queue) = Queue::open_for_relay() else {
                return Ok(End::Abort(Ok(Handled::default())));
            };
            let snapshot = Snapshot::active();
            let mut batch = self.next(&queue, &snapshot);
            if !batch.is_something() {
                self.advance(None, &snapshot, log_end);
                let bytes = queue.bytes();
                return Ok(End::Commit(Ok(Handled { bytes, ..Handled::default() })));
            }
            let mut stuck = HashSet::new();
            if !batch.waiting.is_empty() {
                let Some(owing) = registry::debts::owing(&snapshot, batch.xids()) else {
                    let handled = Handled { is_locked_out: true, ..Handled::default() };
                    return Ok(End::Abort(Ok(handled)));
                };
                let is_owing = |xid| owing.contains(&xid);
                batch.hold(|xid| is_owing(xid) && !is_stuck(xid));
                stuck = behind_debts(&batch, |xid| is_owing(xid) && is_stuck(xid));
                if batch.waiting.is_empty() {
                    return Ok(End::Commit(Ok(Handled { is_held: true, ..Handled::default() })));
                }
            }
            // An event must not outlive its commit.
            wal::flush_seen();
            Ok(match self.deliver(&batch, &stuck) {
                Ok(mut sent) => {
                    release_left(&batch.waiting, &mut sent)?;
                    let handled = self.settle(&queue, &batch, &stuck, sent);
                    if let Some(last) = batch.waiting.last().filter(|_| handled.is_all) {
                        self.advance(Some(last.place.number), &snapshot, log_end);
                    }
                    End::Commit(Ok(handled))
                }
                Err(failure) => End::Abort(Err(failure)),
            })
        })?;
        match handled {
            Ok(handled) => {
                host::fault_point("relay.settled");
                Ok(handled)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// Sends a batch, but for what must not be sent.
    fn deliver(&self, batch: &Batch, stuck: &HashSet<Place>) -> Result<Sent, Failure> {
        activity::show("sending events");
        host::fault_point("relay.sending");
        let is_held =
            |place: Place, target: &[u8]| self.aside.holds(target) || stuck.contains(&place);
        let sent = send_past(&self.claims, &batch.waiting, is_held);
        host::fault_point("relay.sent");
        sent
    }

    /// Deletes what was delivered and puts aside what was refused.
    fn settle(
        &mut self,
        queue: &Queue,
        batch: &Batch,
        stuck: &HashSet<Place>,
        sent: Sent,
    ) -> Handled {
        let mut rows = 0;
        // Where something stays: what is behind it there is not put aside, which is tried first.
        let mut left = HashSet::new();
        for (waiting, fate) in batch.waiting.iter().zip(sent.fates) {
            match fate {
                Fate::Delivered => self.delete(queue, waiting),
                Fate::Refused(failure) => {
                    tell_refused(&target_of(waiting), &failure);
                    self.put_aside(queue, waiting);
                }
                fate => {
                    let target = target_of(waiting);
                    let is_held = stuck.contains(&waiting.place) || self.aside.holds(&target);
                    let goes_aside = matches!(fate, Fate::Waits) && is_held;
                    if !goes_aside || left.contains(&target) {
                        left.insert(target);
                        continue;
                    }
                    self.put_aside(queue, waiting);
                }
            }
            rows += 1;
        }
        let is_all = rows == batch.waiting.len();
        if is_all {
            queue.finish(batch);
        }
        host::fault_point("relay.deleted");
        let has_more = batch.is_full || !is_all;
        Handled { rows, is_all, has_more, trouble: sent.trouble, ..Handled::default() }
    }

    pub fn has_delivered(&self) -> bool {
        self.has_delivered.get()
    }

    fn delete(&self, queue: &Queue, waiting: &Waiting) {
        queue.delete(waiting);
        self.has_delivered.set(true);
        if let Ok(message) = &waiting.message {
            self.claims.borrow_mut().forget(message, waiting.place);
        }
    }

    fn put_aside(&mut self, queue: &Queue, waiting: &Waiting) {
        let target = target_of(waiting);
        // The round that is under way may have passed its place.
        if self.retry.cursor.is_some_and(|cursor| waiting.cursor() < cursor) {
            self.aside.refuse(&target);
        }
        self.aside.put(&target);
        queue.put_aside(waiting);
    }

    /// Tries again what was put aside, in order, if it is time; at first, to know what there is.
    fn try_again(&mut self) -> Step<bool> {
        let mut has_worked = false;
        let until_ms = host::monotonic_ms() + STEP_MS;
        while host::monotonic_ms() >= self.retry.due_at_ms
            && (!self.retry.is_complete_once || !self.aside.is_empty())
        {
            // VACUUM FULL may hold the table: the next pass tries again.
            let Some(delivered) = self.try_some_again()? else { break };
            has_worked |= delivered > 0;
            let goes_on = self.retry.cursor.is_some();
            if goes_on && self.retry.is_complete_once {
                // What is new waits no longer than this.
                break;
            }
            if goes_on && host::monotonic_ms() >= until_ms {
                // The next pass comes at once.
                return Ok(true);
            }
            host::check_interrupts();
        }
        Ok(has_worked)
    }

    /// One step: how many were delivered; `None` if the table cannot be had.
    fn try_some_again(&mut self) -> Step<Option<usize>> {
        let from = self.retry.cursor.unwrap_or(i64::MIN);
        let handled = transaction::run(|| {
            let Some(queue) = Queue::open_for_relay() else { return Ok(End::Abort(Ok(None))) };
            let aside = &self.aside;
            let is_passed_over = |one: &Waiting| aside.passes_over(&target_of(one));
            let snapshot = Snapshot::active();
            let mut batch = queue.aside(from, BATCH, &snapshot, is_passed_over);
            // As when it was sent first: nothing goes behind an unsure one to its key.
            batch.hold(|_| false);
            let Some(owing) = registry::debts::owing(&snapshot, batch.xids()) else {
                return Ok(End::Abort(Ok(None)));
            };
            let stuck = behind_debts(&batch, |xid| owing.contains(&xid));
            let is_held =
                |place: Place, target: &[u8]| aside.passes_over(target) || stuck.contains(&place);
            let mut sent = match send_past(&self.claims, &batch.waiting, is_held) {
                Ok(sent) => sent,
                Err(failure) => return Ok(End::Abort(Err(failure))),
            };
            release_left(&batch.waiting, &mut sent)?;
            host::fault_point("relay.retried");
            let mut delivered = 0;
            let mut cursor = batch.waiting.last().map(Waiting::cursor).filter(|_| batch.is_full);
            for (waiting, fate) in batch.waiting.iter().zip(sent.fates) {
                match fate {
                    Fate::Delivered => {
                        self.delete(&queue, waiting);
                        delivered += 1;
                    }
                    // The next step begins here.
                    Fate::Unsent => {
                        cursor = Some(waiting.cursor());
                        break;
                    }
                    _ => self.aside.refuse(&target_of(waiting)),
                }
            }
            Ok(match sent.trouble {
                Some(trouble) if delivered == 0 => End::Abort(Err(trouble)),
                _ => End::Commit(Ok(Some((delivered, cursor)))),
            })
        })?;
        let begins_anew = self.aside.must_begin_anew();
        if begins_anew {
            self.retry.cursor = None;
        }
        let Some((delivered, cursor)) = handled? else { return Ok(None) };
        // Each step delivers something, or learns of one more place that refuses, or is the last.
        self.retry.cursor = cursor.filter(|_| !begins_anew);
        if cursor.is_none() && !begins_anew {
            self.aside.end_round();
            self.retry.is_complete_once = true;
            self.retry.due_at_ms = host::monotonic_ms() + RETRY_EVERY_MS;
        }
        Ok(Some(delivered))
    }
}

/// What waits for debts that cannot be paid for now, and what waits behind it.
fn behind_debts(batch: &Batch, is_owing: impl Fn(u64) -> bool) -> HashSet<Place> {
    // Whoever owes is the exception.
    if !batch.waiting.iter().any(|one| is_owing(one.place.xid)) {
        return HashSet::new();
    }
    let each = batch.waiting.iter().map(|one| (one.place.xid, target_of(one)));
    let waits = hold::waiting(each, is_owing);
    let waiting = batch.waiting.iter().zip(waits).filter(|(_, waits)| *waits);
    waiting.map(|(one, _)| one.place).collect()
}

pub fn target_of(waiting: &Waiting) -> Target {
    match &waiting.message {
        Ok(message) => message.target().into(),
        // By itself: nobody knows what would follow it.
        Err(_) => waiting.place.to_string().into_bytes().into(),
    }
}

fn tell_refused(target: &[u8], failure: &Failure) {
    let (target, detail) = (target.escape_ascii(), &failure.detail);
    error::log(&format!("pg_cache worker: events for {target} are put aside ({detail})"));
}
