//! What this transaction owes Redis, and its delivery before the commit record.
//!
//! Triggers only note: tags that change and keys that must go, on a stack that mirrors the
//! savepoints. Before the commit record, in one round trip, BUMP gives each tag's bucket the next
//! version and puts this transaction x among its recent writers, and DEL removes the keys with
//! their leases. What could not be settled is *owed*: rows of `redis_debt`, committed with x.
//! There is no step after the commit: if x aborts, the price is a miss. Where by experience the end
//! is near, BUMP and DEL are sent ahead of it, and the commit finds them done (`ahead`).
//!
//! # Why it is right
//!
//! Claim: if an entry was filled from a snapshot S with version v of tag T in generation g, and
//! T's version in g's table is still v, then every committed writer of T is visible in S.
//!
//! A writer y bumps before it commits. (a) Its bump is in the table, at or before v. If y is in the
//! list that the reader checked, S sees y as complete. If not, a later bump by z dropped it, whose
//! snapshot P saw y complete; so y finished before z's bump. Either z is in the list, hence
//! complete in S: z finished after its bump, so after y, and a snapshot is a prefix of completions
//! (on a standby: of WAL order), so S sees y too. Or z was dropped by a still later bump: the chain
//! ends at the last one, which is always in the list. (b) Its bump is not in the table: it was
//! lost, or went to another generation. If y held the lock on `redis_server` when the worker looked
//! for lockers, it finished before the base transaction m began, and m is complete in S. If it took
//! the lock later, its P saw g or newer: either its bump came after the claim and is in the table,
//! or it owed, and S sees the debt iff it sees y.
//!
//! For programs that read Redis: a fill needs the lease, which DEL takes after BUMP; a lease taken
//! later reads the bumped list, where x is not complete in any S that does not see it.
//!
//! Where the tag table is in shared memory (`listing`), case (b) does not exist. Each transaction
//! of this run of the server lists itself there, and entries of the generation are filled in this
//! run, from snapshots that see all earlier ones as complete; but for those that are prepared, and
//! owe. And as nothing exact hangs on Redis then, DEL is confirmed behind the record (`behind`), if
//! nothing else hangs on it.

mod ahead;
mod behind;
mod delivery;
mod early;
mod listing;
mod stored;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use pg_cache_core::debt::{Debt, Ledger, Owing};
use pg_cache_core::error::Error;
use pg_cache_core::pending::Pending;
use pg_cache_core::reason::Reason;
use pg_cache_core::tag::Tag;
use pg_cache_core::token::Token;

use crate::client::failure::Failure;
use crate::pg::error::Outcome;
use crate::pg::snapshot::Fresh;
use crate::pg::xact::{self, Listener};
use crate::pg::{guc, host, statement};
use crate::registry::{self, Registration};
use crate::{connection, events, outbox, worker};

use self::ahead::Ahead;
use self::behind::Behind;
use self::delivery::Delivery;
use self::early::Early;
use self::stored::Stored;

/// Row groups that a transaction notes one by one, of all relations together.
const GROUPS_MAX: usize = 1000;

/// Tags and keys that a transaction owes one by one; beyond, it owes the catalogue tag, and keys
/// for which no entry of ours stands are named nowhere.
const DEBTS_MAX: usize = 100_000;

#[derive(Default)]
struct Transaction {
    pending: Option<Pending>,
    stored: Stored,
    /// Set once our part before the end is done: what is noted later is settled at once.
    settled: Option<End>,
    /// What stands in `redis_debt` already.
    ledger: Ledger,
    /// What was settled in mid-transaction.
    early: Option<Early>,
    /// What was sent so, and is not known to have arrived.
    in_flight: Vec<Rc<Owing>>,
    /// The last step of it failed.
    has_failed_early: bool,
    /// What was told when the end seemed near.
    ahead: Ahead,
    /// Keys that early settlement could not settle: everything must be taken for changed.
    coarse: bool,
    /// What was sent before the commit record, to be confirmed behind it.
    behind: Behind,
}

