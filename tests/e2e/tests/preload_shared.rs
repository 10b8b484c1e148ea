//! What all backends share where the library is preloaded: what they count, and what one of them
//! has found out about a Redis that is away.

use std::time::{Duration, Instant};

use pg_cache_e2e::counters::{Counters, counted};
use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::registry::count;
use pg_cache_e2e::{Notices, cached};
use pg_cache_testbed::{Pair, eventually};
use postgres::{Client, NoTls};

use crate::preload::{QUERY, SOON, preloaded};

const SESSIONS: usize = 50;

fn scopes(client: &mut Client) -> Vec<String> {
    let sql = "SELECT scope FROM redis_stat_cached UNION SELECT scope FROM redis_stat_commit";
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn with_table() -> (Pair, Client) {
    let pair = preloaded();
    let mut client = pair.postgres.connect();
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS v; GRANT SELECT ON t TO PUBLIC").unwrap();
    (pair, client)
}

#[test]
fn counters_are_summed_over_all_backends_and_outlive_them() {
    // Danger: with a pooler nobody can read the counters of the backend that did the work.
    let (pair, mut client) = with_table();
    cached(&mut client, "k:1", QUERY).unwrap();
    for _ in 0..4 {
        let mut other = pair.postgres.connect();
        cached(&mut other, "k:1", QUERY).unwrap();
        cached(&mut other, "a longer family than what has a name:1", QUERY).unwrap();
    }
    let sums = Counters::of(&mut client);
    assert_eq!((sums.hits, sums.misses, sums.fills), (4 + 3, 2, 2), "{sums:?}");
    assert_eq!(sums.reason("cold"), 2);
    assert_eq!(scopes(&mut client), ["all backends"]);
    // Another database has its own.
    pair.postgres.connect().batch_execute("CREATE DATABASE other TEMPLATE template0").unwrap();
    pair.postgres.create_extension("other");
    let mut elsewhere = pair.postgres.connect_as("postgres", "other");
    assert_eq!(Counters::of(&mut elsewhere), Counters::default());
    assert_eq!(Counters::of(&mut client), sums);
}

#[test]
fn who_may_not_read_all_statistics_sees_the_own_session() {
    // Danger: the names of key families tell anybody what others read.
    let (pair, mut client) = with_table();
    client.batch_execute("CREATE ROLE nobody LOGIN; CREATE ROLE monitor LOGIN").unwrap();
    client.batch_execute("GRANT pg_read_all_stats TO monitor").unwrap();
    cached(&mut client, "secret:1", QUERY).unwrap();
    let mut nobody = pair.postgres.connect_as("nobody", "test");
    cached(&mut nobody, "own:1", QUERY).unwrap();
    let families = |client: &mut Client| -> Vec<String> {
        let sql = "SELECT key_family FROM redis_stat_cached ORDER BY 1";
        client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(families(&mut nobody), ["own"]);
    assert_eq!(scopes(&mut nobody), ["session"]);
    let mut monitor = pair.postgres.connect_as("monitor", "test");
    assert_eq!(families(&mut monitor), ["own", "secret"]);
    let error = nobody.batch_execute("SELECT redis_stat_reset()").unwrap_err();
    assert_eq!(sqlstate(&error), "42501");
}

#[test]
fn commits_are_counted_of_all_backends_and_a_reset_begins_anew() {
    // Danger: a number that is never zero again tells nothing about today.
    let (pair, mut client) = with_table();
    client.batch_execute("SELECT redis_track('t')").unwrap();
    client.batch_execute("SELECT redis_stat_reset()").unwrap();
    for _ in 0..3 {
        pair.postgres.connect().batch_execute("UPDATE t SET v = v + 1").unwrap();
    }
    let settled = "SELECT settled FROM redis_stat_commit";
    assert_eq!(count(&mut client, settled), 3);
    cached(&mut client, "k:1", QUERY).unwrap();
    client.batch_execute("SELECT redis_stat_reset()").unwrap();
    assert_eq!(count(&mut client, settled), 0);
    assert_eq!(count(&mut client, "SELECT count(*) FROM redis_stat_cached"), 0);
    cached(&mut client, "k:1", QUERY).unwrap();
    assert_eq!(Counters::of(&mut client).hits, 1);
}

#[test]
fn messages_are_counted_of_all_backends() {
    // Danger: what one backend lost stands in its own memory, and ends with it.
    let (mut pair, mut client) = with_table();
    client
        .batch_execute(
            "CREATE TRIGGER e AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION redis_stream('s')",
        )
        .unwrap();
    let update = |pair: &Pair, times: i32| {
        let mut session = pair.postgres.connect();
        for _ in 0..times {
            session.batch_execute("UPDATE t SET v = v + 1").unwrap();
        }
    };
    let mut counts = || {
        let row = client.query_one("SELECT sent, lost FROM redis_stat_commit", &[]).unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    update(&pair, 2);
    update(&pair, 3);
    assert_eq!(counts(), (5, 0));
    pair.redis.stop();
    update(&pair, 1);
    update(&pair, 3);
    assert_eq!(counts(), (5, 4));
}

#[test]
fn a_dropped_database_leaves_its_counters_places_to_others() {
    // Danger: where databases come and go, all families soon count as one.
    let (pair, mut client) = with_table();
    let mut admin = pair.postgres.connect_as("postgres", "postgres");
    admin.batch_execute("CREATE DATABASE passing").unwrap();
    pair.postgres.create_extension("passing");
    let mut passing = pair.postgres.connect_as("postgres", "passing");
    for number in 0..300 {
        cached(&mut passing, &format!("family{number}:1"), "SELECT 1 AS v").unwrap();
    }
    drop(passing);
    let mut number = 0;
    let mut has_place = |client: &mut Client| {
        number += 1;
        let family = format!("new{number}");
        cached(&mut pair.postgres.connect(), &format!("{family}:1"), QUERY).unwrap();
        let sql = "SELECT count(*) FROM redis_stat_cached WHERE key_family = $1";
        client.query_one(sql, &[&family]).unwrap().get::<_, i64>(0) == 1
    };
    assert!(!has_place(&mut client), "all places are taken");
    admin.batch_execute("DROP DATABASE passing").unwrap();
    eventually(SOON, "the launcher saw it", || has_place(&mut client));
}

/// Calls that waited for Redis and learnt that it does not answer.
fn waited(counters: &Counters) -> i64 {
    counters.reason("timeout") + counters.reason("connect")
}

#[test]
fn few_of_many_backends_wait_for_a_redis_that_hangs() {
    // Danger: 500 backends wait out a dead Redis one by one, each time anew.
    let (pair, mut client) = with_table();
    let mut sessions: Vec<Client> = (0..SESSIONS).map(|_| pair.postgres.connect()).collect();
    for session in &mut sessions {
        cached(session, "k:1", QUERY).unwrap();
    }
    let before = Counters::of(&mut client);
    pair.redis.freeze();
    // One after the other: each has a connection of its own that it could wait on.
    for session in &mut sessions {
        cached(session, "k:1", QUERY).unwrap();
    }
    let first = waited(&Counters::of(&mut client).since(&before));
    // And all at once, again and again.
    let until = Instant::now() + Duration::from_secs(4);
    std::thread::scope(|scope| {
        for session in &mut sessions {
            scope.spawn(|| {
                while Instant::now() < until {
                    cached(session, "k:1", QUERY).unwrap();
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
    });
    let counters = Counters::of(&mut client).since(&before);
    println!("{first} waited at first, of {counters:?}");
    assert!((1..=12).contains(&first), "{first} of {SESSIONS} waited");
    assert!(waited(&counters) <= first + 8, "{counters:?}");
    assert_eq!(counters.reason("breaker") + waited(&counters), counters.misses, "{counters:?}");
    let health = "SELECT detail FROM redis_health() WHERE \"check\" = 'breaker'";
    let state: String = client.query_one(health, &[]).unwrap().get(0);
    assert!(state.contains("of all backends"), "{state}");
    pair.redis.thaw();
    for session in &mut sessions {
        eventually(Duration::from_secs(11), "it is used again", || {
            counted(session, |c| cached(c, "k:1", QUERY).unwrap()).1.hits > 0
        });
    }
}

#[test]
fn commits_do_not_wait_for_what_readers_found_out() {
    // Danger: a second for each commit of each backend, for as long as Redis hangs; or a change
    // that nobody told of because the breaker was open.
    let (pair, mut client) = with_table();
    client.batch_execute("SELECT redis_track('t')").unwrap();
    let mut writers: Vec<Client> = (0..20).map(|_| pair.postgres.connect()).collect();
    for writer in &mut writers {
        writer.batch_execute("UPDATE t SET v = v + 1").unwrap();
        cached(writer, "k:1", QUERY).unwrap();
    }
    pair.redis.freeze();
    for writer in &mut writers {
        cached(writer, "k:1", QUERY).unwrap();
    }
    let started = Instant::now();
    for writer in &mut writers {
        writer.batch_execute("UPDATE t SET v = v + 1").unwrap();
    }
    // Alone each would wait for a second; a few of them are the one that tries.
    let time = started.elapsed();
    assert!(time < Duration::from_secs(8), "{time:?}");
    assert!(count(&mut client, "SELECT count(*) FROM redis_debt") > 0, "they owe");
    let direct: i32 = client.query_one("SELECT v FROM t", &[]).unwrap().get(0);
    for writer in &mut writers {
        assert_eq!(cached(writer, "k:1", QUERY), Ok(format!(r#"[{{"v":{direct}}}]"#)));
    }
    pair.redis.thaw();
    client.batch_execute("SELECT * FROM redis_repair()").unwrap();
    for writer in &mut writers {
        assert_eq!(cached(writer, "k:1", QUERY), Ok(format!(r#"[{{"v":{direct}}}]"#)));
    }
}

#[test]
fn a_session_that_never_tried_is_told_that_its_messages_are_lost() {
    // Danger: others have opened the breaker, and whoever connects meanwhile loses every event
    // without a word; or the word that a query was computed is the only one for a minute.
    let (mut pair, mut client) = with_table();
    let attach = "CREATE TRIGGER e AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION";
    client.batch_execute(&format!("{attach} redis_stream('s')")).unwrap();
    pair.redis.stop();
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        cached(&mut pair.postgres.connect(), "k:1", QUERY).unwrap();
    }
    let update = "UPDATE t SET v = v + 1";
    let lost = "redis is not usable, 1 message is lost";
    let mut untried = 0;
    for _ in 0..10 {
        let (mut other, notices) = Notices::listen(&pair.postgres.conninfo("test"));
        other.batch_execute(update).unwrap();
        other.batch_execute(update).unwrap();
        let warnings = notices.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(warnings[0].message(), lost);
        untried += usize::from(warnings[0].detail().unwrap().contains("is not tried again yet"));
    }
    assert!(untried >= 5, "{untried}");
    let (mut other, notices) = Notices::listen(&pair.postgres.conninfo("test"));
    other.batch_execute("SET pg_cache.url = 'unix:///nowhere'").unwrap();
    cached(&mut other, "k:1", QUERY).unwrap();
    other.batch_execute(update).unwrap();
    let said: Vec<String> = notices.warnings().iter().map(|w| w.message().into()).collect();
    assert_eq!(said, ["redis is not usable, computing without the cache", lost]);
}

#[test]
fn a_session_with_little_patience_shuts_nobody_out() {
    // Danger: any user sets a timeout of a millisecond, and the cache is off for all.
    let (pair, mut client) = with_table();
    cached(&mut client, "k:1", QUERY).unwrap();
    let mut hasty: Vec<Client> = (0..4).map(|_| pair.postgres.connect()).collect();
    let set = "SET pg_cache.timeout_ms = 1; SET pg_cache.connect_timeout_ms = 1";
    hasty.iter_mut().for_each(|session| session.batch_execute(set).unwrap());
    let before = Counters::of(&mut client);
    pair.redis.freeze();
    for session in &mut hasty {
        cached(session, "k:1", QUERY).unwrap();
    }
    // One after the other they would have opened it by now, for at least 50 ms.
    cached(&mut client, "k:1", QUERY).unwrap();
    pair.redis.thaw();
    let counters = Counters::of(&mut client).since(&before);
    assert_eq!((waited(&counters), counters.reason("breaker")), (5, 0), "{counters:?}");
}

#[test]
fn another_server_has_a_breaker_of_its_own() {
    // Danger: one database whose Redis is away takes the cache of all others with it.
    let (pair, mut client) = with_table();
    cached(&mut client, "k:1", QUERY).unwrap();
    let away = "SET pg_cache.url = 'unix:///nonexistent/redis.sock'";
    let mut admin = pair.postgres.connect();
    let ((), counters) = counted(&mut admin, |_| {
        for _ in 0..40 {
            let mut lost = pair.postgres.connect();
            lost.batch_execute(away).unwrap();
            cached(&mut lost, "k:1", QUERY).unwrap();
            cached(&mut client, "k:1", QUERY).unwrap();
        }
    });
    // Each of them is new: what it knows of the breaker it knows from others.
    assert_eq!(counters.hits, 40, "{counters:?}");
    assert!(counters.reason("breaker") >= 10, "{counters:?}");
}

#[test]
fn a_redis_that_is_back_is_used_by_all_with_the_first_success() {
    // Danger: each backend finds out for itself, and the last one ten seconds later.
    let (mut pair, mut client) = with_table();
    let mut sessions: Vec<Client> = (0..20).map(|_| pair.postgres.connect()).collect();
    pair.redis.stop();
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        for session in &mut sessions {
            cached(session, "k:1", QUERY).unwrap();
        }
    }
    pair.redis.start_again();
    eventually(SOON, "it is registered", || {
        client.batch_execute("SELECT * FROM redis_repair()").is_ok()
    });
    // The repair succeeded: so for everybody.
    for session in &mut sessions {
        cached(session, "k:2", QUERY).unwrap();
    }
    let ((), counters) = counted(&mut client, |_| {
        for session in &mut sessions {
            cached(session, "k:2", QUERY).unwrap();
        }
    });
    assert_eq!(counters.hits, 20, "{counters:?}");
    let fresh = pair.postgres.conninfo("test");
    let mut fresh = Client::connect(&fresh, NoTls).unwrap();
    cached(&mut fresh, "k:2", QUERY).unwrap();
}

#[test]
fn readers_alone_bring_a_restarted_redis_back() {
    // Danger: the one that tries finds another server, and nobody tells the worker or the others.
    let (mut pair, mut client) = with_table();
    let mut sessions: Vec<Client> = (0..10).map(|_| pair.postgres.connect()).collect();
    pair.redis.stop();
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        sessions.iter_mut().for_each(|session| _ = cached(session, "k:1", QUERY).unwrap());
    }
    pair.redis.start_again();
    let started = Instant::now();
    eventually(Duration::from_secs(12), "every session is served again", || {
        let ((), counters) = counted(&mut client, |_| {
            sessions.iter_mut().for_each(|session| _ = cached(session, "k:1", QUERY).unwrap());
        });
        counters.hits == 10
    });
    println!("after {:?}", started.elapsed());
}
