//! The commands by which messages of the outbox reach Redis.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use pg_cache_core::key::{EntryKeys, stream_record};
use pg_cache_core::message::batch::Call;
use pg_cache_core::message::hold::{IN_ORDER, UNSURE};
use pg_cache_core::message::place::Place;
use pg_cache_core::message::record;
use pg_cache_core::message::{Message, Stored};
use pg_cache_core::queue::QueueKeys;
use redis::{Cmd, Pipeline, Script};

use super::super::queues;
use super::Claims;

pub static APPEND: LazyLock<Script> = LazyLock::new(|| Script::new(APPEND_TEXT));
pub static STORE: LazyLock<Script> = LazyLock::new(|| Script::new(STORE_TEXT));

const APPEND_TEXT: &str = include_str!("../lua/append_5.lua");
const STORE_TEXT: &str = include_str!("../lua/store_4.lua");

/// The texts of the scripts that calls need.
pub fn scripts_of(batch: &[(Place, &Message)], calls: &[Call]) -> BTreeSet<&'static str> {
    let script = |call: &Call| match call {
        Call::Append(_) => Some(APPEND_TEXT),
        Call::Other(at) => match batch[*at].1 {
            Message::Store { .. } => Some(STORE_TEXT),
            Message::Done { .. } => Some(queues::FINISH_TEXT),
            _ => None,
        },
    };
    calls.iter().filter_map(script).collect()
}

/// What sends calls, in their order.
pub fn pipeline(claims: &Claims, batch: &[(Place, &Message)], calls: &[Call]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(calls.len());
    let mut lasts: HashMap<&[u8], Place> = HashMap::new();
    for call in calls {
        pipeline.add_command(match call {
            Call::Append(events) => append(claims, batch, events, &mut lasts),
            Call::Other(at) => other(batch[*at].1),
        });
    }
    pipeline
}

pub fn evalsha(script: &Script, keys: &[&[u8]]) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys.len()).arg(keys);
    command
}

fn append<'a>(
    claims: &Claims,
    batch: &[(Place, &'a Message)],
    events: &[usize],
    lasts: &mut HashMap<&'a [u8], Place>,
) -> Cmd {
    let Some((_, first)) = events.first().map(|at| batch[*at]) else { return Cmd::new() };
    let Some(stream) = first.stream() else { return Cmd::new() };
    let keys = QueueKeys::new(stream);
    let record = stream_record(stream);
    let mut command = evalsha(&APPEND, &[stream, &record, &keys.jobs, &keys.due, &keys.done]);
    command.arg(&claims.scope).arg(&claims.nonce);
    // The record holds places whose rows are not deleted: those of an earlier call too.
    let after = events.last().and_then(|at| lasts.insert(stream, batch[*at].0));
    let is_first = after.is_none() && !claims.streams.must_keep(stream);
    command.arg(if is_first { "replace" } else { "add" });
    let length_max = match first {
        Message::Append { length_max: Some(length_max), .. } => length_max.to_string(),
        _ => String::new(),
    };
    command.arg(length_max).arg(record::text(events.iter().map(|at| batch[*at].0)));
    command.arg(after.map(|place| place.to_string()).unwrap_or_default());
    command.arg(match first {
        Message::Job { .. } => "job",
        Message::Enqueue { .. } => "enqueue",
        _ => "event",
    });
    for at in events {
        match batch[*at].1 {
            Message::Append { payload, .. } => command.arg(&payload[..]),
            Message::Job { id, payload, .. } => command.arg(&id[..]).arg(&payload[..]),
            Message::Enqueue { id, payload, delay_ms, is_named, .. } => {
                command.arg(&id[..]).arg(&payload[..]).arg(delay_ms).arg(u8::from(*is_named))
            }
            _ => &mut command,
        };
    }
    command
}

fn other(message: &Message) -> Cmd {
    match message {
        Message::Publish { channel, payload } => {
            let mut command = redis::cmd("PUBLISH");
            command.arg(&channel[..]).arg(&payload[..]);
            command
        }
        Message::Store { key, token, ttl_ms, value } => store(key, token, *ttl_ms, value),
        Message::Command { arguments } => {
            let mut command = Cmd::new();
            for argument in arguments {
                command.arg(&argument[..]);
            }
            command
        }
        Message::Done { queue, jobs } => queues::finish(queue, jobs),
        // They have calls of their own kind.
        Message::Append { .. } | Message::Job { .. } | Message::Enqueue { .. } => Cmd::new(),
    }
}

/// The call that sets a key, if the token beside it is still the caller's.
fn store(key: &[u8], token: &[u8], ttl_ms: Option<u64>, value: &Stored) -> Cmd {
    let keys = EntryKeys::new(key);
    let mut command = evalsha(&STORE, &[key, keys.sidecar(), &keys.lease(), &keys.token()]);
    let kind = match value {
        Stored::Text(_) => "text",
        Stored::Hash(_) => "hash",
        Stored::Nothing => "nothing",
    };
    let way = if token.starts_with(UNSURE) { &[][..] } else { IN_ORDER };
    command.arg([way, token].concat());
    command.arg(kind).arg(ttl_ms.map(|ttl| ttl.to_string()).unwrap_or_default());
    match value {
        Stored::Text(text) => {
            command.arg(&text[..]);
        }
        Stored::Hash(fields) => {
            for (name, value) in fields {
                command.arg(&name[..]).arg(&value[..]);
            }
        }
        Stored::Nothing => {}
    }
    command
}
