//! How soon a durable event leaves, and what the worker costs where it can do nothing: it is woken
//! by the commit, and neither turns in circles nor knocks at a Redis that is away.
//!
//! `PG_CACHE_PAUSES=1` has it wait for long too.

use std::fs;
use std::time::{Duration, Instant};

use pg_cache_core::message::Message;
use pg_cache_e2e::Scene;
use pg_cache_e2e::gate::Gate;
use pg_cache_e2e::outbox::{append, events, put, rows, wake};
use pg_cache_e2e::registry::{WORKERS, count, repair};
use pg_cache_testbed::fake::{FakeRedis, Reply};
use pg_cache_testbed::{Pair, Postgres, eventually};
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

const TABLE: &str = "CREATE TABLE t (id int);
     CREATE TRIGGER e AFTER INSERT ON t FOR EACH ROW
         EXECUTE FUNCTION redis_stream('s', 'durable')";

/// How long a worker is watched.
const WATCH: Duration = Duration::from_millis(1600);

/// Of a core, in percent: ten looks a second, one start and one end, in a debug build.
const BUSY_PERCENT_MAX: u64 = 8;

/// What the kernel counts in: a hundredth of a second on every Linux.
const TICK_MS: u64 = 10;

/// Fields of /proc/PID/stat behind the name: the time in user and kernel mode, and the same of
/// children that ended.
fn ticks(pid: u32) -> (u64, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, rest)) = stat.rsplit_once(") ") else { return (0, 0) };
    let fields: Vec<u64> = rest.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
    (fields[11] + fields[12], fields[13] + fields[14])
}

/// What all processes of the server have used so far, whether or not they are there still.
fn used_ms(postgres: &Postgres) -> u64 {
    let (own, of_ended) = ticks(postgres.pid());
    let children = postgres.children().into_iter().map(|pid| ticks(pid).0);
    (own + of_ended + children.sum::<u64>()) * TICK_MS
}

/// Nobody else does anything in that server.
#[track_caller]
fn rests(pair: &Pair, what: &str) {
    let before = used_ms(&pair.postgres);
    std::thread::sleep(WATCH);
    let used = used_ms(&pair.postgres) - before;
    let percent = used * 100 / WATCH.as_millis() as u64;
    println!("{what}: {used} ms of {WATCH:?}");
    assert!(percent < BUSY_PERCENT_MAX, "{what}: {used} ms of {WATCH:?}");
}

#[track_caller]
fn runs(client: &mut Client) {
    eventually(SOON, "a worker runs", || {
        wake(client);
        count(client, WORKERS) == 1
    });
}

#[test]
fn a_worker_that_can_do_nothing_takes_no_core() {
    // Danger: it turns in circles for as long as somebody keeps it waiting: for hours, with events
    // that Redis refuses, with a Redis that is away, with a transaction that nobody ends.
    let conf =
        [("max_worker_processes", "16"), ("max_prepared_transactions", "5"), ("autovacuum", "off")];
    let mut pair = Pair::start_with(&conf, &[]);
    let mut client = pair.postgres.connect();
    repair(&mut client);

    pair.redis.cli(&["RPUSH", "bad", "a list"]);
    put(&mut client, &[append("bad", "0"), append("bad", "1")]);
    let aside = "SELECT count(*) FROM redis_outbox WHERE number < -(1::bigint << 61)";
    eventually(SOON, "they are put aside", || {
        wake(&mut client);
        count(&mut client, aside) == 2
    });
    runs(&mut client);
    rests(&pair, "events that are put aside");
    client.batch_execute("DELETE FROM redis_outbox").unwrap();

    client.batch_execute("BEGIN").unwrap();
    put(&mut client, &[append("s", "0")]);
    client.batch_execute("PREPARE TRANSACTION 'p'").unwrap();
    runs(&mut client);
    rests(&pair, "a prepared transaction with events");
    assert_eq!(count(&mut client, WORKERS), 1, "it stays for as long as that may commit");
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();

    // Blocks without rows: so it is plain that nobody owes, but not who owes.
    client.batch_execute("INSERT INTO redis_debt VALUES (5, '700', 'k')").unwrap();
    eventually(SOON, "it is paid", || {
        wake(&mut client);
        count(&mut client, "SELECT count(*) FROM redis_debt") == 0
    });
    let mut holder = pair.postgres.connect();
    holder.batch_execute("BEGIN; REINDEX TABLE redis_debt").unwrap();
    put(&mut client, &[append("locked", "0")]);
    runs(&mut client);
    rests(&pair, "a table of debts that is locked");
    holder.batch_execute("COMMIT").unwrap();
    eventually(SOON, "it leaves", || {
        wake(&mut client);
        rows(&mut client) == 0
    });

    pair.redis.stop();
    put(&mut client, &[append("s", "1")]);
    runs(&mut client);
    rests(&pair, "a Redis that is away");
}

