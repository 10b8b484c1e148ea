//! What is measured: each case one call, its place in the rounds, and what it is compared with.
//!
//! Owns the list. The invariant: a case says what its call must be to the cache (a hit, a fill,
//! neither), so that the counters can prove it was. Break it and a broken cache shows a fast hit.

use std::sync::atomic::{AtomicI64, Ordering};

use pg_cache_testbed::Pair;
use postgres::Client;
use postgres::types::ToSql;

use crate::Outcome;
use crate::entries::{Entries, Size, TTL_S};
use crate::flights::Flights;
use crate::raw_redis::{RawRedis, pack};

/// The connections of one layout: one backend, two connections to Redis.
pub struct Connections {
    pub sql: Client,
    pub raw: RawRedis,
    pub redis: redis::Connection,
}

impl Connections {
    pub fn open(pair: &Pair) -> Outcome<Connections> {
        Ok(Connections {
            sql: pair.postgres.connect(),
            raw: RawRedis::connect(pair.redis.socket())?,
            redis: pair.redis.client(),
        })
    }
}

/// What the cache must count for a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counts {
    Nothing,
    Hit,
    Fill,
}

/// How often a case comes up, and how many calls it makes then.
#[derive(Clone, Copy)]
pub struct Pace {
    /// In each round whose number this divides.
    pub every: usize,
    /// Calls before the measured ones: the case before this one left other things in the caches.
    pub unmeasured: usize,
    pub measured: usize,
}

const BRISK: Pace = Pace { every: 1, unmeasured: 40, measured: 100 };
const LARGE: Pace = Pace { every: 1, unmeasured: 1, measured: 4 };

type Call = Box<dyn FnMut(&mut Connections) -> Outcome<()>>;

pub struct Case {
    pub id: String,
    pub title: String,
    /// The case that this one is shown as a multiple of.
    pub beside: Option<String>,
    pub counts: Counts,
    pub pace: Pace,
    pub call: Call,
}

impl Case {
    fn new(id: &str, title: &str, pace: Pace, call: Call) -> Case {
        let (id, title) = (id.to_owned(), title.to_owned());
        Case { id, title, beside: None, counts: Counts::Nothing, pace, call }
    }

    fn beside(self, other: &str) -> Case {
        Case { beside: Some(other.to_owned()), ..self }
    }

    fn counts(self, counts: Counts) -> Case {
        Case { counts, ..self }
    }
}

/// All of them, in the order of a round.
pub fn all(
    connections: &mut Connections,
    entries: &Entries,
    flights: &Flights,
    rounds: usize,
) -> Outcome<Vec<Case>> {
    let sql = &mut connections.sql;
    let mut cases = vec![Case::new("select_1", "SELECT 1", BRISK, prepared(sql, "SELECT 1")?)];
    cases.extend(yardsticks(entries));
    cases.extend(hits(sql)?);
    cases.extend(computed(sql)?);
    cases.extend(of_flights(flights, rounds));
    Ok(cases)
}

fn yardsticks(entries: &Entries) -> Vec<Case> {
    let small = Size::Small.key();
    let get = |size: Size| asked_raw(pack(&["GET", &size.key()]));
    let mut look = pack(&["MGET", &small, entries.sidecar_key(Size::Small)]);
    let mut replies = 1;
    if let Some(table) = entries.tag_table() {
        // The generation, the base, the catalogue, the key and two tags of the table.
        look.extend(pack(&["HMGET", table, "R", "B", "C", "1", "2", "3"]));
        // Who answers, which is asked behind each look at a table in Redis.
        look.extend(pack(&["INFO", "replication"]));
        replies += 2;
    }
    let look: Call = Box::new(move |connections| {
        connections.raw.ask_all(&look, replies)?;
        Ok(())
    });
    let mut command = redis::cmd("GET");
    command.arg(&small);
    let by_redis_rs: Call = Box::new(move |connections| {
        command.query::<Vec<u8>>(&mut connections.redis)?;
        Ok(())
    });
    vec![
        Case::new("get_150", "raw GET 150 B", BRISK, get(Size::Small)),
        Case::new("get_150_redis_rs", "GET 150 B by redis-rs", BRISK, by_redis_rs)
            .beside("get_150"),
        Case::new("look_150", "raw, what a hit asks for", BRISK, look).beside("get_150"),
        Case::new("get_10k", "raw GET 10 kB", BRISK, get(Size::Medium)).beside("get_150"),
        Case::new("get_1m", "raw GET 1 MB", LARGE, get(Size::Large)).beside("get_150"),
    ]
}

