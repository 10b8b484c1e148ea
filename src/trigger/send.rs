//! `redis_publish`, `redis_stream`, `redis_store`, `redis_job` as triggers: what happened to a row
//! leaves with the commit.
//!
//! Invariant: one firing makes one message, and of `redis_store` one for each key that the row had
//! or has; an UPDATE that changed nothing of what counts makes none.

use std::mem::ManuallyDrop;

use pg_cache_core::error::{Error, Tracking};
use pg_cache_core::message::row::Row;
use pg_cache_core::message::{Event, Message, Stored, To};
use pg_cache_core::options::Kind;

use crate::pg::call::Call;
use crate::pg::error::Outcome;
use crate::pg::trigger::{Fired, Kept};
use crate::pg::{Datum, classify, xact};
use crate::{commit, events, jobs};

use super::sending::{Rows, Sender};

sql_function!(redis_publish, pg_finfo_redis_publish, publish);
sql_function!(redis_stream, pg_finfo_redis_stream, stream);
sql_function!(redis_store, pg_finfo_redis_store, store);
sql_function!(redis_job, pg_finfo_redis_job, job);

thread_local! {
    static SENDERS: ManuallyDrop<Kept<Sender>> = const { ManuallyDrop::new(Kept::new()) };
}

fn publish(call: &Call) -> Outcome<Datum> {
    send(call, Kind::Publish)
}

fn stream(call: &Call) -> Outcome<Datum> {
    send(call, Kind::Stream)
}

fn store(call: &Call) -> Outcome<Datum> {
    send(call, Kind::Store)
}

fn job(call: &Call) -> Outcome<Datum> {
    send(call, Kind::Job)
}

fn send(call: &Call, kind: Kind) -> Outcome<Datum> {
    let Some(fired) = Fired::of(call) else {
        let (function, wanted) = (kind.function().to_owned(), "a trigger");
        return Err(Error::from(Tracking::Protocol { function, wanted }).into());
    };
    let sender =
        SENDERS.with(|kept| kept.get(fired, |fired| Sender::new(kind, fired.attached())))?;
    // A write to a foreign table takes no id here, and an event names its transaction.
    if xact::xid().is_none() && classify::is_foreign(fired.relation().oid()) {
        xact::assign_xid(c"a trigger of pg_cache");
    }
    let rows = Rows::of(fired);
    match sender.is_idle(&rows) {
        false => note(&sender, fired, &rows)?,
        true if kind == Kind::Store => note_stay(&sender, fired, &rows)?,
        true => {}
    }
    rows.put_back();
    Ok(Datum::from(0usize))
}

fn note(sender: &Sender, fired: Fired<'_>, rows: &Rows) -> Outcome<()> {
    match sender.kind {
        Kind::Publish | Kind::Stream => note_event(sender, fired, rows),
        Kind::Job => note_job(sender, fired, rows),
        Kind::Store => note_store(sender, fired, rows),
    }
}

fn note_event(sender: &Sender, fired: Fired<'_>, rows: &Rows) -> Outcome<()> {
    sender.with_event(fired, rows, |name, payload| {
        let to = match sender.kind {
            Kind::Publish => To::Channel(name),
            _ => To::Stream { name, length_max: sender.length_max },
        };
        events::note_event(sender.durable, Event { to, payload })
    })
}

fn note_job(sender: &Sender, fired: Fired<'_>, rows: &Rows) -> Outcome<()> {
    sender.with_event(fired, rows, |name, payload| {
        let (queue, payload) = (name.into(), payload.into());
        events::note(sender.durable, Message::Job { queue, id: jobs::new_id(), payload })
    })
}

/// Deletes the key that the row had, and stores what it has.
fn note_store(sender: &Sender, fired: Fired<'_>, rows: &Rows) -> Outcome<()> {
    let left = rows
        .old
        .as_ref()
        .filter(|old| rows.new.as_ref().is_none_or(|new| !sender.keeps_name(old, new)));
    let was = fired.row_before().and_then(|row| fired.version(row));
    let is = fired.row_after().and_then(|row| fired.version(row));
    let is_kept = left.is_none();
    if let Some(old) = left {
        note_key(sender, sender.name(fired, old)?, Stored::Nothing, Row { was, is: None })?;
    }
    let Some(new) = &rows.new else { return Ok(()) };
    let value = match sender.as_hash {
        true => Stored::Hash(sender.fields(fired, new)?),
        false => Stored::Text(sender.image(fired, new)?),
    };
    let row = Row { was: was.filter(|_| is_kept), is };
    note_key(sender, sender.name(fired, new)?, value, row)
}

/// An UPDATE that does not count: but of a row that was stored in this transaction, who it is.
fn note_stay(sender: &Sender, fired: Fired<'_>, rows: &Rows) -> Outcome<()> {
    let (Some(new), Some(before), Some(after)) = (&rows.new, fired.row_before(), fired.row_after())
    else {
        return Ok(());
    };
    let (was, is) = (fired.version(before), fired.version(after));
    if was.is_none() || is.is_none() || !before.is_made_here() {
        return Ok(());
    }
    let key = sender.name(fired, new)?;
    events::note_of(sender.durable, stored(sender, key, Stored::Nothing), Row { was, is })
}

fn note_key(sender: &Sender, key: Box<[u8]>, value: Stored, row: Row) -> Outcome<()> {
    commit::note_stored(sender.durable, &key)?;
    events::note_of(sender.durable, stored(sender, key, value), row)
}

fn stored(sender: &Sender, key: Box<[u8]>, value: Stored) -> Message {
    Message::Store { key, token: Box::default(), ttl_ms: sender.ttl_ms, value }
}
