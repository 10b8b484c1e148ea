//! A hot standby reads through the same Redis: no transaction id, no write, no error.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pg_cache_e2e::counters::counted;
use pg_cache_e2e::outcome::{sqlstate, words};
use pg_cache_e2e::{Scene, cached, same_as_direct};
use pg_cache_testbed::process::{Directory, Server, run_well};
use pg_cache_testbed::{Postgres, eventually};
use postgres::{Client, NoTls};

const SIGQUIT: i32 = 3;

/// A standby that follows a primary, in a directory of its own.
struct Standby {
    _server: Server,
    directory: Directory,
}

impl Standby {
    fn of(primary: &Postgres) -> Standby {
        let directory = Directory::new();
        let data_dir = directory.path().join("data");
        let mut backup = Command::new(primary.bin("pg_basebackup"));
        backup.args(["--checkpoint=fast", "--write-recovery-conf", "--wal-method=stream"]);
        backup.arg("--host").arg(primary.socket_dir()).args(["--username=postgres", "--no-sync"]);
        run_well(with(backup, "--pgdata", &data_dir), directory.path());
        let mut command = with(Command::new(primary.bin("postgres")), "-D", &data_dir);
        command.arg("-c").arg(format!("unix_socket_directories={}", directory.path().display()));
        command.current_dir(directory.path());
        let log = directory.path().join("standby.log");
        let server = Server::spawn(command, &log, SIGQUIT, false).unwrap();
        Standby { _server: server, directory }
    }

    fn connect(&self, primary: &Postgres) -> Client {
        let here = self.directory.path().display().to_string();
        let there = primary.socket_dir().display().to_string();
        let address = primary.conninfo("test").replace(&there, &here);
        let mut client = None;
        eventually(Duration::from_secs(20), "the standby accepts connections", || {
            client = Client::connect(&address, NoTls).ok();
            client.is_some()
        });
        client.unwrap()
    }
}

fn with(mut command: Command, option: &str, path: &Path) -> Command {
    command.arg(option).arg(path);
    command
}