fn hits(sql: &mut Client) -> Outcome<Vec<Case>> {
    let mut hit = |id: &str, title: &str, pace: Pace, text: &str, beside: &str| {
        let call = prepared(sql, text)?;
        Outcome::Ok(Case::new(id, title, pace, call).counts(Counts::Hit).beside(beside))
    };
    let of = |size: Size| format!("SELECT {}", size.cached());
    let rows = format!(
        "SELECT * FROM redis_cached_rows('{}', {TTL_S}, '{}') AS t(id int, name text, note text)",
        Size::Small.key(),
        Size::Small.query()
    );
    let with_argument = format!(
        "SELECT redis_cached('hit_argument:1', {TTL_S},
                             'SELECT id, name, note FROM measured WHERE id = $1', 1)"
    );
    Ok(vec![
        hit("hit_150", "redis_cached hit 150 B", BRISK, &of(Size::Small), "get_150")?,
        hit("hit_150_argument", "… with an argument", BRISK, &with_argument, "get_150")?,
        hit("hit_150_rows", "redis_cached_rows hit 150 B", BRISK, &rows, "get_150")?,
        hit("hit_10k", "redis_cached hit 10 kB", BRISK, &of(Size::Medium), "get_10k")?,
        hit("hit_1m", "redis_cached hit 1 MB", LARGE, &of(Size::Large), "get_1m")?,
    ])
}

/// The same look-up by itself and through a cache that does not have it.
fn computed(sql: &mut Client) -> Outcome<Vec<Case>> {
    // Another key for each call of the whole run, layouts included.
    static NEXT: AtomicI64 = AtomicI64::new(0);
    let query = Size::Small.query();
    let fill =
        sql.prepare(&format!("SELECT redis_cached('fill:' || $1::bigint, {TTL_S}, '{query}')"))?;
    let call: Call = Box::new(move |connections| {
        let number: &(dyn ToSql + Sync) = &NEXT.fetch_add(1, Ordering::Relaxed);
        connections.sql.query_one(&fill, &[number])?;
        Ok(())
    });
    Ok(vec![
        Case::new("plain", "look-up by primary key", BRISK, prepared(sql, &query)?)
            .beside("select_1"),
        Case::new("fill", "… redis_cached, miss and fill", BRISK, call)
            .counts(Counts::Fill)
            .beside("plain"),
        Case::new("plain_1m", "look-up of 1 MB", LARGE, prepared(sql, &Size::Large.query())?)
            .beside("get_1m"),
    ])
}

/// As text and unprepared, both ways: as a person at psql would.
fn of_flights(flights: &Flights, rounds: usize) -> Vec<Case> {
    // They take long: some twenty calls in a run.
    let slow = Pace { every: (rounds / 20).max(1), unmeasured: 0, measured: 1 };
    let mut cases = Vec::new();
    for query in &flights.queries {
        let (plain, cached) = (format!("{}_plain", query.name), format!("{}_cached", query.name));
        let title = format!("flights: {}", query.name);
        cases.push(Case::new(&plain, &title, slow, simple(query.text.clone())));
        cases.push(
            Case::new(&cached, "… redis_cached hit", BRISK, simple(query.cached()))
                .counts(Counts::Hit)
                .beside(&plain),
        );
    }
    cases
}

fn prepared(sql: &mut Client, text: &str) -> Outcome<Call> {
    let statement = sql.prepare(text)?;
    Ok(Box::new(move |connections| {
        connections.sql.query_one(&statement, &[])?;
        Ok(())
    }))
}

fn simple(text: String) -> Call {
    Box::new(move |connections| {
        connections.sql.simple_query(&text)?;
        Ok(())
    })
}

fn asked_raw(command: Vec<u8>) -> Call {
    Box::new(move |connections| {
        connections.raw.ask(&command)?;
        Ok(())
    })
}
