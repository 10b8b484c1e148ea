//! A Redis that is away or refuses: the query still answers, the counters say why, and one warning
//! is heard, not a thousand. With real servers; those that no real server is are in misbehaving.rs.

use std::time::Duration;

use pg_cache_e2e::counters::{counted, value};
use pg_cache_e2e::outcome::words;
use pg_cache_e2e::trouble::{
    ANSWER, QUERY, answers, expect, one_warning, prepare, ten_answers, use_url,
};
use pg_cache_e2e::{Scene, cached};
use pg_cache_testbed::{Redis, eventually};

#[test]
fn redis_down_answers_and_is_used_again_when_it_is_back() {
    // Danger: nobody's page may break because a cache is down, nor stay slow once it is back.
    let mut scene = Scene::new();
    let (mut client, notices) = prepare(&scene);
    cached(&mut client, "warm", QUERY).unwrap();
    scene.redis.stop();
    let counters = ten_answers(&mut client, "down");
    let lost = counters.reason("closed") + counters.reason("connect") + counters.reason("breaker");
    assert_eq!((lost, counters.misses), (10, 10), "{counters:?}");
    one_warning(&notices, "down");
    scene.redis.start_again();
    eventually(Duration::from_secs(15), "it is used again", || {
        counted(&mut client, |c| cached(c, "k", QUERY).unwrap()).1.hits == 1
    });
    assert_eq!(notices.warnings().len(), 1, "and no warning for coming back");
}

#[test]
fn redis_that_never_was_there_answers() {
    // Danger: the moments after CREATE EXTENSION, before anybody has set an address.
    let scene = Scene::new();
    let (mut client, notices) = prepare(&scene);
    use_url(&mut client, "unix:///nonexistent/redis.sock");
    expect(&mut client, &notices, "no socket", "connect");
}

#[test]
fn a_refused_or_unresolvable_tcp_address_answers() {
    // Danger: the name does not resolve, or nothing listens.
    let scene = Scene::new();
    for url in ["redis://127.0.0.1:1", "redis://[::1]:1"] {
        let (mut client, notices) = scene.connect_listening();
        client
            .batch_execute("DROP TABLE IF EXISTS t; CREATE TABLE t AS SELECT 'from postgres' AS v")
            .unwrap();
        use_url(&mut client, url);
        expect(&mut client, &notices, url, "connect");
    }
    let (mut client, _) = scene.connect_listening();
    use_url(&mut client, "redis://name.invalid:6379");
    let ((), counters) = counted(&mut client, |c| {
        assert_eq!(cached(c, "k", QUERY).as_deref(), Ok(ANSWER));
    });
    assert_eq!((counters.misses, counters.hits), (1, 0), "{counters:?}");
}

#[test]
fn redis_frozen_answers() {
    // Danger: a stopped process accepts connections and bytes and answers nothing, for ever.
    let scene = Scene::new();
    let (mut client, notices) = prepare(&scene);
    client.batch_execute("SET pg_cache.timeout_ms = 50").unwrap();
    cached(&mut client, "warm", QUERY).unwrap();
    scene.redis.freeze();
    expect(&mut client, &notices, "frozen", "timeout");
    scene.redis.thaw();
}

#[test]
fn without_or_with_the_wrong_password_it_answers() {
    // Danger: a rotated password takes the site down.
    let scene = Scene::with_redis(|| Redis::start_with(&["--requirepass", "right"]));
    let url = scene.redis.url();
    for (what, url) in [
        ("no password", url.clone()),
        ("wrong password", format!("{url}?password=wrong-secret")),
        ("wrong user", format!("{url}?user=nobody&password=wrong-secret")),
    ] {
        let (mut client, notices) = scene.connect_listening();
        client
            .batch_execute("DROP TABLE IF EXISTS t; CREATE TABLE t AS SELECT 'from postgres' AS v")
            .unwrap();
        use_url(&mut client, &url);
        expect(&mut client, &notices, what, "noauth");
        let told = format!("{:?}", notices.warnings());
        assert!(!told.contains("wrong-secret"), "{told}");
    }
    let (mut client, notices) = scene.connect_listening();
    use_url(&mut client, &format!("{url}?password=right"));
    assert_eq!(ten_answers(&mut client, "right password").fills, 10);
    assert_eq!(notices.warnings().len(), 0);
}

#[test]
fn a_full_redis_answers_and_still_serves_what_it_has() {
    // Danger: noeviction and full: every write is refused, and with it every call.
    let scene = Scene::with_redis(|| {
        Redis::start_with(&["--maxmemory-policy", "noeviction", "--maxmemory", "100mb"])
    });
    let (mut client, notices) = prepare(&scene);
    cached(&mut client, "warm", QUERY).unwrap();
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    assert!(scene.redis.cli(&["SET", "x", "y"]).contains("OOM"));
    let counters = ten_answers(&mut client, "full");
    assert!(counters.reason("oom") >= 1, "{counters:?}");
    assert_eq!((counters.hits, counters.fills), (0, 0), "{counters:?}");
    assert!(notices.warnings().len() <= 1);
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually(Duration::from_secs(15), "it fills again", || {
        cached(&mut client, "k:0", QUERY).unwrap();
        value(&scene.redis, "k:0").is_some()
    });
    assert_eq!(counted(&mut client, |c| cached(c, "warm", QUERY)).1.hits, 1);
}

