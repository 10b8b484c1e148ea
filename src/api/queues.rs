//! `redis_enqueue`, `redis_dequeue`, `redis_ack`, `redis_nack`, and what looks at queues.

use std::borrow::Cow;

use pg_cache_core::error::{Error, Queue};

use crate::pg::call::Call;
use crate::pg::error::Outcome;
use crate::pg::{Datum, jsonb, text, ttl};
use crate::{jobs, sidekiq};

sql_function!(redis_enqueue, pg_finfo_redis_enqueue, enqueue);

/// Where a further format goes: each is a way to write a job down for the commit.
fn enqueue(call: &Call) -> Outcome<Datum> {
    let queue = queue(call)?;
    let payload = call.datum(1).ok_or(Error::NullArgument { name: "payload" })?;
    let payload = utf8(jsonb::to_text(payload));
    let delay_ms = ttl::read_time(call, 2, "delay")?.unwrap_or(0);
    let id = call.datum(3).map(|id| utf8(text::bytes(id)));
    let new = jobs::New { queue: &queue, payload: &payload, delay_ms, id: id.as_deref() };
    let format = call.text(4).ok_or(Error::NullArgument { name: "format" })?;
    let id = match format.as_str() {
        "stream" => jobs::enqueue(&new)?,
        "sidekiq" => sidekiq::enqueue(&new)?,
        _ => return Err(Error::from(Queue::Format { format }).into()),
    };
    Ok(match call.datum(3) {
        Some(given) => given,
        None => text::datum(&id),
    })
}

fn queue<'a>(call: &Call) -> Outcome<Cow<'a, [u8]>> {
    let queue = utf8(text::bytes(call.datum(0).ok_or(Error::NullArgument { name: "queue" })?));
    jobs::check_name(&queue)?;
    Ok(queue)
}

/// A text as it goes to Redis: in UTF-8, or by its bytes where it has none.
fn utf8(bytes: &[u8]) -> Cow<'_, [u8]> {
    text::to_utf8(bytes).unwrap_or(Cow::Borrowed(bytes))
}
