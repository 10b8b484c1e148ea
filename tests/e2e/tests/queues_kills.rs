//! Queues, while everything that takes part is killed at moments that a seed chooses.
//!
//! Eight workers take jobs, write a row for each, and acknowledge in the same transaction; some
//! fail on purpose, some are slower than their time allows. Afterwards every job's row must be
//! there, and once: the table of effects has no key that would help. `PG_CACHE_JOBS=100000` does
//! that many; `PG_CACHE_SEED` repeats a run.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use pg_cache_e2e::jobs::try_dequeue;
use pg_cache_e2e::kills::{connected, from_environment};
use pg_cache_e2e::registry::repair;
use pg_cache_testbed::{Pair, eventually};
use postgres::{Client, Error};

const WORKERS: u64 = 8;
const JOBS: u64 = 1_500;

/// Jobs of one transaction that puts some on the queue.
const BATCH: u64 = 50;

/// How many jobs may be there and not done.
const AHEAD_MAX: i64 = 2_000;

/// Nothing is lost, and the file is short enough to be read again in a moment.
const REDIS: [&str; 6] =
    ["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-min-size", "8mb"];

/// What the workers met, to see that the run was no walk in the park.
#[derive(Default)]
struct Tally {
    broken: AtomicU64,
    late: AtomicU64,
    again: AtomicU64,
    failed: AtomicU64,
}

/// Takes some jobs and does them in one transaction.
fn work(client: &mut Client, rng: &mut Rng, tally: &Tally) -> Result<(), Error> {
    let jobs = try_dequeue(client, "q", &format!(", {}, wait => 0.2", rng.u8(1..20)))?;
    if jobs.is_empty() {
        return Ok(());
    }
    tally.again.fetch_add(jobs.iter().filter(|j| j.attempt > 1).count() as u64, Ordering::Relaxed);
    let mut transaction = client.transaction()?;
    if rng.u8(..) < 40 {
        transaction.batch_execute("SET LOCAL synchronous_commit = off")?;
    }
    let numbers: Vec<i64> = jobs.iter().map(|job| job.payload.parse().unwrap()).collect();
    let ids: Vec<&str> = jobs.iter().map(|job| &job.id[..]).collect();
    transaction.execute("INSERT INTO effects SELECT unnest($1::bigint[])", &[&numbers])?;
    if rng.u8(..) < 4 {
        // Slower than it may be: others take over, and what they did may be forgotten by then.
        std::thread::sleep(Duration::from_millis(rng.u64(300..2500)));
    }
    if rng.u8(..) < 8 {
        tally.failed.fetch_add(1, Ordering::Relaxed);
        transaction.rollback()?;
        let nack = "SELECT redis_nack('q', id, 0.05, 'on purpose') FROM unnest($1::text[]) AS id";
        client.execute(nack, &[&ids])?;
        return Ok(());
    }
    let ack = "SELECT redis_ack('q', VARIADIC $1::text[])";
    match transaction.execute(ack, &[&ids]) {
        Err(error) if error.code().is_some_and(|code| code.code() == "40001") => {
            tally.late.fetch_add(1, Ordering::Relaxed);
            transaction.rollback()
        }
        Err(error) => Err(error),
        Ok(_) => transaction.commit(),
    }
}

fn start_worker(
    conninfo: String,
    seed: u64,
    is_over: Arc<AtomicBool>,
    tally: Arc<Tally>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut rng = Rng::with_seed(seed);
        while let Some(mut client) = connected(&conninfo, &is_over) {
            while !is_over.load(Ordering::Relaxed) {
                if work(&mut client, &mut rng, &tally).is_err() {
                    tally.broken.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
        }
    })
}

/// Puts all jobs on the queue, each once: which batches are committed, a table tells.
fn put_all(conninfo: &str, jobs: u64, is_over: &AtomicBool) {
    let mut client = connected(conninfo, is_over).unwrap();
    while !is_over.load(Ordering::Relaxed) {
        match put_some(&mut client, jobs) {
            Ok(true) => return,
            Ok(false) => {}
            Err(_) => client = connected(conninfo, is_over).unwrap(),
        }
    }
}

/// Puts the next batch on the queue, unless enough are there; true if all are.
fn put_some(client: &mut Client, jobs: u64) -> Result<bool, Error> {
    let next = format!("SELECT coalesce(max(first) + {BATCH}, 0) FROM put");
    let first = number(client, &next)?;
    if first >= jobs as i64 {
        return Ok(true);
    }
    if number(client, "SELECT count(*) FROM effects")? + AHEAD_MAX < first {
        std::thread::sleep(Duration::from_millis(20));
        return Ok(false);
    }
    let last = (first + BATCH as i64).min(jobs as i64) - 1;
    client.batch_execute(&format!(
        "BEGIN;
         INSERT INTO put VALUES ({first});
         SELECT CASE n % 4 WHEN 0 THEN redis_enqueue('q', to_jsonb(n), id => 'job' || n)
                           WHEN 1 THEN redis_enqueue('q', to_jsonb(n), 0.1)
                           ELSE redis_enqueue('q', to_jsonb(n)) END
           FROM generate_series({first}, {last}) AS n;
         COMMIT"
    ))?;
    Ok(false)
}