#[test]
fn a_redis_that_is_away_is_asked_seldom_however_many_commit() {
    // Danger: every commit with a durable event has the worker knock at once, hundreds of times a
    // second, for as long as Redis is away.
    let scene = Scene::alone();
    let fake = FakeRedis::start(|_| Reply::Close);
    let mut client = scene.connect();
    repair(&mut client);
    client.batch_execute(TABLE).unwrap();
    scene.quiet();
    let set = format!("ALTER DATABASE {} SET pg_cache.url = '{}'", scene.database(), fake.url());
    client.batch_execute(&set).unwrap();
    let (start, before) = (Instant::now(), fake.connections());
    let mut commits = 0;
    while start.elapsed() < Duration::from_secs(2) {
        client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
        commits += 1;
        std::thread::sleep(Duration::from_millis(3));
    }
    let asked = fake.connections() - before;
    println!("{commits} commits, {asked} connections in 2 s");
    assert!(commits > 100, "{commits} commits");
    assert!((2..=20).contains(&asked), "{asked} connections in 2 s");
}

/// A worker, which comes by itself or is woken, has delivered the first of many events when Redis
/// hangs for so long. How long the rest takes then, without anybody's doing.
fn rest_took(scene: &Scene, client: &mut Client, wakes: bool, hangs: Duration) -> Duration {
    let gate = Gate::new();
    scene.set_faults(&gate.at("relay.settled"));
    if wakes {
        wake(client);
    }
    gate.met();
    scene.set_faults("");
    scene.redis.freeze();
    gate.open();
    std::thread::sleep(hangs);
    scene.redis.thaw();
    let began = Instant::now();
    eventually(3 * SOON, "all is delivered", || rows(client) == 0);
    began.elapsed()
}

fn many() -> Vec<Message> {
    (0..1500).map(|number| append("s", &number.to_string())).collect()
}

#[test]
fn what_waits_while_redis_hangs_for_a_moment_does_not_rest() {
    // Danger: the worker leaves after one answer that did not come, and what waits rests for many
    // seconds although Redis is there again.
    let scene = Scene::alone();
    let mut client = scene.connect();
    repair(&mut client);
    scene.quiet();
    put(&mut client, &many());
    let took = rest_took(&scene, &mut client, true, Duration::from_millis(2500));
    println!("{took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(events(&scene.redis, "s").len(), 1500);
}

#[test]
fn nor_for_long_if_redis_had_been_away_for_long_before() {
    // Danger: each worker waits twice as long as the one before, also when that has delivered
    // thousands of events and then meets a moment in which Redis hangs.
    if std::env::var_os("PG_CACHE_PAUSES").is_none() {
        println!("takes 20 seconds, and only with PG_CACHE_PAUSES=1");
        return;
    }
    let mut scene = Scene::alone();
    let mut client = scene.connect();
    repair(&mut client);
    scene.quiet();
    scene.redis.stop();
    put(&mut client, &many());
    wake(&mut client);
    eventually(SOON, "it was tried", || count(&mut client, WORKERS) == 1);
    scene.quiet();
    scene.redis.start_again();
    // The next one comes after five seconds, and the one behind it would after ten.
    let took = rest_took(&scene, &mut client, false, Duration::from_secs(6));
    println!("{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_commit_ends_the_pause_of_the_worker() {
    // Danger: an event that could be there in a few milliseconds waits until the worker looks
    // again, which it does ten times a second.
    let scene = Scene::alone();
    let mut client = scene.connect();
    repair(&mut client);
    client.batch_execute(TABLE).unwrap();
    let mut redis = scene.redis.client();
    let mut took = Vec::new();
    for id in 0..21 {
        let started = Instant::now();
        client.batch_execute(&format!("INSERT INTO t VALUES ({id})")).unwrap();
        eventually(SOON, "it has arrived", || {
            redis::cmd("XLEN").arg("s").query::<i64>(&mut redis).unwrap() == id + 1
        });
        took.push(started.elapsed());
        // By then it has looked once more, and its pause has begun.
        std::thread::sleep(Duration::from_millis(25));
    }
    // The first one starts the worker.
    took.remove(0);
    took.sort();
    println!("median {:?}, longest {:?}", took[10], took[19]);
    assert!(took[10] < Duration::from_millis(45), "{took:?}");
}
