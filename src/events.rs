//! What this transaction sends after its commit, and only then.
//!
//! Triggers and functions only note messages, in a log that mirrors the savepoints. What is durable
//! goes into the outbox before the commit record, in the same transaction; the rest is settled
//! then, and sent once everybody sees the commit and no lock is held: in one pipeline, within
//! `pg_cache.commit_timeout_ms`, and never with an error. A prepared transaction leaves all of it
//! in the outbox: whoever commits it has not made it.
//!
//! Invariant: nothing leaves before its commit, or without it; and what leaves by one way keeps the
//! order of its making. If a message left in PRE_COMMIT, it could be that of a transaction that
//! fails a moment later.
//!
//! A stored key is deleted before the commit, and a token is left beside it in the same step; the
//! value is set afterwards by a script that runs only if the token is still there. Whoever writes
//! the key next takes the token away before its own commit, and by then this transaction has
//! committed: the row was locked. So neither order of late deliveries, nor a backend that dies
//! between the two steps, can leave an older image behind a newer one; the price is a key that is
//! not there, which its readers take for a miss. A message has a token of its own: of several that
//! store one key the last counts, in whatever order they arrive.

mod delivery;
mod left;

use std::cell::RefCell;
use std::rc::Rc;

use pg_cache_core::message::hold::UNSURE;
use pg_cache_core::message::log::{Entry, Log};
use pg_cache_core::message::row::{self, Row};
use pg_cache_core::message::{Event, Message, Stored};
use pg_cache_core::token::{self, Laid, Token};

use crate::client::messages::Outgoing;
use crate::pg::error::Outcome;
use crate::pg::xact::{self, Listener};
use crate::pg::{guc, host, identity};
use crate::{commit, connection, outbox, registry, stats};

use self::left::Left;

#[derive(Default)]
struct Transaction {
    log: Log,
    /// Part of it is in the outbox already: then all goes that way, so that the order holds.
    spilled: bool,
    /// Set once our part before the end is done, true if it prepares: what is noted later is
    /// settled at once.
    settled: Option<bool>,
    /// What is ready to leave, once it has committed.
    ready: Option<Outgoing>,
    /// Its tokens, and the database's prefix with which they were laid.
    laid: Laid,
    prefix: Vec<u8>,
}

thread_local! {
    static TRANSACTION: RefCell<Transaction> = RefCell::new(Transaction::default());
    /// Of a transaction that has committed and holds its locks still.
    static DUE: RefCell<Option<Outgoing>> = const { RefCell::new(None) };
    static LEFT: RefCell<Option<Left>> = const { RefCell::new(None) };
}

/// Listens to the ends of transactions.
pub fn listener() -> Listener {
    Listener {
        before_commit: || settle(false),
        before_prepare: || settle(true),
        released: |level| {
            TRANSACTION.with_borrow_mut(|transaction| {
                let Transaction { log, ready, laid, .. } = transaction;
                log.release(level);
                ready.iter_mut().for_each(|ready| ready.release(level));
                laid.release(level);
            });
        },
        rolled_back: |level| {
            let lost = if host::skips("guard.eventsavepoint") { 1 } else { level };
            TRANSACTION.with_borrow_mut(|transaction| {
                let Transaction { log, ready, laid, .. } = transaction;
                log.roll_back(lost);
                ready.iter_mut().for_each(|ready| ready.roll_back(lost));
                laid.roll_back(lost);
            });
        },
        committed: || {
            let (ready, left) = TRANSACTION
                .with_borrow_mut(|transaction| (transaction.ready.take(), transaction.left(false)));
            DUE.set(ready.filter(|ready| ready.len() > 0));
            LEFT.set(left);
        },
        ended: || {
            let ended = TRANSACTION.with(|transaction| {
                transaction.try_borrow_mut().map(|mut ended| std::mem::take(&mut *ended))
            });
            // Of one that committed nothing is left here, and of one that prepared all must stay.
            let left = ended.ok().and_then(|mut ended| ended.left(ended.settled != Some(true)));
            if let Some(left) = left {
                left.take_away();
            }
        },
        let_go: || {
            if let Some(due) = DUE.take() {
                delivery::send(due);
            }
            if let Some(left) = LEFT.take() {
                left.take_away();
            }
        },
    }
}