/// Kills one of those that take part, and brings it back.
fn kill(pair: &mut Pair, rng: &mut Rng, conninfo: &str) {
    const WORKER: &str = "backend_type = 'pg_cache worker'";
    const BACKEND: &str = "backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let never = AtomicBool::new(false);
    let mut client = connected(conninfo, &never).unwrap();
    match rng.u8(0..12) {
        // Of a process of its own, the server makes a crash of everything.
        0 => {
            let who = if rng.bool() { WORKER } else { BACKEND };
            let sql = format!("SELECT pid FROM pg_stat_activity WHERE {who} ORDER BY random()");
            if let Ok(Some(row)) = client.query_opt(&format!("{sql} LIMIT 1"), &[]) {
                let pid = row.get::<_, i32>(0).to_string();
                let _ = Command::new("kill").args(["-KILL", &pid]).status();
            }
        }
        1 => {
            drop(client);
            pair.postgres.crash();
            pair.postgres.start_again();
        }
        2 => {
            // A kill in the middle of a write makes Redis 7.0 cut its file within a MULTI, and the
            // next start but one runs that half together with what came behind it.
            pair.redis.cli(&["CLIENT", "PAUSE", "10000", "ALL"]);
            pair.redis.stop();
            std::thread::sleep(Duration::from_millis(rng.u64(0..300)));
            pair.redis.start_again();
        }
        3 => {
            pair.redis.freeze();
            std::thread::sleep(Duration::from_millis(rng.u64(0..800)));
            pair.redis.thaw();
        }
        4..=6 => {
            let _ = pair.redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        }
        7 => {
            let sql =
                format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {WORKER}");
            let _ = client.batch_execute(&sql);
        }
        _ => {
            let end = if rng.bool() { "terminate" } else { "cancel" };
            let sql = format!(
                "SELECT pg_{end}_backend(pid) FROM pg_stat_activity
                  WHERE {BACKEND} AND query LIKE '%redis%' ORDER BY random() LIMIT 3"
            );
            let _ = client.batch_execute(&sql);
        }
    }
}

fn number(client: &mut Client, sql: &str) -> Result<i64, Error> {
    Ok(client.query_one(sql, &[])?.get(0))
}

#[test]
fn whatever_is_killed_the_effects_of_every_job_are_there_once() {
    // Danger: the promise holds as long as nothing goes wrong.
    let jobs = from_environment("PG_CACHE_JOBS").unwrap_or(JOBS);
    let seed = from_environment("PG_CACHE_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("PG_CACHE_SEED={seed} PG_CACHE_JOBS={jobs}");
    let mut rng = Rng::with_seed(seed);
    let conf = [("max_worker_processes", "16"), ("autovacuum", "off")];
    let mut pair = Pair::start_with(&conf, &REDIS);
    let mut client = pair.postgres.connect();
    repair(&mut client);
    client
        .batch_execute(
            "CREATE TABLE effects (job bigint); CREATE TABLE put (first bigint);
             ALTER DATABASE test SET pg_cache.queue_visibility_ms = 500;
             ALTER DATABASE test SET pg_cache.queue_attempts_max = 1000000;
             ALTER DATABASE test SET pg_cache.queue_done_keep_s = 0",
        )
        .unwrap();
    drop(client);
    let (conninfo, started) = (pair.postgres.conninfo("test"), Instant::now());
    let (is_over, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Tally::default()));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| start_worker(conninfo.clone(), rng.u64(..), is_over.clone(), tally.clone()))
        .collect();
    let putting = {
        let (conninfo, is_over) = (conninfo.clone(), is_over.clone());
        std::thread::spawn(move || put_all(&conninfo, jobs, &is_over))
    };
    let (mut kills, mut done) = (0, 0);
    // At least so often, however few jobs there are.
    while done < jobs as i64 || kills < 12 {
        std::thread::sleep(Duration::from_millis(rng.u64(50..400)));
        kill(&mut pair, &mut rng, &conninfo);
        kills += 1;
        let mut client = connected(&conninfo, &AtomicBool::new(false)).unwrap();
        let _ = client.batch_execute("SELECT redis_wake()");
        done = number(&mut client, "SELECT count(*) FROM effects").unwrap_or(done);
        if kills % 50 == 0 {
            println!("{:?}: {kills} kills, {done} rows", started.elapsed());
        }
        assert!(started.elapsed() < Duration::from_secs(20 + jobs / 100), "{done} of {jobs}");
    }
    putting.join().unwrap();
    is_over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().unwrap();
    }
    println!(
        "{jobs} jobs in {:?}, {kills} kills: {:?} connections broken, {:?} late acknowledgements, \
         {:?} jobs handed out again, {:?} failed on purpose",
        started.elapsed(),
        tally.broken,
        tally.late,
        tally.again,
        tally.failed
    );
    compare(&conninfo, jobs);
}

/// Every job's row once, and nothing left of it.
fn compare(conninfo: &str, jobs: u64) {
    let never = AtomicBool::new(false);
    let mut client = connected(conninfo, &never).unwrap();
    let sql = "SELECT count(*) FROM effects";
    assert_eq!(number(&mut client, sql).unwrap(), jobs as i64, "rows");
    let sql = "SELECT count(DISTINCT job) FROM effects";
    assert_eq!(number(&mut client, sql).unwrap(), jobs as i64, "different ones");
    eventually(Duration::from_secs(30), "nothing is left", || {
        let left = try_dequeue(&mut client, "q", ", 100").map(|found| found.len());
        let sql = "SELECT ready + in_flight + delayed + dead FROM redis_queues";
        let standing = number(&mut client, sql);
        if left.is_err() || standing.is_err() {
            client = connected(conninfo, &never).unwrap();
        }
        matches!((left, standing), (Ok(0), Ok(0)))
    });
    eventually(Duration::from_secs(30), "what is done is forgotten", || {
        let _ = client.batch_execute("SELECT redis_wake()");
        number(&mut client, "SELECT count(*) FROM redis_job_done").is_ok_and(|rows| rows == 0)
    });
}
