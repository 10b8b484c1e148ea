//! Takes away the tokens of prepared transactions that were rolled back.
//!
//! A token stands beside a key that is to be stored, for as long as its transaction may commit.
//! Who rolls a prepared transaction back knows of none, so they are written into a book in Redis
//! before they are laid. Invariant: a token goes only when PostgreSQL says that its transaction was
//! aborted; an entry of the book goes when nobody needs it, and never before its token. A token
//! that went too early would leave its key without a value, one that stayed would stay for ever.
//!
//! A transaction that was ended while it waited for Redis may have laid tokens and never learnt of
//! it. They are found when a message comes that lays none: it would give way to them.

use pg_cache_core::key::EntryKeys;
use pg_cache_core::message::Message;
use pg_cache_core::reason::Reason;
use pg_cache_core::token::{self, Ended};

use crate::client::relay::{Fate, Sent};
use crate::client::tokens::{self, Entry};
use crate::connection;
use crate::outbox::Waiting;
use crate::pg::error::Outcome;
use crate::pg::transaction::{self, End};
use crate::pg::{activity, host, identity, snapshot, utility};
use crate::registry::Registration;

use super::Step;

/// Between two rounds through the book, at the least.
const ROUND_EVERY_MS: u64 = 1_000;

/// A round that takes long is followed by so many times as long without one.
const REST_TIMES: u64 = 10;

#[derive(Default)]
pub struct Tokens {
    cursor: u64,
    began_at_ms: u64,
    due_at_ms: u64,
}

impl Tokens {
    /// One step through the book; whether the round goes on.
    pub fn step(&mut self, registration: &Registration) -> Step<bool> {
        let now_ms = host::monotonic_ms();
        if self.cursor == 0 {
            if now_ms < self.due_at_ms {
                return Ok(false);
            }
            self.began_at_ms = now_ms;
        }
        let (cursor, book) = (self.cursor, &registration.book);
        let read = connection::ask(|session| Ok(tokens::read(session, book, cursor)?));
        let (next, entries) = match read {
            // Something else stands in the book's place.
            Err(failure) if failure.reason == Reason::ServerError => (0, Vec::new()),
            read => read?,
        };
        if !entries.is_empty() {
            activity::show("looking after prepared transactions");
            let ends = transaction::run(|| Ok(End::Commit(ends(&entries)?)))?;
            let settled: Vec<(&Entry, token::Fate)> =
                entries.iter().zip(ends).map(|(entry, ended)| (entry, ended.fate())).collect();
            connection::ask(|session| Ok(tokens::settle(session, book, &settled)?))?;
        }
        self.cursor = next;
        if next == 0 {
            let now_ms = host::monotonic_ms();
            let took_ms = now_ms.saturating_sub(self.began_at_ms);
            self.due_at_ms = now_ms + ROUND_EVERY_MS.max(REST_TIMES * took_ms);
        }
        Ok(next != 0)
    }
}

/// Takes away those of transactions that failed from where messages have given way to them: these
/// wait then, and go again. The others have arrived, as far as they are to arrive.
pub fn release_left(waiting: &[Waiting], sent: &mut Sent) -> Outcome<()> {
    let (system, database) = identity::origin();
    let (mut places, mut entries) = (Vec::new(), Vec::new());
    for (at, (one, fate)) in waiting.iter().zip(&mut sent.fates).enumerate() {
        let Fate::Overtaken(token) = fate else { continue };
        // Not of the same transaction's later message.
        let writer = token::writer_here(token, system, database);
        let is_ours = writer.is_some_and(|xid| xid != one.place.xid);
        if let Ok(Message::Store { key, .. }) = &one.message
            && is_ours
        {
            entries.push(Entry { token: token.to_vec(), name: EntryKeys::new(key).token() });
            places.push(at);
        }
        *fate = Fate::Delivered;
    }
    if entries.is_empty() {
        return Ok(());
    }
    let ends = ends(&entries)?;
    let mut left = Vec::new();
    for ((at, entry), ended) in places.into_iter().zip(&entries).zip(ends) {
        if ended.fate() == token::Fate::Remove {
            sent.fates[at] = Fate::Waits;
            left.push((entry, token::Fate::Remove));
        }
    }
    let book = token::book(system, database, 0);
    let settled = connection::ask(|session| Ok(tokens::settle(session, &book, &left)?));
    if let Err(failure) = settled {
        sent.trouble.get_or_insert(failure);
    }
    Ok(())
}

/// How the transactions of these tokens ended.
fn ends(entries: &[Entry]) -> Outcome<Vec<Ended>> {
    let next_xid = snapshot::next_xid();
    // What is not assigned yet may be of a server that had more than this one.
    let asked = |entry: &Entry| token::writer(&entry.token).filter(|xid| *xid < next_xid);
    let xids: Vec<String> =
        entries.iter().map(|entry| asked(entry).unwrap_or(0).to_string()).collect();
    let told = utility::look(&format!(
        "SELECT pg_catalog.json_agg(CASE WHEN xid <> '0' THEN pg_catalog.pg_xact_status(xid) END
                                    ORDER BY place)
           FROM pg_catalog.unnest('{{{}}}'::pg_catalog.xid8[]) WITH ORDINALITY AS x(xid, place)",
        xids.join(",")
    ))?;
    let ended = |(place, entry): (usize, &Entry)| match asked(entry).map(|_| told[place].as_str()) {
        None | Some(Some("in progress")) => Ended::No,
        Some(Some("committed")) => Ended::Committed,
        Some(Some("aborted")) => Ended::Aborted,
        Some(_) => Ended::Unknown,
    };
    Ok(entries.iter().enumerate().map(ended).collect())
}
