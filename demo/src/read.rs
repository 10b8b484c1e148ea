//! The questions, and asking them with and without the cache.
//!
//! Owns the measuring. The invariant: the time of a miss is the time of a call that really missed,
//! the time of a hit that of calls that really hit, and every answer is PostgreSQL's own, byte for
//! byte; otherwise the demo fails. Break it and the factor printed means nothing.

use std::time::{Duration, Instant};

use postgres::{Client, Statement};

use crate::stage::Stage;
use crate::{Failure, interrupt};

/// Hits are short: the median of this many is shown.
const HITS: usize = 101;

const CALL: &str = "SELECT redis_cached($1, interval '10 minutes', $2)::text";

/// A query that is worth caching.
pub struct Question {
    pub title: &'static str,
    pub key: &'static str,
    pub query: &'static str,
}

/// How one question was answered.
pub struct Answer {
    pub title: &'static str,
    pub rows: i64,
    /// The JSON that every call returned.
    pub text: String,
    /// The call that computed the answer and filled Redis.
    pub miss: Duration,
    /// The median of the calls that found it there.
    pub hit: Duration,
}

/// How the question was answered while Redis was down.
pub struct Without {
    pub title: &'static str,
    pub took: Duration,
    pub warnings: Vec<String>,
}

impl Question {
    pub fn all() -> [Question; 3] {
        [
            Question {
                title: "delays by airline and weather",
                key: "demo:delays_by_weather",
                query: include_str!("../queries/delays_by_weather.sql").trim_ascii_end(),
            },
            Question {
                title: "the 50 busiest routes",
                key: "demo:busiest_routes",
                query: include_str!("../queries/busiest_routes.sql").trim_ascii_end(),
            },
            Question {
                title: "planes by their maker",
                key: "demo:planes_by_maker",
                query: include_str!("../queries/planes_by_maker.sql").trim_ascii_end(),
            },
        ]
    }
}

/// Asks each question once for PostgreSQL and then again for Redis.
pub fn compare(stage: &Stage, questions: &[Question]) -> Result<Vec<Answer>, Failure> {
    let mut client = stage.client()?;
    let call = client.prepare(CALL)?;
    let mut answers = Vec::new();
    for question in questions {
        interrupt::check()?;
        answers.push(ask(&mut client, &call, question)?);
    }
    Ok(answers)
}

fn ask(client: &mut Client, call: &Statement, question: &Question) -> Result<Answer, Failure> {
    let expected = plain(client, question)?;
    let before = counters(client)?;
    let (text, miss) = timed(client, call, question)?;
    same(question, &text, &expected.1)?;
    let mut hits = Vec::with_capacity(HITS);
    for _ in 0..HITS {
        let (text, took) = timed(client, call, question)?;
        same(question, &text, &expected.1)?;
        hits.push(took);
    }
    hits.sort();
    let after = counters(client)?;
    let counted = (after.0 - before.0, after.1 - before.1);
    if counted != (HITS as i64, 1) {
        let (hits, misses) = counted;
        return Err(format!("{}: {hits} hits and {misses} misses", question.title).into());
    }
    Ok(Answer { title: question.title, rows: expected.0, text, miss, hit: hits[HITS / 2] })
}

/// The rows and the JSON that PostgreSQL makes of the query by itself. It also warms the tables, so
/// that the miss is not charged for reading them from disk.
fn plain(client: &mut Client, question: &Question) -> Result<(i64, String), Failure> {
    let sql = format!(
        "SELECT count(*), coalesce(json_agg(row_to_json(x)), '[]')::text FROM ({}) x",
        question.query
    );
    let row = client.query_one(&sql, &[])?;
    Ok((row.get(0), row.get(1)))
}

fn timed(
    client: &mut Client,
    call: &Statement,
    question: &Question,
) -> Result<(String, Duration), Failure> {
    let start = Instant::now();
    let row = client.query_one(call, &[&question.key, &question.query])?;
    let took = start.elapsed();
    Ok((row.get(0), took))
}

fn same(question: &Question, text: &str, expected: &str) -> Result<(), Failure> {
    if text == expected {
        return Ok(());
    }
    Err(format!("{}: the answer is not PostgreSQL's own", question.title).into())
}

/// Hits and misses of this backend.
fn counters(client: &mut Client) -> Result<(i64, i64), Failure> {
    let sql = "SELECT coalesce(sum(hits), 0)::bigint, coalesce(sum(misses), 0)::bigint
               FROM redis_stat_cached";
    let row = client.query_one(sql, &[])?;
    Ok((row.get(0), row.get(1)))
}

/// Stops Redis and asks once more, in a session that was connected to it.
pub fn without_redis(
    stage: &mut Stage,
    question: &Question,
    expected: &str,
) -> Result<Without, Failure> {
    let mut client = stage.client()?;
    let call = client.prepare(CALL)?;
    timed(&mut client, &call, question)?;
    stage.redis.stop();
    stage.take_warnings();
    let (text, took) = timed(&mut client, &call, question)?;
    same(question, &text, expected)?;
    Ok(Without { title: question.title, took, warnings: stage.take_warnings() })
}
