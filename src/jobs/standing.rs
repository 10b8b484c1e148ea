//! How queues stand, and what they gave up.

use pg_cache_core::queue::QueueKeys;
use serde_json::{Value, json};

use crate::client::queues as client;
use crate::pg::error::Outcome;
use crate::pg::{guc, jsonb, text};
use crate::{direct, registry};

/// How many queues are shown, in the order of their names.
const QUEUES_MAX: usize = 1000;

/// The queues of this database: those whose names begin with its prefix.
pub fn queues() -> Outcome<Value> {
    let prefix = registry::prefix_in_time()?.unwrap_or_default();
    let mut names: Vec<Vec<u8>> = direct::ask(client::names)?.into_iter().collect();
    names.retain(|name| {
        name.strip_prefix(&prefix[..]).is_some_and(|rest| text::from_utf8(rest).is_some())
    });
    names.sort_unstable();
    names.truncate(QUEUES_MAX);
    let mut rows = Vec::with_capacity(names.len());
    for name in names {
        let keys = QueueKeys::new(&name);
        let standing = direct::ask(|session| client::standing(session, &keys))?;
        let Some((ready, in_flight, delayed, dead, age_ms)) = standing else {
            // Whoever uses it again lists it again.
            direct::ask(|session| client::unlist(session, &name))?;
            continue;
        };
        let age = (age_ms >= 0).then(|| format!("{}.{:03} s", age_ms / 1000, age_ms % 1000));
        rows.push(json!({
            "queue": String::from_utf8_lossy(&name[prefix.len()..]),
            "ready": ready,
            "in_flight": in_flight,
            "delayed": delayed,
            "dead": dead,
            "oldest_age": age,
        }));
    }
    Ok(Value::Array(rows))
}

/// The jobs of a queue that were given up, the last first.
pub fn dead(queue: &[u8], count: usize) -> Outcome<Value> {
    let keys = QueueKeys::new(&direct::name(queue)?);
    let bytes_max = guc::value_bytes_max();
    let found = direct::ask(|session| client::dead(session, &keys, count, bytes_max))?;
    // What this database cannot hold is shown as far as it can.
    let shown = |bytes: &[u8]| match text::from_utf8(bytes) {
        Some(_) => String::from_utf8_lossy(bytes).into_owned(),
        None => bytes.escape_ascii().to_string(),
    };
    let row = |(id, payload, attempts, error, enqueued_ms, died_ms): client::Dead| {
        json!({
            "id": shown(&id),
            "payload": shown(&payload),
            "attempts": attempts,
            "error": Some(shown(&error)).filter(|error| !error.is_empty()),
            "enqueued_at": jsonb::moment(enqueued_ms),
            "died_at": jsonb::moment(died_ms),
        })
    };
    Ok(Value::Array(found.into_iter().map(row).collect()))
}
