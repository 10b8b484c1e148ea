//! `redis_enqueue`, `redis_dequeue`, `redis_ack`, `redis_nack`, and what looks at queues.

use std::borrow::Cow;

use pg_cache_core::error::{Error, Queue};
use pg_cache_core::queue::{check_count, check_id};

use crate::pg::call::Call;
use crate::pg::error::Outcome;
use crate::pg::{Datum, arguments, jsonb, recordset, text, ttl, xact};
use crate::{jobs, sidekiq};

sql_function!(redis_enqueue, pg_finfo_redis_enqueue, enqueue);
sql_function!(redis_dequeue, pg_finfo_redis_dequeue, dequeue);
sql_function!(redis_ack, pg_finfo_redis_ack, ack);
sql_function!(redis_nack, pg_finfo_redis_nack, nack);
sql_function!(redis_requeue, pg_finfo_redis_requeue, requeue);
sql_function!(redis_dead, pg_finfo_redis_dead, dead);
sql_function!(redis_queues_json, pg_finfo_redis_queues_json, queues_json);

/// Where a further format goes: each is a way to write a job down for the commit.
fn enqueue(call: &Call) -> Outcome<Datum> {
    let queue = queue(call)?;
    let payload = call.datum(1).ok_or(Error::NullArgument { name: "payload" })?;
    let payload = utf8(jsonb::to_text(payload), "payload")?;
    let delay_ms = ttl::read_time(call, 2, "delay")?.unwrap_or(0);
    let id = call.datum(3).map(|id| utf8(text::bytes(id), "id")).transpose()?;
    let new = jobs::New { queue: &queue, payload: &payload, delay_ms, id: id.as_deref() };
    let format = call.text(4).ok_or(Error::NullArgument { name: "format" })?;
    // The outbox is written to at the commit, where nobody could tell what for.
    xact::refuse_on_standby(c"redis_enqueue()");
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

fn dequeue(call: &Call) -> Outcome<Datum> {
    let queue = queue(call)?;
    let count = count(call, 1)?;
    let wait_ms = ttl::read_time(call, 2, "wait")?.unwrap_or(0);
    let consumer = call.datum(3).map(|consumer| utf8(text::bytes(consumer), "consumer"));
    let consumer = consumer.transpose()?;
    if consumer.as_ref().is_some_and(|consumer| consumer.is_empty()) {
        return Err(Error::from(Queue::Empty { name: "consumer" }).into());
    }
    let request = jobs::Request {
        queue: &queue,
        datum: as_given(&queue),
        count,
        wait_ms,
        consumer: consumer.as_deref(),
    };
    let rows = jobs::dequeue(&request)?;
    recordset::return_rows(call, json_of(&rows))
}

fn ack(call: &Call) -> Outcome<Datum> {
    let queue = queue(call)?;
    let members = call.datum(1).ok_or(Error::NullArgument { name: "ids" })?;
    let mut given = Vec::new();
    for member in arguments::members(members) {
        let datum = member.value.ok_or(Error::NullArgument { name: "ids" })?;
        let id = utf8(text::bytes(datum), "ids")?.into_owned().into();
        given.push(jobs::Given { datum, id });
    }
    Ok(Datum::from(jobs::ack(&queue, as_given(&queue), given)?))
}

fn nack(call: &Call) -> Outcome<Datum> {
    let (queue, id) = (queue(call)?, id(call, 1)?);
    let delay_ms = ttl::read_time(call, 2, "delay")?;
    let error = call.datum(3).map(|error| utf8(text::bytes(error), "error"));
    let error = error.transpose()?.unwrap_or_default();
    jobs::nack(&queue, &id, delay_ms, &error)?;
    Ok(call.void())
}

fn requeue(call: &Call) -> Outcome<Datum> {
    let (queue, id) = (queue(call)?, id(call, 1)?);
    Ok(Datum::from(jobs::requeue(&queue, &id)?))
}

fn dead(call: &Call) -> Outcome<Datum> {
    let rows = jobs::dead(&queue(call)?, count(call, 1)?)?;
    recordset::return_rows(call, text::json(&rows))
}

fn queues_json(_call: &Call) -> Outcome<Datum> {
    Ok(text::json(&jobs::queues()?))
}

fn count(call: &Call, index: usize) -> Outcome<usize> {
    let max = call.datum(index).ok_or(Error::NullArgument { name: "max" })?;
    Ok(check_count(max.value() as i32)?)
}

fn id<'a>(call: &Call, index: usize) -> Outcome<Cow<'a, [u8]>> {
    let id = call.datum(index).ok_or(Error::NullArgument { name: "id" })?;
    let id = utf8(text::bytes(id), "id")?;
    check_id(&id)?;
    Ok(id)
}

/// A text of ours, each part of which is known to have an equivalent.
fn json_of(rows: &str) -> Datum {
    text::json_from_utf8(rows.as_bytes()).unwrap_or_else(|| text::datum(b"[]"))
}

fn queue<'a>(call: &Call) -> Outcome<Cow<'a, [u8]>> {
    let queue = call.datum(0).ok_or(Error::NullArgument { name: "queue" })?;
    let queue = utf8(text::bytes(queue), "queue")?;
    jobs::check_name(&queue)?;
    Ok(queue)
}

/// A queue's name as SQL gave it, in the database's encoding.
fn as_given(queue: &[u8]) -> Datum {
    text::datum(text::from_utf8(queue).as_deref().unwrap_or(queue))
}

/// A text as it goes to Redis.
fn utf8<'a>(bytes: &'a [u8], name: &'static str) -> Outcome<Cow<'a, [u8]>> {
    text::to_utf8(bytes).ok_or_else(|| Error::from(Queue::NotUtf8 { name }).into())
}