impl Transaction {
    /// What stands in Redis for nobody, when it is over.
    fn left(&mut self, is_aborted: bool) -> Option<Left> {
        let tokens = self.laid.end(is_aborted);
        let prefix = std::mem::take(&mut self.prefix);
        (!tokens.is_empty()).then_some(Left { prefix, tokens })
    }
}

/// Notes a message. It leaves with the commit, or with the rollback never does.
pub fn note(durable: bool, message: Message) -> Outcome<()> {
    note_of(durable, message, Row::default())
}

/// The same of a message about a key, and what it tells of the row.
pub fn note_of(durable: bool, message: Message, row: Row) -> Outcome<()> {
    noted(|log, level| log.push_of(level, durable, message, row))
}

/// The same of an event.
pub fn note_event(durable: bool, event: Event<'_>) -> Outcome<()> {
    noted(|log, level| log.push_event(level, durable, event))
}

fn noted(push: impl FnOnce(&mut Log, u32)) -> Outcome<()> {
    let level = xact::level();
    let (must_spill, late) = TRANSACTION.with_borrow_mut(|transaction| {
        let log = &mut transaction.log;
        push(log, level);
        let must_spill = log.must_spill(level, guc::pending_events_bytes_max());
        (must_spill, transaction.settled)
    });
    // Noted by something that runs before the commit record, and after us.
    if let Some(is_prepare) = late {
        // What stores a key needs its token beside it first.
        commit::settle_late()?;
        return settle(is_prepare);
    }
    if must_spill { spill(level) } else { Ok(()) }
}

/// Writes what was made in this savepoint into the outbox: with it, that is undone.
fn spill(level: u32) -> Outcome<()> {
    let entries = TRANSACTION.with_borrow_mut(|transaction| {
        transaction.spilled = true;
        transaction.log.take_of(level)
    });
    if let Some(mut entries) = named(entries)? {
        // The others keep no token, and are left out.
        for place in row::counting(&entries) {
            let Some(entry) = entries.get_mut(place) else { continue };
            if let Message::Store { token, value, .. } = &mut entry.message {
                *token = Box::from(UNSURE);
                only_delete_unless(entry.durable, value);
            }
        }
        put(entries, outbox::spill)?;
    }
    Ok(())
}

/// The tokens to lay before the commit: for each key that is stored, that of the message that
/// counts. It keeps it, unless it is withdrawn. Whoever finds no room for the message lays none.
pub fn tokens(is_prepare: bool) -> Outcome<Rc<Vec<Token>>> {
    let tokens = Rc::new(tokens_of_all(is_prepare));
    if tokens.iter().any(|token| token.lasts) {
        outbox::refuse_if_full()?;
    }
    Ok(tokens)
}

/// Whether anything leaves by way of the outbox: the worker may send it as soon as it is committed.
pub fn leaves_to_outbox() -> bool {
    let is_noted = TRANSACTION.with_borrow(|transaction| {
        transaction.spilled || transaction.log.entries().iter().any(|entry| entry.durable)
    });
    is_noted || outbox::is_waited_for()
}

/// They may stand in Redis from now on.
pub fn laying(prefix: &[u8], tokens: &Rc<Vec<Token>>) {
    if tokens.is_empty() {
        return;
    }
    TRANSACTION.with_borrow_mut(|transaction| {
        prefix.clone_into(&mut transaction.prefix);
        transaction.laid.lay(xact::level(), tokens.clone());
    });
}

fn tokens_of_all(is_prepare: bool) -> Vec<Token> {
    TRANSACTION.with_borrow_mut(|transaction| {
        let all_last = is_prepare || transaction.spilled;
        let places = row::counting(transaction.log.entries());
        if places.is_empty() {
            return Vec::new();
        }
        let origin = origin();
        let mut tokens = Vec::with_capacity(places.len());
        for place in places {
            let Some(entry) = transaction.log.entries_mut().get_mut(place) else { continue };
            let lasts = entry.durable || all_last;
            let seq = entry.seq;
            let Message::Store { key, token, value, .. } = &mut entry.message else { continue };
            // The deletion before the commit is all that an in-line one needs.
            if *value == Stored::Nothing && !lasts {
                continue;
            }
            *token = token::text(&origin, seq);
            let (key, token) = (key.clone(), token.clone());
            tokens.push(Token { key, token, lasts, is_prepared: is_prepare });
        }
        tokens
    })
}

