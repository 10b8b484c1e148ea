//! The relay, while everything that takes part in it is killed at moments that a seed chooses.
//!
//! Writers commit rows of a ledger whose trigger sends durable events. Afterwards the ledger, which
//! PostgreSQL keeps, is compared with the streams, which Redis keeps on its disk: nothing lost,
//! nothing twice, nothing of a transaction that was rolled back, and in the order of the commits.
//! `PG_CACHE_KILLS=1000` kills that often; `PG_CACHE_SEED` repeats a run.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use pg_cache_e2e::kills::{connected, from_environment};
use pg_cache_e2e::outbox::events;
use pg_cache_e2e::registry::repair;
use pg_cache_testbed::{Pair, eventually};
use postgres::Client;

const LONG: Duration = Duration::from_secs(60);
const WRITERS: u64 = 3;
const KILLS: u64 = 30;

/// One transaction: events into a stream whose commits a row lock puts in order, or into one of the
/// writer's own, some in a savepoint that is undone; committed or not.
fn write(client: &mut Client, writer: u64, n: u64, rng: &mut Rng) -> Result<(), postgres::Error> {
    let mut transaction = client.transaction()?;
    if rng.u8(..) < 40 {
        transaction.batch_execute("SET LOCAL synchronous_commit = off")?;
    }
    let stream = if rng.bool() { "ordered".to_owned() } else { format!("own{writer}") };
    let table = format!("ledger_{stream}");
    let turn: i64 = match &stream[..] {
        "ordered" => {
            let sql = "UPDATE turn SET turn = turn + 1 RETURNING turn";
            transaction.query_one(sql, &[])?.get(0)
        }
        _ => n as i64,
    };
    for k in 0..rng.u64(1..4) {
        let event = format!("{turn}:{writer}:{n}:{k}");
        let sql = format!("INSERT INTO {table} (turn, event) VALUES ($1, $2)");
        transaction.execute(&sql, &[&turn, &event])?;
    }
    if rng.u8(..) < 60 {
        let mut savepoint = transaction.transaction()?;
        let sql = format!("INSERT INTO {table} (turn, event) VALUES (0, 'undone')");
        savepoint.batch_execute(&sql)?;
        savepoint.rollback()?;
    }
    if rng.u8(..) < 50 { transaction.rollback() } else { transaction.commit() }
}

fn start_writer(
    conninfo: String,
    writer: u64,
    seed: u64,
    is_over: Arc<AtomicBool>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut rng = Rng::with_seed(seed);
        let mut n = 0;
        while let Some(mut client) = connected(&conninfo, &is_over) {
            while !is_over.load(Ordering::Relaxed) {
                n += 1;
                if write(&mut client, writer, n, &mut rng).is_err() {
                    break;
                }
            }
        }
    })
}

/// A process of our server.
fn shoot(pid: Option<i32>) {
    if let Some(pid) = pid {
        // It may be gone by now.
        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    }
}

/// Kills one of those that take part, and brings it back.
fn kill(pair: &mut Pair, rng: &mut Rng, conninfo: &str) {
    const WORKER: &str = "backend_type = 'pg_cache worker'";
    const WRITER: &str = "backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let never = AtomicBool::new(false);
    let mut client = connected(conninfo, &never).unwrap();
    let mut pid = |who: &str| -> Option<i32> {
        let sql = format!("SELECT pid FROM pg_stat_activity WHERE {who} ORDER BY random() LIMIT 1");
        Some(client.query_opt(&sql, &[]).ok()??.get(0))
    };
    match rng.u8(0..10) {
        // Of a process of its own, the server makes a crash of everything.
        0 => shoot(pid(WORKER)),
        1 => shoot(pid(WRITER)),
        2 | 3 => {
            let who = if rng.bool() { WORKER } else { WRITER };
            let sql = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {who}");
            let _ = client.batch_execute(&sql);
        }
        4 => {
            drop(client);
            pair.postgres.crash();
            std::thread::sleep(Duration::from_millis(rng.u64(0..200)));
            pair.postgres.start_again();
        }
        5 | 6 => {
            pair.redis.stop();
            std::thread::sleep(Duration::from_millis(rng.u64(0..400)));
            pair.redis.start_again();
        }
        7 => {
            pair.redis.freeze();
            std::thread::sleep(Duration::from_millis(rng.u64(0..3000)));
            pair.redis.thaw();
        }
        _ => {
            let points = ["relay.sent", "relay.deleted", "relay.settled"];
            let point = points[rng.usize(..points.len())];
            let set =
                |value: &str| format!("ALTER DATABASE test SET pg_cache.fault_point = '{value}'");
            let _ = client.batch_execute(&set(&format!("{point}:exit")));
            let _ = client.batch_execute("SELECT redis_wake()");
            std::thread::sleep(Duration::from_millis(rng.u64(100..600)));
            if let Some(mut client) = connected(conninfo, &never) {
                let _ = client.batch_execute(&set(""));
            }
        }
    }
}

