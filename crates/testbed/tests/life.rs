//! The testbed's own promises: servers work, answer, and never outlive the process they belong to.
//!
//! Needs `PG_CACHE_PREFIX`. The invariant: each test looks at the process table or at the servers
//! themselves, never at the testbed's own idea of them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pg_cache_testbed::fake::FakeRedis;
use pg_cache_testbed::process::Directory;
use pg_cache_testbed::{Pair, Postgres, Redis, eventually};

const PATIENCE: Duration = Duration::from_secs(20);

fn runs(pid: u32) -> bool {
    // A zombie is over; only its parent has not looked yet.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn a_killed_process_leaves_no_server_behind() {
    // A test run that is killed would leave servers that hold memory and meet the next run.
    // Nobody is left to remove the directories of the killed one: they go with this.
    let directory = Directory::new();
    let mut holder = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .arg("hold")
        .env("PG_CACHE_TMPDIR", directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<u32> = line.split(' ').filter_map(|word| word.trim().parse().ok()).collect();
    assert_eq!(pids.len(), 2, "{line}");
    assert!(pids.iter().all(|pid| runs(*pid)));
    holder.kill().unwrap();
    holder.wait().unwrap();
    for pid in pids {
        eventually(PATIENCE, "the orphaned server ends", || !runs(pid));
    }
}

#[test]
fn a_shared_server_outlives_the_thread_that_started_it() {
    // The kernel's death signal follows the forking thread: a server shared by the tests of a file
    // would die with the first of them.
    let pair = std::thread::spawn(Pair::start).join().unwrap();
    let row = pair.postgres.connect().query_one("SELECT 42", &[]).unwrap();
    assert_eq!(row.get::<_, i32>(0), 42);
    assert_eq!(pair.redis.cli(&["PING"]), "PONG");
}

#[test]
fn a_panic_stops_the_servers_and_removes_their_directories() {
    // A red test must leave nothing for the next one to trip over, not even a frozen Redis.
    let (sender, receiver) = std::sync::mpsc::channel();
    let failed = std::thread::spawn(move || {
        let pair = Pair::start();
        pair.redis.freeze();
        let directories = [pair.postgres.socket_dir(), pair.redis.socket().parent().unwrap()];
        sender.send((pair.postgres.pid(), pair.redis.pid())).unwrap();
        panic!("{}:{}", directories[0].display(), directories[1].display());
    })
    .join()
    .unwrap_err();
    let (postgres, redis) = receiver.recv().unwrap();
    assert!(!runs(postgres) && !runs(redis));
    let directories = failed.downcast_ref::<String>().unwrap();
    for directory in directories.split(':') {
        assert!(!Path::new(directory).exists(), "{directory}");
    }
}

#[test]
fn every_backend_of_a_pair_has_its_redis_address() {
    // Without it all tests would use the default address, where the machine's own Redis may be.
    let pair = Pair::start();
    let row = pair.postgres.connect().query_one("SELECT current_setting('pg_cache.url')", &[]);
    assert_eq!(row.unwrap().get::<_, String>(0), pair.redis.url());
}

#[test]
fn no_server_listens_on_tcp_unless_asked_to() {
    // A private server that can be reached from outside is neither private nor parallel.
    let pair = Pair::start();
    let mut client = pair.postgres.connect();
    let listens = client.query_one("SELECT current_setting('listen_addresses')", &[]).unwrap();
    assert_eq!(listens.get::<_, String>(0), "");
    assert_eq!(pair.redis.cli(&["CONFIG", "GET", "port"]), "port\n0");
}

#[test]
fn no_server_holds_our_output_open() {
    // Whoever reads our output through a pipe would wait for a kept server to end.
    let pair = Pair::start();
    for pid in [pair.postgres.pid(), pair.redis.pid()] {
        for descriptor in 0..3 {
            let open = std::fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).unwrap();
            let own =
                open == Path::new("/dev/null") || open.extension().is_some_and(|e| e == "log");
            assert!(own, "descriptor {descriptor} of {pid} is {open:?}");
        }
    }
}

#[test]
fn a_setting_reaches_the_server_as_it_was_written() {
    // A value mangled by quoting would test another setting than the test says.
    let postgres = Postgres::start_with(&[("work_mem", "7MB"), ("x.y", "it's")]);
    let mut client = postgres.connect();
    let row = client.query_one("SELECT current_setting('work_mem'), current_setting('x.y')", &[]);
    let row = row.unwrap();
    assert_eq!((row.get::<_, String>(0), row.get::<_, String>(1)), ("7MB".into(), "it's".into()));
}

#[test]
fn data_survives_a_restart_and_a_fresh_cluster_is_another() {
    // Tests of a restarted primary and of two clusters rest on exactly this.
    let mut postgres = Postgres::start();
    postgres.connect().batch_execute("CREATE TABLE kept AS SELECT 1 AS n").unwrap();
    let before = postgres.pid();
    postgres.restart();
    assert_ne!(before, postgres.pid());
    assert_eq!(postgres.connect().query("SELECT n FROM kept", &[]).unwrap().len(), 1);
    let identifier = |postgres: &Postgres| {
        let sql = "SELECT system_identifier::text FROM pg_control_system()";
        postgres.connect().query_one(sql, &[]).unwrap().get::<_, String>(0)
    };
    let fresh = Postgres::start_fresh(&[]);
    assert_ne!(identifier(&postgres), identifier(&fresh));
}

#[test]
fn redis_freezes_thaws_stops_and_starts_again_on_its_socket() {
    // Every test of a Redis in trouble is built from these four.
    let mut redis = Redis::start_with(&["--requirepass", "s3cret"]);
    assert_eq!(redis.cli(&["SET", "k", "v"]), "OK");
    redis.freeze();
    std::os::unix::net::UnixStream::connect(redis.socket()).unwrap();
    redis.thaw();
    assert_eq!(redis::cmd("GET").arg("k").query::<String>(&mut redis.client()).unwrap(), "v");
    let pid = redis.pid();
    redis.stop();
    assert!(!runs(pid));
    assert!(std::os::unix::net::UnixStream::connect(redis.socket()).is_err());
    redis.start_again();
    assert_eq!(redis.cli(&["EXISTS", "k"]), "0");
}

#[test]
fn redis_on_tcp_is_reached_by_its_url() {
    // A url that names another server tests that one.
    let redis = Redis::start_tcp(&[]);
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let info: String = redis::cmd("INFO").arg("server").query(&mut connection).unwrap();
    assert!(info.contains(&format!("process_id:{}\r\n", redis.pid())));
}

#[test]
fn a_full_queue_refuses_a_connect_that_does_not_wait() {
    // Were there room in the queue, a test of the connect timeout would test the reply timeout.
    let fake = FakeRedis::never_accepts();
    let path = fake.socket().to_owned();
    let connected = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = connected.clone();
    let thread = std::thread::spawn(move || {
        let _stream = std::os::unix::net::UnixStream::connect(path);
        seen.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    // The only wait for something that must not happen: long enough for any connect to finish.
    std::thread::sleep(Duration::from_millis(100));
    assert!(!connected.load(std::sync::atomic::Ordering::SeqCst));
    drop(fake);
    thread.join().unwrap();
}
