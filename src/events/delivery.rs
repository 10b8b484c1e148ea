//! What leaves in-line: settled before the commit record, sent behind it.
//!
//! Invariant: [`send`] fails in no way that anybody hears of but by a count and a WARNING. It runs
//! where an error would take the whole cluster down, and where the catalogues cannot be read. And
//! nothing is told of a commit that a crash may still undo, be it another's that was read.

use std::time::{Duration, Instant};

use pg_cache_core::message::Message;
use pg_cache_core::message::log::Entry;

use crate::client::failure::Failure;
use crate::client::messages::{Delivered, Outgoing};
use crate::pg::{guc, host, wal, xact};
use crate::{connection, stats};

/// Adds them in their order. A key whose token could not be laid cannot be stored: somebody else's
/// image might be the newer one.
pub fn add(ready: &mut Outgoing, level: u32, entries: Vec<Entry>) {
    let has_no_token =
        |message: &Message| matches!(message, Message::Store { token, .. } if token.is_empty());
    ready.extend(level, entries.into_iter().filter(|entry| !has_no_token(&entry.message)));
}

/// Sends what is ready.
pub fn send(due: Outgoing) {
    host::fault_point("events.send");
    if !host::skips("guard.flushcommit") {
        flush();
    }
    host::fault_point("events.flushed");
    // Here and not before: how long the disk took is not Redis' doing.
    let started = Instant::now();
    let deadline = started + Duration::from_millis(guc::commit_timeout_ms());
    let left = || deadline.saturating_duration_since(Instant::now());
    let mut delivered = Delivered::default();
    let all = due.len();
    let outcome = connection::ask_once(left(), |session| due.send(session, left, &mut delivered));
    let lost = all.saturating_sub(delivered.sent);
    let time_us = stats::us_since(started);
    stats::messages(delivered.sent, lost, time_us);
    let failure: Option<Failure> = outcome.err().or(delivered.refused);
    if let Some(failure) = failure {
        connection::warn_lost(&failure, lost);
    }
}

/// Waits until a crash leaves this commit, and all that it has seen: a transaction without an id
/// has no record of its own that stands behind theirs.
fn flush() {
    match xact::xid() {
        Some(_) => wal::flush_commit(),
        None => wal::flush_seen(),
    }
}
