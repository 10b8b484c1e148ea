//! The tag table in the server's shared memory: Redis is asked for entries and told of keys, and of
//! nothing else; what is exact does not hang on it.

use std::time::Duration;

use pg_cache_e2e::counters::counted;
use pg_cache_e2e::gate::Gate;
use pg_cache_e2e::guarded::assert_needed;
use pg_cache_e2e::registry::{WORKERS, count, generation, repair};
use pg_cache_e2e::{cached, same_as_direct};
use pg_cache_testbed::{Pair, eventually};
use postgres::Client;

pub const SOON: Duration = Duration::from_secs(20);

const QUERY: &str = "SELECT v FROM users WHERE id = 1";
pub const KEY: &str = "user:1";
pub const OLD: &str = r#"[{"v":1}]"#;
const NEW: &str = r#"[{"v":2}]"#;

pub const CONF: [(&str, &str); 4] = [
    ("shared_preload_libraries", "pg_cache"),
    ("pg_cache.tag_table", "memory"),
    ("autovacuum", "off"),
    ("max_prepared_transactions", "50"),
];

pub const SCHEMA: &str = "
    CREATE TABLE users (id int PRIMARY KEY, v int);
    INSERT INTO users SELECT g, 1 FROM generate_series(1, 9) g;
    SELECT redis_track('users');
    CREATE TRIGGER named AFTER INSERT OR UPDATE OR DELETE ON users
        FOR EACH ROW EXECUTE FUNCTION redis_invalidate('user:{id}')";

pub fn stage() -> (Pair, Client) {
    let pair = Pair::start_with(&CONF, &[]);
    let mut admin = pair.postgres.connect();
    admin.batch_execute(SCHEMA).unwrap();
    repair(&mut admin);
    (pair, admin)
}

pub fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

fn read(reader: &mut Client) -> String {
    cached(reader, KEY, QUERY).unwrap()
}

pub fn is_hit(reader: &mut Client) -> bool {
    let (_, counters) = counted(reader, |reader| same_as_direct(reader, KEY, QUERY).unwrap());
    counters.hits == 1
}

