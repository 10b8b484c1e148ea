//! `redis_publish(channel, payload)` and `redis_at_commit(cmd, …)`: they leave with the commit.

use pg_cache_core::command::Kind;
use pg_cache_core::error::Error;
use pg_cache_core::message::Message;

use crate::events;
use crate::pg::arguments;
use crate::pg::call::Call;
use crate::pg::error::Outcome;
use crate::pg::{Datum, guc, text};

sql_function!(redis_publish_text, pg_finfo_redis_publish_text, publish);
sql_function!(redis_at_commit, pg_finfo_redis_at_commit, at_commit);

fn publish(call: &Call) -> Outcome<Datum> {
    let channel = part(call.datum(0), "channel")?;
    let payload = part(call.datum(1), "payload")?;
    note(Message::Publish { channel, payload })?;
    Ok(call.void())
}

fn at_commit(call: &Call) -> Outcome<Datum> {
    let mut command = vec![part(call.datum(0), "cmd")?];
    for argument in call.datum(1).map(arguments::members).unwrap_or_default() {
        command.push(part(argument.value, "args")?);
    }
    let kind = Kind::of(&command[0], &command[1..]);
    if kind != Kind::Ordinary {
        let command = String::from_utf8_lossy(&command[0]).into_owned();
        return Err(Error::CommandRefused { command, why: kind.sentence() }.into());
    }
    note(Message::Command { arguments: command })?;
    Ok(call.void())
}

/// A text as it goes to Redis: in UTF-8, or by its bytes where it has none.
fn part(value: Option<Datum>, name: &'static str) -> Outcome<Box<[u8]>> {
    let bytes = text::bytes(value.ok_or(Error::NullArgument { name })?);
    Ok(text::to_utf8(bytes).map_or_else(|| bytes.into(), |utf8| utf8.into_owned().into()))
}

fn note(message: Message) -> Outcome<()> {
    let (bytes, bytes_max) = (message.bytes(), guc::value_bytes_max());
    if bytes > bytes_max.saturating_add(size_of::<Message>()) {
        return Err(Error::MessageTooLarge { bytes, bytes_max }.into());
    }
    events::note(false, message)
}