/// Where the tokens of this transaction come from.
fn origin() -> String {
    let (system, database) = identity::origin();
    token::origin(system, database, xact::xid().unwrap_or_default(), host::random())
}

/// The tokens did not reach Redis, or nobody knows: what is not durable is lost.
pub fn withdraw(tokens: &[Token]) {
    let lost = tokens.iter().filter(|token| !token.lasts).count();
    TRANSACTION.with_borrow_mut(|transaction| {
        let all_last = transaction.spilled || lost == 0;
        for entry in transaction.log.entries_mut() {
            match &mut entry.message {
                Message::Store { token, .. } if token.is_empty() => {}
                Message::Store { token, value, .. } if entry.durable || all_last => {
                    *token = [UNSURE, &token[..]].concat().into();
                    only_delete_unless(entry.durable, value);
                }
                Message::Store { token, .. } => *token = Box::default(),
                _ => {}
            }
        }
    });
    if lost > 0 {
        stats::messages(0, lost, 0);
    }
}

/// Without a token nobody can tell whether a later writer of the key has stored its image already:
/// one that goes in-line does not stand in the outbox's order. So the older one only deletes.
fn only_delete_unless(durable: bool, value: &mut Stored) {
    if !durable {
        *value = Stored::Nothing;
    }
}

/// Before the commit record, or before the record that prepares. What is owed for keys is settled
/// already, and with it the tokens are laid, or are not.
fn settle(is_prepare: bool) -> Outcome<()> {
    let (entries, spilled) = TRANSACTION.with_borrow_mut(|transaction| {
        transaction.settled = Some(is_prepare);
        (transaction.log.take(), transaction.spilled)
    });
    if entries.is_empty() && !spilled {
        return Ok(());
    }
    host::fault_point("events.settle");
    let Some(entries) = named(entries)? else { return Ok(()) };
    let by_outbox = |entry: &Entry| entry.durable || is_prepare || spilled;
    let (durable, inline): (Vec<_>, Vec<_>) = entries.into_iter().partition(by_outbox);
    if !durable.is_empty() || spilled {
        put(durable, outbox::put)?;
        outbox::mark()?;
        outbox::wake_after_commit();
    }
    if inline.is_empty() {
        return Ok(());
    }
    connection::introduce();
    TRANSACTION.with_borrow_mut(|transaction| {
        let ready = transaction.ready.get_or_insert_default();
        delivery::add(ready, xact::level(), inline);
    });
    Ok(())
}

/// Gives names of keys the database's prefix. `None` if the extension is gone with this
/// transaction: then nobody is told.
fn named(mut entries: Vec<Entry>) -> Outcome<Option<Vec<Entry>>> {
    if !entries.iter_mut().any(|entry| entry.message.key_mut().is_some()) {
        return Ok(Some(entries));
    }
    if !registry::is_installed() {
        return Ok(None);
    }
    let Some(prefix) = registry::prefix_in_time()? else { return Ok(None) };
    for entry in entries.iter_mut().filter(|_| !prefix.is_empty()) {
        if let Some(name) = entry.message.key_mut() {
            *name = [&prefix[..], &name[..]].concat().into();
        }
    }
    Ok(Some(entries))
}

/// Into the outbox, in runs of places that follow one another.
fn put(entries: Vec<Entry>, write: fn(u64, &[Message]) -> Outcome<()>) -> Outcome<()> {
    let mut run: Vec<Message> = Vec::with_capacity(entries.len());
    let (mut first, mut next) = (0, 0);
    // Of several about one key the one that counts has a token.
    let overtaken = |entry: &Entry| match &entry.message {
        Message::Store { token, .. } => token.is_empty(),
        _ => false,
    };
    let counting = entries.into_iter().filter(|entry| !overtaken(entry));
    for (seq, message) in counting.flat_map(Entry::into_messages) {
        if seq != next && !run.is_empty() {
            write(first, &run)?;
            run.clear();
        }
        if run.is_empty() {
            first = seq;
        }
        next = seq + 1;
        run.push(message);
    }
    write(first, &run)
}