/// How often Redis has carried out a command.
fn calls(pair: &Pair, command: &str) -> u64 {
    let text = pair.redis.cli(&["INFO", "commandstats"]);
    let head = format!("cmdstat_{command}:calls=");
    let rest = text.lines().find_map(|line| line.strip_prefix(&head));
    rest.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn a_commit_asks_redis_for_nothing_but_the_keys_that_it_names() {
    // Danger: the round trip that this is there to save is made all the same.
    let (pair, mut writer) = stage();
    run(&mut writer, "CREATE TABLE plain (id int PRIMARY KEY, v int); SELECT redis_track('plain')");
    run(&mut writer, "INSERT INTO plain VALUES (1, 1); UPDATE users SET v = 0 WHERE id = 9");
    eventually(SOON, "no worker asks", || {
        count(
            &mut writer,
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_c%r'
                            AND backend_type LIKE '%worker'",
        ) == 0
    });
    let all = |pair: &Pair| pair.redis.cli(&["INFO", "stats"]);
    let processed = |pair: &Pair| -> u64 {
        let text = all(pair);
        let line = text.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
        line.unwrap().trim().parse().unwrap()
    };
    let before = processed(&pair);
    for _ in 0..20 {
        run(&mut writer, "UPDATE plain SET v = v + 1");
    }
    assert_eq!(processed(&pair) - before, 1, "only ours that asks");
    let (deletions, scripts) = (calls(&pair, "del"), calls(&pair, "evalsha"));
    for _ in 0..20 {
        run(&mut writer, "UPDATE users SET v = v + 1 WHERE id = 2");
    }
    assert_eq!((calls(&pair, "del") - deletions, calls(&pair, "evalsha") - scripts), (20, 0));
    assert_eq!(pair.redis.cli(&["KEYS", "pgc:t:*"]), "", "no tag table in Redis");
}

#[test]
fn a_key_is_gone_when_commit_returns() {
    // Danger: the answer is taken behind the commit record, or not at all.
    let (pair, mut writer) = stage();
    let mut reader = pair.postgres.connect();
    for round in 0..200 {
        pair.redis.cli(&["SET", KEY, "old"]);
        run(&mut writer, "UPDATE users SET v = v + 1 WHERE id = 1");
        assert_eq!(pair.redis.cli(&["EXISTS", KEY]), "0", "round {round}");
    }
    same_as_direct(&mut reader, KEY, QUERY).unwrap();
    assert!(is_hit(&mut reader), "and it is filled again");
    run(&mut writer, "BEGIN; UPDATE users SET v = 7 WHERE id = 1; ROLLBACK");
    assert!(is_hit(&mut reader), "a rollback costs nothing");
}

#[test]
fn a_writer_that_is_not_seen_keeps_its_readers_from_the_entry() {
    // Danger: the list in memory is not looked at, or forgets who runs.
    let (pair, mut writer) = stage();
    let (mut old, mut new) = (pair.postgres.connect(), pair.postgres.connect());
    same_as_direct(&mut new, KEY, QUERY).unwrap();
    assert!(is_hit(&mut new));
    run(&mut old, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM users");
    run(&mut writer, "UPDATE users SET v = 2 WHERE id = 1");
    same_as_direct(&mut new, KEY, QUERY).unwrap();
    assert!(is_hit(&mut new));
    assert_eq!((read(&mut old), read(&mut new)), (OLD.to_owned(), NEW.to_owned()));
    run(&mut old, "COMMIT");
    // More at once than a bucket has room for, held open as only prepared ones can be.
    for id in 2..10 {
        run(
            &mut writer,
            &format!("BEGIN; UPDATE users SET v = 5 WHERE id = {id}; PREPARE TRANSACTION 'p{id}'"),
        );
    }
    assert!(!is_hit(&mut new), "they are in nobody's snapshot");
    for id in 2..10 {
        run(&mut writer, &format!("COMMIT PREPARED 'p{id}'"));
        same_as_direct(&mut new, KEY, "SELECT sum(v) FROM users").unwrap();
    }
    eventually(SOON, "debts are paid, and the entry is used again", || is_hit(&mut new));
}

#[test]
fn exactness_does_not_hang_on_redis() {
    // Danger: what Redis lost, or brings back, is taken for new.
    let (mut pair, mut client) = stage();
    same_as_direct(&mut client, KEY, QUERY).unwrap();
    assert!(is_hit(&mut client));
    let old = pair.redis.snapshot();
    let before = generation(&mut client);
    run(&mut client, "UPDATE users SET v = 2 WHERE id = 1");
    pair.redis.stop();
    pair.redis.start_again_from(&old);
    is_back(&pair);
    same_as_direct(&mut client, KEY, QUERY).unwrap();
    eventually(SOON, "another server, another generation", || {
        same_as_direct(&mut client, KEY, QUERY).unwrap();
        generation(&mut client) != before
    });
    eventually(SOON, "and it is used", || is_hit(&mut client));
    // A server that is gone costs tracked tables nothing.
    pair.redis.stop();
    run(&mut client, "CREATE TABLE t (); SELECT redis_track('t')");
    run(&mut client, "INSERT INTO t DEFAULT VALUES");
    assert_eq!(count(&mut client, "SELECT count(*) FROM redis_debt"), 0);
}

#[test]
fn what_redis_brings_back_is_swept_although_it_had_lost_everything() {
    // Danger: with its data Redis lost which generations have been, and an old value that it brings
    // back later stays until its ttl.
    let (mut pair, mut client) = stage();
    pair.redis.cli(&["FLUSHALL"]);
    same_as_direct(&mut client, KEY, QUERY).unwrap();
    assert!(is_hit(&mut client));
    let old = pair.redis.snapshot();
    run(&mut client, "UPDATE users SET v = 2 WHERE id = 1");
    pair.redis.stop();
    pair.redis.start_again_from(&old);
    is_back(&pair);
    repair(&mut client);
    eventually(SOON, "it is swept", || pair.redis.cli(&["EXISTS", KEY]) == "0");
}

#[test]
fn a_restart_begins_anew_and_what_was_prepared_before_it_counts() {
    // Danger: versions begin at zero again, and entries from before have them.
    let (mut pair, mut client) = stage();
    same_as_direct(&mut client, KEY, QUERY).unwrap();
    assert!(is_hit(&mut client));
    run(&mut client, "BEGIN; UPDATE users SET v = 2 WHERE id = 1; PREPARE TRANSACTION 'p'");
    drop(client);
    pair.postgres.restart();
    let mut client = pair.postgres.connect();
    repair(&mut client);
    same_as_direct(&mut client, KEY, QUERY).unwrap();
    assert!(is_hit(&mut client));
    run(&mut client, "COMMIT PREPARED 'p'");
    assert_eq!(read(&mut client), NEW);
    eventually(SOON, "its debt is paid", || is_hit(&mut client));
    assert_eq!(read(&mut client), NEW);
}

#[test]
fn the_table_moves_as_the_setting_says_and_nothing_old_is_served() {
    // Danger: readers look in one place, and writers tell another.
    let (pair, mut client) = stage();
    let mut writer = pair.postgres.connect();
    for home in ["redis", "memory", "redis", "memory"] {
        same_as_direct(&mut client, KEY, QUERY).unwrap();
        let before = generation(&mut client);
        run(&mut writer, &format!("ALTER SYSTEM SET pg_cache.tag_table = '{home}'"));
        run(&mut writer, "SELECT pg_reload_conf()");
        eventually(SOON, "registered there", || {
            run(&mut writer, "UPDATE users SET v = v + 1 WHERE id = 1");
            same_as_direct(&mut client, KEY, QUERY).unwrap();
            let sql = format!("SELECT count(*) FROM redis_server WHERE tag_table = '{home}'");
            count(&mut client, &sql) == 1 && generation(&mut client) != before
        });
        eventually(SOON, "and used", || is_hit(&mut client));
        let health = "SELECT count(*) FROM redis_health() WHERE NOT ok AND \"check\" = 'tag table'";
        assert_eq!(count(&mut client, health), 0);
    }
}

#[test]
fn whoever_keeps_a_snapshot_from_before_the_move_fills_nothing() {
    // Danger: it looks into the table in Redis, where nobody is listed any more, and puts back what
    // a commit that has returned deleted.
    let (pair, mut client) = stage();
    let (mut writer, mut old) = (pair.postgres.connect(), pair.postgres.connect());
    run(&mut writer, "ALTER SYSTEM SET pg_cache.tag_table = 'redis'");
    run(&mut writer, "SELECT pg_reload_conf()");
    let mut moved_to = |home: &str| {
        let sql = format!("SELECT count(*) FROM redis_server WHERE tag_table = '{home}'");
        eventually(SOON, "registered there", || {
            same_as_direct(&mut client, "other", QUERY).unwrap();
            count(&mut client, &sql) == 1
        });
        repair(&mut client);
    };
    moved_to("redis");
    run(&mut old, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM users");
    assert_eq!(cached(&mut old, "another", QUERY).unwrap(), OLD);
    run(&mut writer, "ALTER SYSTEM SET pg_cache.tag_table = 'memory'");
    run(&mut writer, "SELECT pg_reload_conf()");
    moved_to("memory");
    run(&mut writer, "UPDATE users SET v = 2 WHERE id = 1");
    assert_eq!(read(&mut old), OLD);
    assert_eq!(pair.redis.cli(&["GET", KEY]), "");
    run(&mut old, "COMMIT");
    assert_eq!(read(&mut old), NEW);
    assert_eq!(pair.redis.cli(&["GET", KEY]), NEW);
}

#[test]
fn whoever_looked_before_the_move_fills_nothing_behind_it() {
    // Danger: as before, in a transaction that takes a snapshot for each statement.
    assert_needed("guard.endtable", |fault| {
        let (pair, mut client) = stage();
        run(&mut client, "ALTER DATABASE test SET pg_cache.tag_table = 'redis'");
        let mut admin = pair.postgres.connect();
        repair(&mut admin);
        let set = format!("ALTER DATABASE test SET pg_cache.fault_point = '{fault}'");
        run(&mut client, &set);
        eventually(SOON, "no worker is left", || count(&mut client, WORKERS) == 0);
        let gate = Gate::new();
        let mut reader = pair.postgres.connect();
        run(&mut reader, &format!("SET pg_cache.fault_point = '{}'", gate.at("read.lease")));
        let reading = std::thread::spawn(move || read(&mut reader));
        gate.met();
        run(&mut client, "ALTER DATABASE test SET pg_cache.tag_table = 'memory'");
        let mut admin = pair.postgres.connect();
        repair(&mut admin);
        run(&mut client, "UPDATE users SET v = 2 WHERE id = 1");
        gate.open();
        assert_eq!(reading.join().unwrap(), OLD);
        pair.redis.cli(&["GET", KEY]) == OLD
    });
}

#[test]
fn a_standby_computes_and_says_why() {
    // Danger: a standby takes entries for true whose writers it cannot know.
    let (pair, mut client) = stage();
    same_as_direct(&mut client, KEY, QUERY).unwrap();
    let standby = pair.postgres.standby(&[]);
    let mut reader = standby.connect();
    let (_, counters) = counted(&mut reader, |reader| assert_eq!(read(reader), OLD));
    assert_eq!(counters.hits, 0);
    let reasons = "SELECT reasons->>'primary_memory' FROM redis_stat_cached LIMIT 1";
    assert_eq!(reader.query_one(reasons, &[]).unwrap().get::<_, Option<&str>>(0), Some("1"));
    standby.promote();
    eventually(SOON, "the new primary registers its own", || is_hit(&mut reader));
}

#[test]
fn with_auto_the_table_is_in_memory_until_a_standby_replays() {
    // Danger: whoever adds a standby has one that never hits; or a backup empties the cache.
    let conf: Vec<_> = CONF.iter().copied().filter(|(name, _)| !name.contains("tag")).collect();
    let pair = Pair::start_with(&conf, &[]);
    let mut client = pair.postgres.connect();
    run(&mut client, SCHEMA);
    repair(&mut client);
    let home = |client: &mut Client| -> String {
        client.query_one("SELECT tag_table FROM redis_server", &[]).unwrap().get(0)
    };
    assert_eq!(home(&mut client), "memory");
    same_as_direct(&mut client, KEY, QUERY).unwrap();
    assert!(is_hit(&mut client));
    // Takes a backup first, as a standby does.
    let standby = pair.postgres.standby(&[]);
    eventually(SOON, "readers move it", || {
        same_as_direct(&mut client, KEY, QUERY).unwrap();
        home(&mut client) == "redis"
    });
    let mut reader = standby.connect();
    eventually(SOON, "a hit on the standby", || is_hit(&mut reader));
    drop(reader);
    drop(standby);
    for _ in 0..20 {
        same_as_direct(&mut client, KEY, QUERY).unwrap();
    }
    assert_eq!(home(&mut client), "redis", "it stays when the standby has gone");
}

/// The old entry is there again, unless the worker was quick, and has swept it.
fn is_back(pair: &Pair) {
    let found = pair.redis.cli(&["GET", KEY]);
    assert!(found == OLD || found.is_empty(), "{found}");
}
