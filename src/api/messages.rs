//! `redis_publish(channel, payload)` and `redis_at_commit(cmd, …)`: they leave with the commit.

use pg_cache_core::command::Kind;
use pg_cache_core::error::{Asking, Error};
use pg_cache_core::key::check_not_ours;
use pg_cache_core::message::Message;

use crate::events;
use crate::pg::arguments::{all_for_redis, for_redis};
use crate::pg::call::Call;
use crate::pg::error::Outcome;
use crate::pg::{Datum, guc};

sql_function!(redis_publish_text, pg_finfo_redis_publish_text, publish);
sql_function!(redis_at_commit, pg_finfo_redis_at_commit, at_commit);

fn publish(call: &Call) -> Outcome<Datum> {
    let channel = for_redis(call.datum(0), "channel")?;
    check_not_ours(&channel)?;
    let payload = for_redis(call.datum(1), "payload")?;
    note(Message::Publish { channel, payload })?;
    Ok(call.void())
}

fn at_commit(call: &Call) -> Outcome<Datum> {
    let mut command = vec![for_redis(call.datum(0), "cmd")?];
    command.extend(all_for_redis(call, 1, "args")?);
    let kind = Kind::of(&command[0], &command[1..]);
    if kind != Kind::Ordinary {
        let command = String::from_utf8_lossy(&command[0]).into_owned();
        return Err(Error::from(Asking::Refused { command, kind }).into());
    }
    note(Message::Command { arguments: command })?;
    Ok(call.void())
}

fn note(message: Message) -> Outcome<()> {
    let (bytes, bytes_max) = (message.bytes(), guc::value_bytes_max());
    if bytes > bytes_max.saturating_add(size_of::<Message>()) {
        return Err(Error::MessageTooLarge { bytes, bytes_max }.into());
    }
    events::note(false, message)
}