#[test]
fn a_read_only_replica_answers() {
    // Danger: a failover leaves the address pointing at a replica, whose answers may be old.
    let primary = Redis::start_tcp(&["--repl-diskless-sync-delay", "0"]);
    let scene = Scene::new();
    let (mut client, notices) = prepare(&scene);
    answers(&mut client, 10, "before");
    scene.redis.follow(primary.port().unwrap());
    let counters = ten_answers(&mut client, "replica");
    let named = counters.reason("identity") + counters.reason("readonly");
    assert_eq!((named, counters.misses), (10, 10), "{counters:?}");
    assert!(counters.reason("identity") >= 1, "{counters:?}");
    assert_eq!((counters.hits, counters.fills), (0, 0), "{counters:?}");
    assert!(notices.warnings().len() <= 1);
    let sql = "SELECT detail FROM redis_health() WHERE \"check\" = 'server role' AND NOT ok";
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, String>(0), "role slave");
}

#[test]
fn a_database_that_only_knows_a_replica_answers() {
    // Danger: it is registered with a server that takes no writes, or its creation waits for one.
    let primary = Redis::start_tcp(&["--repl-diskless-sync-delay", "0"]);
    let scene = Scene::new();
    scene.redis.follow(primary.port().unwrap());
    let name = format!("{}_late", scene.database());
    scene.postgres().connect().batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
    scene.prepare_database(&name);
    scene.postgres().create_extension(&name);
    let mut client = scene.connect_to("postgres", &name);
    client.batch_execute("CREATE TABLE t AS SELECT 'from postgres' AS v").unwrap();
    let counters = ten_answers(&mut client, "replica");
    assert_eq!((counters.reason("unregistered"), counters.misses), (10, 10), "{counters:?}");
    scene.redis.cli(&["REPLICAOF", "NO", "ONE"]);
    scene.postgres().register(&name);
    assert_eq!(ten_answers(&mut client, "promoted").fills, 10);
}

#[test]
fn a_user_who_may_not_answers() {
    // Danger: an ACL that allows too little looks like a cache that never hits, or breaks pages.
    let scene = Scene::new();
    let url = scene.redis.url();
    for (what, rules) in [
        ("no keys", vec!["+@all"]),
        ("reads only", vec!["~*", "+@read", "+@connection"]),
        ("connects only", vec!["~*", "+@connection"]),
        ("no scripts", vec!["~*", "+@all", "-@scripting"]),
    ] {
        let mut set = vec!["ACL", "SETUSER", "small", "reset", "on", ">pw"];
        set.extend(rules);
        assert_eq!(scene.redis.cli(&set), "OK");
        let (mut client, notices) = scene.connect_listening();
        client
            .batch_execute("DROP TABLE IF EXISTS t; CREATE TABLE t AS SELECT 'from postgres' AS v")
            .unwrap();
        use_url(&mut client, &format!("{url}?user=small&password=pw"));
        let counters = ten_answers(&mut client, what);
        println!("{what}: {counters:?}");
        assert!(counters.reason("noperm") >= 1, "{what}: {counters:?}");
        assert_eq!((counters.hits, counters.fills), (0, 0), "{what}: {counters:?}");
        assert!(notices.warnings().len() == 1, "{what}: {:?}", notices.warnings());
    }
}

#[test]
fn a_connection_lost_while_the_query_runs_costs_the_fill_only() {
    // Danger: the answer is there and is thrown away because it could not be stored.
    let scene = Scene::new();
    let (mut client, _) = prepare(&scene);
    client
        .batch_execute(
            "CREATE FUNCTION slow(text) RETURNS text STABLE LANGUAGE plpgsql
             AS 'BEGIN PERFORM pg_sleep(0.4); RETURN $1; END'",
        )
        .unwrap();
    let redis = scene.redis.client();
    let reader = std::thread::spawn(move || {
        let (answer, counters) =
            counted(&mut client, |c| cached(c, "k", "SELECT slow(v) AS v FROM t"));
        (answer, counters, client)
    });
    let mut redis = redis;
    eventually(Duration::from_secs(5), "the lease is taken", || {
        let leases: Vec<String> = redis::cmd("KEYS").arg("pgc:l:*").query(&mut redis).unwrap();
        !leases.is_empty()
    });
    let _: i64 =
        redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").query(&mut redis).unwrap();
    let (answer, counters, mut client) = reader.join().unwrap();
    assert_eq!(answer.as_deref(), Ok(ANSWER));
    // It may be filled over a new connection, for the lease is ours still; or the loss is counted.
    assert_eq!(counters.fills + counters.reason("closed"), 1, "{counters:?}");
    assert_eq!(value(&scene.redis, "k").is_some(), counters.fills == 1, "{counters:?}");
    eventually(Duration::from_secs(15), "it is used again", || {
        counted(&mut client, |c| cached(c, "other", QUERY).unwrap()).1.hits == 1
    });
}

#[test]
fn warnings_and_errors_tell_no_password() {
    // Danger: a password in the log of every application that reads the warning.
    let scene = Scene::new();
    prepare(&scene);
    for url in [
        "redis://user:tell-nobody@127.0.0.1:1",
        "unix:///nonexistent.sock?user=user&password=tell-nobody",
    ] {
        let (mut client, notices) = scene.connect_listening();
        use_url(&mut client, url);
        ten_answers(&mut client, url);
        let mut told = format!("{:?}", notices.warnings());
        for sql in ["SELECT redis_ping()::text", "SELECT redis_flush()::text"] {
            told += &words(&client.query_one(sql, &[]).unwrap_err());
        }
        for row in client.query("SELECT h::text FROM redis_health() h", &[]).unwrap() {
            told += row.get::<_, &str>(0);
        }
        assert!(!told.contains("tell-nobody"), "{told}");
    }
}