#[test]
fn whatever_is_killed_nothing_is_lost_doubled_or_out_of_order() {
    // Danger: the promise holds as long as nothing goes wrong.
    let kills = from_environment("PG_CACHE_KILLS").unwrap_or(KILLS);
    let seed = from_environment("PG_CACHE_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("PG_CACHE_SEED={seed} PG_CACHE_KILLS={kills}");
    let mut rng = Rng::with_seed(seed);
    let conf = [("max_worker_processes", "16"), ("autovacuum", "off")];
    let mut pair = Pair::start_with(&conf, &["--appendonly", "yes", "--appendfsync", "always"]);
    let mut client = pair.postgres.connect();
    repair(&mut client);
    client
        .batch_execute(
            "CREATE TABLE turn AS SELECT 0::bigint AS turn;
             CREATE TABLE other (v int);
             CREATE TRIGGER events AFTER INSERT ON other FOR EACH ROW
                 EXECUTE FUNCTION redis_stream('other', 'durable')",
        )
        .unwrap();
    for stream in streams() {
        let table = format!(
            "CREATE TABLE ledger_{stream} (id bigserial PRIMARY KEY, turn bigint, event text);
             CREATE TRIGGER events AFTER INSERT ON ledger_{stream} FOR EACH ROW
                 EXECUTE FUNCTION redis_stream('{stream}', 'durable', 'columns=event')"
        );
        client.batch_execute(&table).unwrap();
    }
    drop(client);
    let conninfo = pair.postgres.conninfo("test");
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| start_writer(conninfo.clone(), writer, rng.u64(..), is_over.clone()))
        .collect();
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(rng.u64(50..600)));
        kill(&mut pair, &mut rng, &conninfo);
    }
    is_over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().unwrap();
    }
    let wakes = ["SELECT redis_wake()", "INSERT INTO other VALUES (1)"];
    let mut client = all_delivered(&conninfo, wakes[rng.usize(..wakes.len())]);
    compare(&mut client, &pair);
}

/// Waits until nothing is left to send; whatever was killed last may still take the server down.
/// Somebody asks for a worker, or somebody's commit of something else does.
fn all_delivered(conninfo: &str, wake: &str) -> Client {
    let never = AtomicBool::new(false);
    let mut client = connected(conninfo, &never).unwrap();
    let mut tries = 0;
    eventually(LONG, &format!("all is delivered by {wake}"), || {
        // A commit leaves something to send itself: it is given the time for that.
        let wake = if tries % 100 == 0 { wake } else { "" };
        tries += 1;
        let left = client
            .batch_execute(&format!("ALTER DATABASE test SET pg_cache.fault_point = ''; {wake}"))
            .and_then(|()| client.query_one("SELECT count(*) FROM redis_outbox", &[]))
            .map(|row| row.get::<_, i64>(0));
        if left.is_err() {
            client = connected(conninfo, &never).unwrap();
        }
        left.is_ok_and(|left| left == 0)
    });
    client
}

fn streams() -> Vec<String> {
    let own = (0..WRITERS).map(|writer| format!("own{writer}"));
    std::iter::once("ordered".to_owned()).chain(own).collect()
}

/// What an event's row says.
fn told(event: &str) -> String {
    let (_, rest) = event.split_once("\"new\":{\"event\":\"").expect("an event of a row");
    rest.split('"').next().unwrap().to_owned()
}

fn compare(client: &mut Client, pair: &Pair) {
    let mut total = 0;
    for stream in streams() {
        let sql = format!("SELECT event FROM ledger_{stream} ORDER BY turn, id");
        let wanted: Vec<String> =
            client.query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
        let found: Vec<String> = events(&pair.redis, &stream).iter().map(|e| told(e)).collect();
        let differs = found.iter().zip(&wanted).position(|(found, wanted)| found != wanted);
        let at = differs.unwrap_or(found.len().min(wanted.len()));
        let near =
            |events: &[String]| events[at.saturating_sub(3)..events.len().min(at + 4)].to_vec();
        assert_eq!(near(&found), near(&wanted), "stream {stream} differs at {at}");
        assert_eq!(found.len(), wanted.len(), "stream {stream}");
        total += found.len();
    }
    println!("{total} events");
    assert!(total > 100, "the writers wrote: {total}");
}
