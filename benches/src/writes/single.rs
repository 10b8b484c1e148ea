//! What one event adds to a commit of one row, counted in round trips to Redis.
//!
//! Owns a table for each way. The invariant: the round trip is made where an application would make
//! its own, right behind the same commit, in the same rounds, and counts for what it makes the both
//! of them longer; and every message has arrived. Break it and the yardstick meets warm caches and
//! processes that are awake, or leaves out that the next commit finds them asleep.

use std::time::Instant;

use pg_cache_testbed::Pair;
use serde_json::{Value, json};

use super::events::{self, NOTIFIED, PUBLISHED, SILENT, STREAMED, trigger};
use super::{Result, Row, Way, compare, turns};
use crate::Outcome;
use crate::raw_redis::{RawRedis, pack};
use crate::samples::quantile;

const COMMITS: i32 = 150;

/// Where processes run is drawn with each connection: there are many of them in a round.
const TURNS_A_ROUND: usize = 6;

/// Round trips that an event may add to a commit.
const TRIPS_GOAL: f64 = 1.0;

const ASKED: Way =
    Way { id: "asked", title: "XADD by the application", setup: |_| String::new(), ..SILENT };

const STORED: Way = Way {
    id: "stored",
    title: "redis_store('order:{id}')",
    setup: |table| trigger(table, "redis_store('order:{id}')"),
    ..SILENT
};

const QUEUED: Way = Way {
    id: "queued",
    title: "redis_job('mailer')",
    setup: |table| trigger(table, "redis_job('mailer')"),
    ..SILENT
};

const WAYS: [Way; 7] = [SILENT, ASKED, NOTIFIED, STREAMED, PUBLISHED, QUEUED, STORED];

/// Those that make one round trip.
const ONE_TRIP: [&str; 3] = [STREAMED.id, PUBLISHED.id, QUEUED.id];

fn sends(way: &Way) -> bool {
    ONE_TRIP.contains(&way.id) || way.id == STORED.id
}

/// What a way adds to a commit, in round trips, by round.
pub struct Trips {
    way: Way,
    rounds: Vec<f64>,
}

impl Trips {
    fn of(&self, part: f64) -> f64 {
        quantile(self.rounds.iter().copied(), part)
    }

    fn goal(&self) -> Option<f64> {
        ONE_TRIP.contains(&self.way.id).then_some(TRIPS_GOAL)
    }
}

pub fn measure(pair: &Pair, rounds: usize) -> Outcome<(Row, Vec<Trips>)> {
    let mut sql = pair.postgres.connect_as("postgres", events::DATABASE);
    for way in [ASKED, STORED, QUEUED] {
        events::create(&mut sql, &way)?;
    }
    drop(sql);
    let mut results: Vec<Result> = WAYS.iter().map(|way| Result::new(way, None)).collect();
    let told = WAYS.iter().filter(|way| sends(way));
    let mut trips: Vec<Trips> = told.map(|way| Trips { way: *way, rounds: Vec::new() }).collect();
    for round in 0..rounds * TURNS_A_ROUND {
        for turn in turns(WAYS.len(), round) {
            results[turn].rounds.push(once(pair, &WAYS[turn])?);
        }
        compare(&mut results);
        let last = |id: &str| {
            let result = results.iter().find(|result| result.id == id);
            result.and_then(|result| result.rounds.last()).copied().unwrap_or(f64::NAN)
        };
        for told in &mut trips {
            let trip = last(ASKED.id) - last(SILENT.id);
            told.rounds.push((last(told.way.id) - last(SILENT.id)) / trip);
        }
    }
    Ok((Row { what: "single-row INSERT, µs".into(), results }, trips))
}

/// The median time of a commit, with the application's own round trip where it makes one.
fn once(pair: &Pair, way: &Way) -> Outcome<f64> {
    let mut sql = events::begin(pair, way)?;
    let insert = sql
        .prepare(&format!("INSERT INTO {} VALUES ($1, 1, 'new', 1.25, now(), 'a note')", way.id))?;
    let mut redis = RawRedis::connect(pair.redis.socket())?;
    let row = format!(r#"{{"id":1,"status":"new","total":1.25,"note":"{}"}}"#, "n".repeat(200));
    let add = pack(&["XADD", "own", "MAXLEN", "~", "100000", "*", "event", &row]);
    let mut times_us = Vec::new();
    for id in 1..=COMMITS {
        let start = Instant::now();
        sql.execute(&insert, &[&id])?;
        if way.id == ASKED.id {
            redis.ask(&add)?;
        }
        times_us.push(start.elapsed().as_secs_f64() * 1e6);
    }
    events::end(pair, sql, way, sends(way))?;
    Ok(quantile(times_us.iter().copied(), 0.5))
}

pub fn print(trips: &[Trips]) {
    println!("\nBeyond a commit without, in what the application's own XADD behind it takes:\n");
    for told in trips {
        let goal = match told.goal() {
            Some(goal) if told.of(0.5) <= goal => format!("; goal: at most {goal}"),
            Some(goal) => format!("; goal: at most {goal}: MISSED"),
            None => "; it makes two: the token goes before the commit, the row behind it".into(),
        };
        let (low, high) = (told.of(0.25), told.of(0.75));
        println!("- {}: {:.2} ({low:.2} to {high:.2}){goal}", told.way.title, told.of(0.5));
    }
}

pub fn as_json(trips: &[Trips]) -> Value {
    let one = |told: &Trips| {
        json!({
            "way": told.way.id, "trips": told.of(0.5), "trips_quartile_1": told.of(0.25),
            "trips_quartile_3": told.of(0.75), "goal": told.goal(),
        })
    };
    trips.iter().map(one).collect()
}
