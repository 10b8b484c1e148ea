//! Every kind of durable message, and every place between a commit and its delivery at which
//! somebody may be killed, with the library preloaded: each message arrives at least once, a job
//! and an event of a stream once, and under a key stands the newest row.
//!
//! Nobody asks for a worker by hand: the launcher sees to what was left, or the next commit does.
//! `PG_CACHE_KILLS=200` kills that often; `PG_CACHE_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use pg_cache_e2e::events::{entries, get, told};
use pg_cache_e2e::kills::{connected, from_environment};
use pg_cache_e2e::outbox::rows;
use pg_cache_e2e::registry::{count, repair};
use pg_cache_testbed::{Pair, Redis, eventually};
use postgres::Client;
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);

/// Rows that are stored, each written again and again.
const ROWS: i64 = 5;

#[derive(Clone, Copy, Debug)]
enum Kill {
    /// The backend, when all see its commit and it has woken nobody.
    Backend,
    /// Everything, between PREPARE and COMMIT PREPARED.
    Prepared,
    /// The worker, when Redis has what PostgreSQL does not know of.
    Worker,
    /// The same, as an administrator or an error would end it.
    WorkerAlone,
    /// Redis, with what it has on disk.
    Redis,
    /// Everything but Redis, at any moment.
    Postgres,
}

const KILLS: [Kill; 6] =
    [Kill::Backend, Kill::Prepared, Kill::Worker, Kill::WorkerAlone, Kill::Redis, Kill::Postgres];

struct World {
    pair: Pair,
    conninfo: String,
    /// What was committed, in its order.
    made: Vec<i64>,
    /// What a subscriber may have missed: it was away itself.
    unheard: BTreeSet<i64>,
    rng: Rng,
}