thread_local! {
    static TRANSACTION: RefCell<Transaction> = RefCell::new(Transaction::default());
    /// The level and the tag of the last note, if it is still pending there: a statement notes the
    /// same one at every row.
    static LAST: Cell<Option<(u32, Tag)>> = const { Cell::new(None) };
}

/// Listens to the ends of transactions.
pub fn listener() -> Listener {
    Listener {
        before_commit: || settle(End::Commit),
        before_prepare: || settle(End::Prepare),
        released: |level| {
            LAST.set(None);
            TRANSACTION.with_borrow_mut(|transaction| {
                transaction.each_pending(|pending| pending.release(level));
                transaction.ledger.release(level);
            });
        },
        rolled_back: |level| {
            // The guard's name is for tests that show what the stack is good for.
            let lost = if host::skips("guard.savepoint") { 1 } else { level };
            LAST.set(None);
            TRANSACTION.with_borrow_mut(|transaction| {
                transaction.each_pending(|pending| pending.roll_back(lost));
                transaction.ledger.roll_back(lost);
            });
        },
        committed: behind::committed,
        ended: || {
            LAST.set(None);
            // First of all: whatever fails here, the next transaction begins with nothing of this
            // one, and owes what it owes.
            let ended = TRANSACTION.with(|transaction| {
                transaction
                    .try_borrow_mut()
                    .map(|mut transaction| std::mem::take(&mut *transaction))
            });
            // Its rows are visible by now, its messages about the schema are not sent yet.
            host::fault_point("commit.ended");
            if let Ok(mut ended) = ended {
                ended.ahead.end();
            }
            worker::transaction_ended();
            outbox::ended();
        },
        let_go: behind::confirm,
    }
}

/// Listens to the ends of statements.
pub fn statement_listener() -> statement::Listener {
    statement::Listener {
        wants_to_hear: || {
            TRANSACTION.with_borrow(|transaction| {
                transaction.pending.is_some() && transaction.settled.is_none()
            })
        },
        finished: ahead::statement_finished,
    }
}

impl Transaction {
    fn each_pending(&mut self, work: impl Fn(&mut Pending)) {
        self.pending.iter_mut().chain(self.stored.each()).for_each(work);
    }

    /// How many keys are pending, to be gone or to be stored.
    fn keys(&self) -> usize {
        self.pending.as_ref().map_or(0, Pending::keys) + self.stored.keys()
    }
}

/// Notes something, and says how many keys are pending then and after which end it came, if late.
fn noted(work: impl FnOnce(&mut Pending, u32)) -> (usize, Option<End>) {
    TRANSACTION.with_borrow_mut(|transaction| {
        let pending = transaction.pending.get_or_insert_with(|| Pending::with_limits(GROUPS_MAX));
        work(pending, xact::level());
        (transaction.keys(), transaction.settled)
    })
}

/// Notes that what hangs on a tag changes with this transaction.
pub fn note(tag: Tag) -> Outcome<()> {
    let last = Some((xact::level(), tag));
    if LAST.get() == last {
        return Ok(());
    }
    let (_, late) = noted(|pending, level| pending.note(level, tag));
    if let Some(end) = late {
        return settle(end);
    }
    LAST.set(last);
    Ok(())
}

/// Notes a row group; beyond a limit the relation's groups become its `whole` tag.
pub fn note_group(relation: u32, tag: Tag) -> Outcome<()> {
    let (_, late) = noted(|pending, level| pending.note_group(level, relation, tag));
    late.map_or(Ok(()), settle)
}

/// Notes a key, without the database's prefix, that is to be gone before the commit returns.
pub fn note_key(key: &[u8]) -> Outcome<()> {
    let (keys, late) = noted(|pending, level| pending.note_key(level, key));
    has_noted_key(keys, late)
}

