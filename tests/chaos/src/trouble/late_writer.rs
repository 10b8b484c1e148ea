//! A writer that has told Redis and commits much later, while Redis loses what it was told.
//!
//! Owns the two moments that chance brings about too rarely: the tag table goes while such a writer
//! is under way, empty or back to an old one. Only for builds with fault points, which hold the
//! writer between its BUMP and its commit record.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use postgres::Error;

use crate::session::Session;
use crate::world::{Side, World};

const HELD_MS: u64 = 1500;
const TOLD_MS: u64 = 150;
const MADE_TIME_MAX: Duration = Duration::from_secs(5);

/// Changes every row of `items`; `meanwhile` happens when Redis was told, before it is committed.
fn commit_late(world: &World, meanwhile: impl FnOnce()) {
    let ready = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let done = write(world, &ready);
            ready.store(true, Ordering::SeqCst);
            done
        });
        while !ready.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(TOLD_MS));
        meanwhile();
        if let Ok(Err(error)) = writer.join() {
            world.tally.error(&error);
        }
    });
}

fn write(world: &World, ready: &AtomicBool) -> Result<(), Error> {
    let Some(mut client) = world.connect(Side::Primary) else { return Ok(()) };
    client.batch_execute(&format!(
        "SET pg_cache.fault_point = 'commit.settled:sleep_{HELD_MS}'; SET lock_timeout = '2s'; \
         BEGIN; UPDATE items SET n = n + 1"
    ))?;
    ready.store(true, Ordering::SeqCst);
    client.batch_execute("COMMIT")
}

/// The table is lost, and a new one is made. A snapshot from between sees the new generation and
/// not the writer: only the base of the new table tells it so.
pub fn between_tables(world: &World, _: &mut Rng) {
    let mut session = None;
    let redis = world.redis();
    commit_late(world, || {
        let before = generation(world);
        redis.cli(&["FLUSHALL"]);
        let registered = soon(|| generation(world).is_some_and(|now| Some(now) != before));
        session = registered.then(|| Session::open(world, Side::Primary)).flatten();
        if let Some(session) = &mut session {
            session.begin();
            let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM items";
            let _ = session.client.batch_execute(begin);
        }
    });
    let Some(mut session) = session else { return };
    let Some(wanted) = generation(world).map(|found| found.replace('-', "")) else { return };
    soon(|| {
        let tables = redis.cli(&["--raw", "KEYS", "pgc:t:*"]);
        tables.lines().any(|table| redis.cli(&["HGET", table, "R"]) == wanted)
    });
    for (index, question) in world.questions.iter().enumerate() {
        if question.key.starts_with("items")
            && session.check(index, true, "repeatable read, older than the table").is_err()
        {
            return;
        }
    }
}

/// Redis starts again with an older table, which knows nothing of the writer, and whoever does not
/// look at its generation fills by it.
pub fn before_an_old_table(world: &World, _: &mut Rng) {
    let mut redis = world.redis();
    let earlier = redis.snapshot();
    commit_late(world, || {
        redis.stop();
        redis.start_again_from(&earlier);
    });
    world.tally.rest(Duration::from_secs(1));
}

fn generation(world: &World) -> Option<String> {
    let mut client = world.connect(Side::Primary)?;
    let row = client.query_opt("SELECT generation::text FROM redis_server", &[]);
    row.ok().flatten().map(|row| row.get(0))
}

/// Whether it comes true in time.
fn soon(mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < MADE_TIME_MAX {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}