impl World {
    fn start(rng: Rng) -> World {
        let conf = [
            ("shared_preload_libraries", "pg_cache"),
            ("max_worker_processes", "16"),
            ("max_prepared_transactions", "5"),
            ("autovacuum", "off"),
        ];
        let pair = Pair::start_with(&conf, &["--appendonly", "yes", "--appendfsync", "always"]);
        let mut client = pair.postgres.connect();
        repair(&mut client);
        let mut tables = "CREATE TABLE t (id bigint PRIMARY KEY, v bigint);
                          CREATE TABLE made (v bigint);"
            .to_owned();
        for sends in ["publish('told'", "stream('s'", "job('jobs'", "store('row:{id}'"] {
            tables += &format!(
                "CREATE TRIGGER \"{sends}\" AFTER INSERT OR UPDATE ON t FOR EACH ROW
                     EXECUTE FUNCTION redis_{sends}, 'durable');"
            );
        }
        client.batch_execute(&tables).unwrap();
        let conninfo = pair.postgres.conninfo("test");
        World { pair, conninfo, made: Vec::new(), unheard: BTreeSet::new(), rng }
    }

    fn connect(&self) -> Client {
        connected(&self.conninfo, &AtomicBool::new(false)).unwrap()
    }

    /// The next change, without the end of its transaction.
    fn next(&mut self) -> String {
        let n = self.made.len() as i64 + 1;
        self.made.push(n);
        let row = self.rng.i64(0..ROWS);
        format!(
            "INSERT INTO t VALUES ({row}, {n}) ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v;
             INSERT INTO made VALUES ({n})"
        )
    }

    fn write(&mut self, client: &mut Client, many: usize) {
        for _ in 0..many {
            let sql = self.next();
            client.batch_execute(&format!("BEGIN; {sql}; COMMIT")).unwrap();
        }
    }

    fn set_fault(&self, client: &mut Client, fault: &str) {
        let set = format!("ALTER DATABASE test SET pg_cache.fault_point = '{fault}'");
        client.batch_execute(&set).unwrap();
    }

    /// Sets a fault and ends the worker: one that runs has other settings.
    fn anew(&self, client: &mut Client, fault: &str) {
        self.set_fault(client, fault);
        let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE backend_type = 'pg_cache worker'";
        eventually(LONG, "no worker is there", || count(client, ended) == 0);
    }

    /// Some changes, and a kill among them.
    fn kill(&mut self, kill: Kill) {
        let mut client = self.connect();
        let many = self.rng.usize(1..20);
        match kill {
            Kill::Backend => self.kill_backend(&mut client),
            Kill::Prepared => self.kill_prepared(client),
            Kill::Worker => self.kill_worker(&mut client),
            Kill::WorkerAlone => {
                self.anew(&mut client, "relay.sent:exit");
                self.write(&mut client, many);
                std::thread::sleep(Duration::from_millis(self.rng.u64(100..400)));
                self.set_fault(&mut client, "");
            }
            Kill::Redis => {
                self.write(&mut client, many);
                self.pair.redis.stop();
                self.write(&mut client, 3);
                self.pair.redis.start_again();
            }
            Kill::Postgres => {
                self.write(&mut client, many);
                std::thread::sleep(Duration::from_millis(self.rng.u64(0..30)));
                drop(client);
                self.pair.postgres.crash();
                self.pair.postgres.start_again();
            }
        }
    }

    fn kill_backend(&mut self, client: &mut Client) {
        self.anew(client, "");
        let mut writer = self.connect();
        let pid = count(&mut writer, "SELECT pg_backend_pid()::bigint");
        let sql = self.next();
        let fault = "SET LOCAL pg_cache.fault_point = 'commit.ended:sleep_20000'";
        let writes = std::thread::spawn(move || {
            writer.batch_execute(&format!("BEGIN; {fault}; {sql}; COMMIT")).expect_err("killed")
        });
        let made = self.made.len() as i64;
        eventually(LONG, "its commit is seen", || {
            count(client, "SELECT count(*) FROM made") == made
        });
        assert!(rows(client) > 0, "nobody has sent it yet");
        self.shoot(pid);
        writes.join().unwrap();
    }

    fn kill_prepared(&mut self, mut client: Client) {
        self.write(&mut client, 3);
        let sql = self.next();
        client.batch_execute(&format!("BEGIN; {sql}; PREPARE TRANSACTION 'p'")).unwrap();
        drop(client);
        self.pair.postgres.crash();
        self.pair.postgres.start_again();
        self.connect().batch_execute("COMMIT PREPARED 'p'").unwrap();
    }

    fn kill_worker(&mut self, client: &mut Client) {
        self.anew(client, "relay.sent:sleep_500");
        self.write(client, 5);
        let sending = "SELECT coalesce(max(pid), 0)::bigint FROM pg_stat_activity
                       WHERE backend_type = 'pg_cache worker' AND query = 'sending events'
                         AND state = 'active'";
        let mut pid = 0;
        eventually(LONG, "it has sent and not committed", || {
            pid = count(client, sending);
            pid != 0
        });
        std::thread::sleep(Duration::from_millis(100));
        self.shoot(pid);
        let mut client = self.connect();
        self.set_fault(&mut client, "");
    }

    /// Kills a process, and waits until the server has begun anew: it does so by itself.
    fn shoot(&self, pid: i64) {
        let begun = || self.pair.postgres.log().matches("reinitializing").count();
        let before = begun();
        self.pair.postgres.kill(u32::try_from(pid).unwrap());
        eventually(LONG, "the server notices", || begun() > before);
        self.connect();
    }

    /// All arrives: by what the launcher does, or by what a commit does.
    fn settle(&mut self, kill: Kill, heard: &Heard) {
        let mut client = self.connect();
        // The launcher looks when the server begins; else one that commits stands for all.
        let commits = matches!(kill, Kill::WorkerAlone | Kill::Redis);
        let mut n = 0;
        eventually(LONG, &format!("all is sent after {kill:?}"), || {
            n += 1;
            if commits && n % 100 == 1 && n > 1 {
                self.write(&mut client, 1);
            }
            rows(&mut client) == 0
        });
        if matches!(kill, Kill::Redis) {
            let seen = self.unheard.last().copied().unwrap_or(0);
            self.unheard.extend(seen + 1..=self.made.len() as i64);
        }
        let wanted: Vec<i64> =
            self.made.iter().filter(|n| !self.unheard.contains(n)).copied().collect();
        eventually(LONG, &format!("all is heard after {kill:?}"), || {
            let heard = heard.lock().unwrap();
            wanted.iter().all(|n| heard.contains_key(n))
        });
    }

    fn compare(&self) {
        let redis = &self.pair.redis;
        let mut client = self.connect();
        let wanted: Vec<String> = self.made.iter().map(i64::to_string).collect();
        assert_eq!(told(redis, "s", "v"), wanted, "a stream has each once, in order");
        let jobs: Vec<String> = entries(redis, "jobs").iter().map(|job| job_of(job)).collect();
        assert_eq!(jobs, wanted, "and so has a queue");
        for row in client.query("SELECT id, v FROM t", &[]).unwrap() {
            let (id, v): (i64, i64) = (row.get(0), row.get(1));
            let stored = get(redis, &format!("row:{id}"));
            assert_eq!(stored, Some(format!(r#"{{"id":{id},"v":{v}}}"#)), "the newest");
        }
        let made = count(&mut client, "SELECT count(*) FROM made");
        assert_eq!(made, self.made.len() as i64);
    }
}

fn job_of(job: &[(String, String)]) -> String {
    let payload: Value = serde_json::from_str(&job[1].1).unwrap();
    payload["new"]["v"].to_string()
}

/// How often each was heard.
type Heard = Arc<Mutex<BTreeMap<i64, u32>>>;

/// Listens until the end, and again whenever Redis was away.
fn listen(redis: &Redis, heard: Heard, is_over: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let url = redis.url();
    std::thread::spawn(move || {
        let address = redis::Client::open(url.replace("unix://", "redis+unix://")).unwrap();
        while !is_over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
            let Ok(mut connection) = address.get_connection() else { continue };
            let mut channel = connection.as_pubsub();
            let patience = Some(Duration::from_millis(200));
            if channel.subscribe("told").is_err() || channel.set_read_timeout(patience).is_err() {
                continue;
            }
            while !is_over.load(Ordering::Relaxed) {
                match channel.get_message() {
                    Ok(message) => {
                        let event: String = message.get_payload().unwrap();
                        let event: Value = serde_json::from_str(&event).unwrap();
                        let n = event["new"]["v"].as_i64().unwrap();
                        *heard.lock().unwrap().entry(n).or_default() += 1;
                    }
                    Err(error) if error.is_timeout() => {}
                    Err(_) => break,
                }
            }
        }
    })
}

#[test]
fn whoever_is_killed_every_kind_arrives_and_the_newest_row_stays() {
    // Danger: what holds for streams was never tried with messages, jobs and stored rows; or only
    // where somebody asks for a worker.
    let seed = from_environment("PG_CACHE_SEED").unwrap_or_else(|| fastrand::u64(..));
    let kills = from_environment("PG_CACHE_KILLS").unwrap_or(KILLS.len() as u64);
    println!("PG_CACHE_SEED={seed} PG_CACHE_KILLS={kills}");
    let mut rng = Rng::with_seed(seed);
    let mut world = World::start(rng.fork());
    let (heard, is_over) = (Heard::default(), Arc::new(AtomicBool::new(false)));
    let listener = listen(&world.pair.redis, heard.clone(), is_over.clone());
    let mut client = world.connect();
    world.write(&mut client, 10);
    let mut left = Vec::new();
    for _ in 0..kills {
        if left.is_empty() {
            left = KILLS.to_vec();
            rng.shuffle(&mut left);
        }
        let kill = left.pop().unwrap();
        let started = std::time::Instant::now();
        world.kill(kill);
        world.settle(kill, &heard);
        println!("{kill:?}: {:?}", started.elapsed());
    }
    is_over.store(true, Ordering::Relaxed);
    listener.join().unwrap();
    world.compare();
    let twice = heard.lock().unwrap().values().filter(|times| **times > 1).count();
    println!("{} changes, {twice} were told more than once", world.made.len());
    assert!(kills < KILLS.len() as u64 || twice > 0, "a worker died between sending and deleting");
}