/// The same of a key that is set after the commit, by way of the outbox or not.
pub fn note_stored(durable: bool, key: &[u8]) -> Outcome<()> {
    let (keys, late) = TRANSACTION.with_borrow_mut(|transaction| {
        transaction.stored.note(xact::level(), durable, key);
        (transaction.keys(), transaction.settled)
    });
    has_noted_key(keys, late)
}

fn has_noted_key(keys: usize, late: Option<End>) -> Outcome<()> {
    if let Some(end) = late {
        return settle(end);
    }
    if early::is_due(keys) { early::settle() } else { Ok(()) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Commit,
    Prepare,
}

/// Before the commit record, or before the record that prepares.
fn settle(end: End) -> Outcome<()> {
    // Whether or not there is anything: what comes later may be the first.
    LAST.set(None);
    TRANSACTION.with_borrow_mut(|transaction| transaction.settled = Some(end));
    let Some(xid) = xact::xid() else { return Ok(()) };
    behind::settle(xid)?;
    let tokens = events::tokens(end == End::Prepare)?;
    let begun = early::finish();
    let taken = TRANSACTION.with_borrow_mut(|transaction| {
        // Once prepared, nobody waits for us, and what was bumped may be lost with its table.
        let forgets = host::skips("guard.preparedearly");
        transaction.coarse |= end == End::Prepare && transaction.early.is_some() && !forgets;
        if end == End::Commit {
            let pending = transaction.pending.as_ref();
            transaction.ahead.before_commit(pending.map_or(0, Pending::count));
        }
        let owed = transaction.pending.as_mut().map(Pending::take).unwrap_or_default();
        let owing = Rc::new(transaction.stored.take_with(owed));
        let nothing = owing.is_empty() && tokens.is_empty();
        (!nothing || transaction.coarse).then_some((owing, transaction.coarse))
    });
    let Some((owing, coarse)) = taken else { return Ok(()) };
    let laid = deliver(end, xid, &owing, coarse, &tokens, begun);
    if !tokens.is_empty() && !matches!(laid, Ok(true)) {
        events::withdraw(&tokens);
    }
    laid.map(|_| ())
}

/// Lays the tokens of what is stored by something that runs after our part.
pub fn settle_late() -> Outcome<()> {
    TRANSACTION.with_borrow(|transaction| transaction.settled).map_or(Ok(()), settle)
}

/// Whether it reached Redis, tokens included; otherwise what matters is owed.
fn deliver(
    end: End,
    xid: u64,
    owing: &Rc<Owing>,
    coarse: bool,
    tokens: &Rc<Vec<Token>>,
    begun: Option<Deadline>,
) -> Outcome<bool> {
    host::fault_point("commit.settle");
    let deadline = begun.unwrap_or_else(Deadline::start);
    if !registry::is_installed() {
        return Ok(false);
    }
    let is_locked = lock(&deadline, registry::lock_for_writing)?;
    if !is_locked && registry::is_gone() {
        return Ok(false);
    }
    let (mut is_former, mut is_unmade) = (false, true);
    let listed = listing::list(xid, &owing.owed, &deadline);
    let fresh = Fresh::push();
    let found = listed.and_then(|listed| Ok((listed, registration(&fresh, is_locked)?)));
    let settled = match found {
        Ok((listed, Some(found))) => {
            is_unmade = false;
            let delivery = Delivery::new(&found, &fresh.snapshot, xid, listed, &deadline);
            is_former = delivery.is_former;
            let buckets = delivery::buckets_of(&found, &owing.owed);
            let may_skip = end == End::Commit && tokens.is_empty() && !is_former;
            let is_done = may_skip
                && (ahead::has_told(&found, &buckets, &owing.owed, &deadline)
                    || !coarse && behind::send(&found, &delivery, owing, &deadline));
            if is_done {
                Ok(())
            } else {
                events::laying(&found.prefix, tokens);
                delivery.settle(&buckets, &owing.owed.keys, tokens)
            }
        }
        // Nobody can use a generation that was not made, and who makes it waits for us; unless we
        // are prepared, when only a debt tells of us. But a key holds what it held before.
        Ok((_, None)) if coarse || !owing.owed.keys.is_empty() || !tokens.is_empty() => {
            Err(unmade())
        }
        Ok((_, None)) if end == End::Commit => return Ok(false),
        Ok((_, None)) => Ok(()),
        Err(failure) => Err(failure),
    };
    let has_arrived = !is_unmade && has_arrived(&settled);
    let must_owe = match settled {
        // The worker does not wait for a prepared transaction: it learns of it by its debt. And in
        // a generation of a former run, late calls of that run may drop us from the lists.
        Ok(()) => end == End::Prepare && !host::skips("guard.oweprepared") || is_former,
        Err(failure) => {
            refuse_if_asked(&failure)?;
            connection::warn_unsettled(&failure);
            !host::skips("guard.owesilence")
        }
    };
    if must_owe || coarse {
        owe(xid, owing.debts(has_arrived), coarse)?;
        worker::wake_for_debts();
    }
    host::fault_point("commit.settled");
    Ok(has_arrived)
}

/// Whether the keys are deleted and the tokens laid, on the server that is registered. With a table
/// of another generation they are: only what was bumped there is bumped for nobody.
fn has_arrived(settled: &Result<(), Failure>) -> bool {
    settled.as_ref().err().is_none_or(|failure| failure.reason == Reason::Generation)
}

/// The registration that counts for a writer. Without the lock nobody waits for us, and then we
/// cannot even read the row.
fn registration(fresh: &Fresh, is_locked: bool) -> Result<Option<Rc<Registration>>, Failure> {
    if !is_locked {
        return Err(Failure::new(Reason::Timeout, "redis_server is locked"));
    }
    registry::seen_by_writer(&fresh.snapshot)
}

/// Why keys cannot be deleted while no worker has found out on which server.
fn unmade() -> Failure {
    Failure::new(Reason::Unregistered, "keys are owed")
}

/// Takes the lock that tells the worker of us, and keeps it until the transaction ends. VACUUM
/// FULL, REINDEX or DROP EXTENSION may hold the table for longer than a commit can wait.
fn lock(deadline: &Deadline, take: fn() -> bool) -> Outcome<bool> {
    let taken = host::until(deadline.left(), || match take() {
        true => Some(true),
        false => registry::is_gone().then_some(false),
    });
    Ok(taken.unwrap_or(false))
}

/// Writes what is owed into `redis_debt`, in this transaction.
fn owe(xid: u64, mut debts: Vec<Debt<'_>>, coarse: bool) -> Outcome<()> {
    let is_too_much = debts.len() > DEBTS_MAX;
    if is_too_much {
        debts.clear();
    }
    let debts = TRANSACTION.with_borrow_mut(|transaction| {
        transaction.ledger.enter(xact::level(), debts, coarse || is_too_much)
    });
    // A time of its own: the other may have run out over Redis, and an autovacuum that truncates
    // the table is gone in a moment.
    lock(&Deadline::start(), registry::debts::lock)?;
    registry::debts::write(xid, &debts)
}

fn refuse_if_asked(failure: &Failure) -> Outcome<()> {
    if guc::on_unreachable_is_error() {
        let detail = format!("{} {}", failure.reason.sentence(), failure.detail);
        return Err(Error::Unsettled { detail: detail.trim_end().to_owned() }.into());
    }
    Ok(())
}

/// `pg_cache.commit_timeout_ms`, from the moment when a commit begins to care for Redis.
#[derive(Clone)]
struct Deadline(Instant);

impl Deadline {
    fn start() -> Self {
        Self(Instant::now() + Duration::from_millis(guc::commit_timeout_ms()))
    }

    fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}