#[test]
fn a_hot_standby_fills_and_is_served() {
    // Danger: a read that needs a transaction id, or writes, fails on every standby.
    let scene = Scene::new();
    let primary = Postgres::start_with(&[("pg_cache.url", &scene.redis.url())]);
    primary.register("test");
    let mut writer = primary.connect();
    writer
        .batch_execute(
            "CREATE TABLE t AS SELECT g AS v FROM generate_series(1, 3) g;
             CREATE FUNCTION f() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
             SELECT redis_track('t')",
        )
        .unwrap();
    writer.batch_execute("SELECT * FROM redis_repair()").unwrap();
    let standby = Standby::of(&primary);
    let mut reader = standby.connect(&primary);
    let recovering: bool = reader.query_one("SELECT pg_is_in_recovery()", &[]).unwrap().get(0);
    assert!(recovering);
    for query in ["SELECT v FROM t ORDER BY v", "SELECT f() AS v", "SELECT count(*) AS n FROM t"] {
        for _ in 0..2 {
            same_as_direct(&mut reader, query, query).unwrap();
        }
        let (_, counters) = counted(&mut reader, |c| cached(c, query, query).unwrap());
        assert_eq!(counters.hits, 1, "{query}: {counters:?}");
    }
    let limit = "SELECT allowed FROM redis_rate_limit('k', 1, '1 hour')";
    let asked = |client: &mut Client| client.query_one(limit, &[]).unwrap().get::<_, bool>(0);
    assert_eq!((asked(&mut reader), asked(&mut writer)), (true, false), "one limit for both");
    for sql in [
        "SELECT redis_cached('a', 60, 'SELECT v FROM t WHERE v = $1', 1)::text",
        "SELECT count(*)::text FROM redis_cached_rows('b', 60, 'SELECT v FROM t') AS r(v int)",
        "SELECT redis_explain('b', 'SELECT v FROM t')::text",
        "SELECT redis_ping()::text",
        "SELECT count(*)::text FROM redis_health()",
        "SELECT count(*)::text FROM redis_verify()",
        "SELECT redis_flush('b')::text",
        "SELECT redis_publish('c', 'from the standby')::text",
        "SELECT redis_at_commit('SET', 'from', 'the standby')::text",
    ] {
        reader.query_one(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    let sent: i64 = reader.query_one("SELECT sent FROM redis_stat_commit", &[]).unwrap().get(0);
    assert_eq!(sent, 2);
    let said = pg_cache_e2e::events::get(&scene.redis, "from");
    assert_eq!(said.as_deref(), Some("the standby"));
    // What the primary's own proof would find, the standby's finds.
    let query = "SELECT v FROM t ORDER BY v";
    let mut verified =
        || -> i64 { reader.query_one("SELECT count(*) FROM redis_verify()", &[]).unwrap().get(0) };
    assert_eq!(verified(), 0);
    crate::verify::falsify(&scene, query, "[]");
    assert_eq!(verified(), 1);
}

/// Whether the cached answer is the query's own, under one snapshot.
fn is_exact(client: &mut Client) -> bool {
    let query = "SELECT v FROM t ORDER BY v";
    let sql = format!(
        "SELECT redis_cached('t', 60, '{query}')::jsonb
                = (SELECT coalesce(jsonb_agg(to_jsonb(x)), '[]') FROM ({query}) AS x)"
    );
    client.query_one(&sql, &[]).unwrap().get(0)
}

fn position(client: &mut Client, function: &str) -> i64 {
    let sql = format!("SELECT pg_wal_lsn_diff({function}(), '0/0')::bigint");
    client.query_one(&sql, &[]).unwrap().get(0)
}

#[test]
fn a_hot_standby_follows_what_its_primary_changes() {
    // Danger: a standby serves what was replaced, or an old snapshot on it what is newer.
    let scene = Scene::new();
    let primary = Postgres::start_with(&[("pg_cache.url", &scene.redis.url())]);
    primary.register("test");
    let mut writer = primary.connect();
    let table = "CREATE TABLE t AS SELECT g AS v FROM generate_series(1, 3) g";
    writer.batch_execute(&format!("{table}; SELECT redis_track('t')")).unwrap();
    writer.batch_execute("SELECT * FROM redis_repair()").unwrap();
    let standby = primary.standby(&[("hot_standby_feedback", "on")]);
    let mut reader = standby.connect();
    let caught_up = |writer: &mut Client, reader: &mut Client| {
        let written = position(writer, "pg_current_wal_lsn");
        eventually(Duration::from_secs(20), "it is replayed", || {
            position(reader, "pg_last_wal_replay_lsn") >= written
        });
    };
    let hits = |client: &mut Client| counted(client, |c| assert!(is_exact(c))).1.hits;
    let change = "UPDATE t SET v = v + 1";
    for round in 0..3 {
        caught_up(&mut writer, &mut reader);
        eventually(Duration::from_secs(20), "the standby fills and hits", || {
            hits(&mut reader) == 1
        });
        let mut old = standby.connect();
        old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
        assert_eq!(hits(&mut old), 1);
        writer.batch_execute(change).unwrap();
        // Somewhere in here it is replayed.
        for _ in 0..20 {
            assert!(is_exact(&mut reader) && is_exact(&mut old), "round {round}");
        }
        caught_up(&mut writer, &mut reader);
        eventually(Duration::from_secs(20), "the new rows are a hit", || hits(&mut reader) == 1);
        assert_eq!(hits(&mut old), 0, "it is older than the entry");
        assert!(hits(&mut writer) == 1 && is_exact(&mut reader));
        // The scene would show a standby that does not look at who wrote.
        old.batch_execute("SET pg_cache.fault_point = 'guard.hit:skip'").unwrap();
        assert!(!is_exact(&mut old), "round {round}: without the guard nothing is wrong");
    }
    reader.batch_execute("SET pg_cache.fault_point = 'guard.versions:skip'").unwrap();
    writer.batch_execute(change).unwrap();
    caught_up(&mut writer, &mut reader);
    assert!(!is_exact(&mut reader), "without versions nothing is wrong");
}

#[test]
fn what_a_standby_cannot_do_is_refused_by_its_name() {
    // Danger: "cannot assign TransactionIds during recovery", an internal error, at the commit.
    let scene = Scene::new();
    let primary = Postgres::start_with(&[("pg_cache.url", &scene.redis.url())]);
    primary.register("test");
    let mut writer = primary.connect();
    writer.batch_execute("CREATE TABLE t (v int)").unwrap();
    writer.batch_execute("SELECT * FROM redis_repair()").unwrap();
    let standby = Standby::of(&primary);
    let mut reader = standby.connect(&primary);
    let job = r#"'{"class": "C", "args": []}'"#;
    let sidekiq = format!("redis_enqueue('q', {job}, format => 'sidekiq')");
    let many = "redis_publish('c', repeat('x', 100000)) FROM generate_series(1, 12)";
    let limit = "SET pg_cache.pending_events_bytes_max = '1MB'";
    for (name, call) in [
        ("redis_enqueue()", "redis_enqueue('q', '{}')"),
        ("redis_enqueue()", "redis_enqueue('q', '{}', 5, 'a')"),
        ("redis_enqueue()", &sidekiq),
        ("redis_ack()", "redis_ack('q', 'a')"),
        ("redis_touch()", "redis_touch('a')"),
        ("redis_publish()", many),
        ("redis_track()", "redis_track('t')"),
        ("redis_untrack()", "redis_untrack('t')"),
    ] {
        reader.batch_execute(limit).unwrap();
        let error = reader.batch_execute(&format!("SELECT {call}")).expect_err(call);
        let words = words(&error);
        assert_eq!(sqlstate(&error), "25006", "{call}: {words}");
        assert!(words.contains(name), "{call}: {words}");
    }
    // Nothing else that is called by itself fails as if it were broken.
    for call in [
        "redis_cached_view('v', 5, 'SELECT 1 AS a')",
        "redis_register('x:')",
        "redis_repair()",
        "redis_wake()",
        "redis_dequeue('q')",
        "redis_nack('q', 'a')",
        "redis_requeue('q', 'a')",
        "redis_dead('q')",
        "redis_queues",
        "redis_set('k', 'v')",
        "redis_set('k', 'v', 5)",
        "redis_incr('n')",
        "redis_expire('k', 5)",
        "redis_del('k', 'n')",
        "redis_command('SET', 'k', 'v')",
        "redis_session_set('s', '{}')",
        "redis_session_end('s')",
        "redis_session_new('{}')",
        "redis_stat_reset()",
        "redis_flush()",
    ] {
        let sql = format!("SELECT * FROM {call}");
        let Err(error) = reader.batch_execute(&sql) else { continue };
        assert!(sqlstate(&error) != "XX000", "{call}: {}", words(&error));
    }
}
