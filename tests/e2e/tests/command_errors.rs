//! What Redis refuses is an SQL error with a name of its own; what would break a connection or a
//! server is not sent at all.

use std::time::Duration;

use pg_cache_core::command::Kind;
use pg_cache_e2e::Scene;
use pg_cache_e2e::outcome::{sqlstate, words};
use pg_cache_testbed::{Redis, eventually};
use postgres::Client;
use redis::Value;

/// SQLSTATE and message.
#[track_caller]
fn error(client: &mut Client, expression: &str) -> (String, String) {
    let sql = format!("SELECT {expression}");
    let error = client.batch_execute(&sql).expect_err(&sql);
    (sqlstate(&error), words(&error))
}

#[track_caller]
fn check(client: &mut Client, cases: &[(&str, &str, &str)]) {
    for (expression, state, text) in cases {
        let (found, words) = error(client, expression);
        assert_eq!(found, *state, "{expression}: {words}");
        assert!(words.contains(text), "{expression}: {words}");
    }
    // An error of one command leaves the connection as it was.
    let echo: String =
        client.query_one("SELECT redis_command('ECHO', 'x')::text", &[]).unwrap().get(0);
    assert_eq!(echo, "\"x\"");
}

#[test]
fn what_redis_refuses_has_a_name_of_its_own() {
    // Danger: a program that branches on one SQLSTATE for all that Redis says.
    let scene = Scene::new();
    let mut client = scene.connect();
    scene.redis.cli(&["RPUSH", "list", "x"]);
    scene.redis.cli(&["SET", "text", "x"]);
    scene.redis.cli(&["SET", "most", &i64::MAX.to_string()]);
    scene.redis.cli(&["XGROUP", "CREATE", "stream", "g", "0", "MKSTREAM"]);
    let dump = "redis_command('EVAL', 'return redis.call(\"RESTORE\", KEYS[1], 0,
                    redis.call(\"DUMP\", KEYS[1]))', '1', 'text')";
    check(
        &mut client,
        &[
            ("redis_get('list')", "42804", "WRONGTYPE"),
            ("redis_incr('list')", "42804", "redis_command('TYPE', ...)"),
            ("redis_incr('text')", "22P02", "redis expected a number"),
            ("redis_incr('most')", "22003", "out of range"),
            ("redis_command('GETT', 'k')", "42883", "Give the name alone"),
            ("redis_command('GET k')", "42883", "Give the name alone"),
            ("redis_command('OBJECT', 'no-such')", "42883", "no-such"),
            ("redis_command('GET')", "42601", "wrong number"),
            ("redis_command('SET', 'k', 'v', 'KEEP')", "42601", "syntax error"),
            ("redis_command('SET', 'k', 'v', 'EX', '0')", "22023", "time to live"),
            ("redis_command('SET', 'k', 'v', 'EX', 'x')", "22P02", "expected a number"),
            ("redis_command('INCRBYFLOAT', 'text', '1')", "22P02", "expected a number"),
            ("redis_command('RENAME', 'none', 'x')", "42704", "no such redis key"),
            ("redis_command('LSET', 'list', '5', 'x')", "22003", "out of range"),
            (
                "redis_command('XREADGROUP', 'GROUP', 'h', 'c', 'STREAMS', 'stream', '>')",
                "42704",
                "MKSTREAM",
            ),
            ("redis_command('XGROUP', 'CREATE', 'stream', 'g', '0')", "42710", "BUSYGROUP"),
            (dump, "42710", "BUSYKEY"),
            (
                "redis_command('EVALSHA', 'ffffffffffffffffffffffffffffffffffffffff', '0')",
                "42883",
                "Send EVAL",
            ),
            (
                "redis_command('EVAL', 'return redis.error_reply(\"MINE it is\")', '0')",
                "38000",
                "MINE it is",
            ),
            ("redis_command('EVAL', 'error(\"broken\")', '0')", "38000", "broken"),
            ("redis_command('EVAL', 'syntax', '0')", "38000", "Error compiling script"),
            ("redis_command('SCRIPT', 'KILL')", "55000", "NOTBUSY"),
            ("redis_command('DEBUG', 'OBJECT', 'text')", "42501", "DEBUG command not allowed"),
            ("redis_command('CONFIG', 'SET', 'maxmemory', 'x')", "22023", "CONFIG SET failed"),
            // Redis cuts what it quotes, in the middle of a character.
            ("redis_command('GETT', 'x' || repeat('ü', 200))", "42883", "GETT"),
            ("redis_command('ÜÜ')", "42883", "ÜÜ"),
        ],
    );
}

#[test]
fn a_server_that_does_not_take_writes_says_why() {
    // Danger: a full, read-only or broken Redis looks like any other error.
    let scene = Scene::with_redis(|| {
        Redis::start_with(&["--enable-protected-configs", "yes", "--save", "3600 1000000"])
    });
    let mut client = scene.connect();
    client.batch_execute("SELECT redis_set('k', 'v')").unwrap();
    let set = |name: &str, value: &str| {
        assert_eq!(scene.redis.cli(&["CONFIG", "SET", name, value]), "OK");
    };
    set("maxmemory", "1");
    check(&mut client, &[("redis_set('k', 'v')", "53200", "maxmemory-policy")]);
    set("maxmemory", "0");
    set("min-replicas-to-write", "1");
    check(&mut client, &[("redis_set('k', 'v')", "55000", "too few replicas")]);
    set("min-replicas-to-write", "0");
    scene.redis.cli(&["ACL", "SETUSER", "default", "-incrby"]);
    check(&mut client, &[("redis_incr('n')", "42501", "permission denied by redis")]);
    scene.redis.cli(&["ACL", "SETUSER", "default", "+@all"]);
    scene.redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    check(&mut client, &[("redis_set('k', 'v')", "25006", "redis is read-only")]);
    scene.redis.cli(&["REPLICAOF", "NO", "ONE"]);
    set("dir", "/proc");
    scene.redis.cli(&["BGSAVE"]);
    eventually(Duration::from_secs(10), "saving fails", || {
        scene.redis.cli(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err")
    });
    check(&mut client, &[("redis_set('k', 'v')", "58030", "cannot write its data")]);
}

#[test]
fn a_script_without_end_is_left_alone_in_time() {
    // Danger: a backend that waits as long as the script runs.
    let scene = Scene::with_redis(|| Redis::start_with(&["--busy-reply-threshold", "100"]));
    let mut client = scene.connect();
    let mut other = scene.connect();
    other.batch_execute("SELECT redis_command('PING')").unwrap();
    let (state, text) = error(&mut client, "redis_command('EVAL', 'while true do end', '0')");
    assert_eq!(state, "08006", "{text}");
    let kill = "SELECT redis_command('SCRIPT', 'KILL')";
    eventually(Duration::from_secs(10), "it can be killed", || other.batch_execute(kill).is_ok());
    eventually(Duration::from_secs(10), "it has ended", || {
        client.batch_execute("SELECT redis_ping()").is_ok()
    });
    let writes = "redis_command('EVAL', 'redis.call(\"SET\", \"k\", 1) while true do end', '0')";
    assert_eq!(error(&mut client, writes).0, "08006");
    eventually(Duration::from_secs(10), "it cannot be killed", || {
        let error = other.batch_execute(kill).expect_err("the script goes on");
        sqlstate(&error) == "55000" && words(&error).contains("has written")
    });
}

#[test]
fn what_breaks_a_connection_is_refused_to_all_and_the_rest_to_most() {
    // Danger: SUBSCRIBE on the connection that everything shares, or FLUSHALL by anybody.
    let scene = Scene::new();
    let mut admin = scene.connect();
    let role = scene.create_role("app");
    let grant = format!("GRANT EXECUTE ON FUNCTION redis_command(text, text[]) TO {role}");
    admin.batch_execute(&grant).unwrap();
    let mut user = scene.connect_as(&role);
    let refused = [
        ("redis_command('blpop', 'k', '0')", "0A000", "redis_dequeue"),
        ("redis_command('XREAD', 'BLOCK', '0', 'STREAMS', 's', '$')", "0A000", "redis_dequeue"),
        ("redis_command('WAIT', '1', '0')", "0A000", "may wait"),
        ("redis_command('Subscribe', 'c')", "0A000", "redis_publish"),
        ("redis_command('MULTI')", "0A000", "redis_at_commit"),
        ("redis_command('SELECT', '1')", "0A000", "pg_cache.url"),
        ("redis_command('RESET')", "0A000", "change the connection"),
        ("redis_command('CLIENT', 'REPLY', 'OFF')", "0A000", "change the connection"),
        ("redis_command('MONITOR')", "0A000", "redis-cli"),
        ("redis_command('HELLO', '2')", "0A000", "change the connection"),
    ];
    check(&mut admin, &refused);
    check(&mut user, &refused);
    let administrative = [
        "redis_command('FLUSHALL')",
        "redis_command('flushdb')",
        "redis_command('CONFIG', 'GET', 'maxmemory')",
        "redis_command('ACL', 'WHOAMI')",
        "redis_command('CLIENT', 'LIST')",
        "redis_command('SCRIPT', 'FLUSH')",
        "redis_command('SLOWLOG', 'GET')",
    ];
    for expression in administrative {
        let (state, words) = error(&mut user, expression);
        assert_eq!(state, "42501", "{expression}: {words}");
        assert!(words.contains("must be superuser"), "{words}");
        admin.batch_execute(&format!("SELECT {expression}")).unwrap();
    }
    // A blank or a byte more does not get it past the list: Redis knows no such name.
    for expression in ["redis_command(' FLUSHALL')", "redis_command(E'FLUSHALL\\r\\n')"] {
        assert_eq!(error(&mut user, expression).0, "42883");
    }
    user.batch_execute("SELECT redis_command('CLIENT', 'ID')").unwrap();
    user.batch_execute("SELECT redis_command('EVAL', 'return 1', '0')").unwrap();
}

/// Name and flags of all commands and of the words of containers.
fn commands(redis: &Redis) -> Vec<(Vec<String>, Vec<String>)> {
    let reply: Vec<Vec<Value>> = redis::cmd("COMMAND").query(&mut redis.client()).unwrap();
    let mut found = Vec::new();
    for command in reply {
        let text =
            |place: usize| redis::from_redis_value::<String>(command[place].clone()).unwrap();
        let flags = redis::from_redis_value(command[2].clone()).unwrap();
        found.push((vec![text(0)], flags));
        let words: Vec<Vec<Value>> = redis::from_redis_value(command[9].clone()).unwrap();
        for word in words {
            let name: String = redis::from_redis_value(word[0].clone()).unwrap();
            let flags = redis::from_redis_value(word[2].clone()).unwrap();
            found.push((name.split('|').map(str::to_owned).collect(), flags));
        }
    }
    found
}

#[test]
fn no_command_of_this_server_is_unknown_to_the_lists() {
    // Danger: a newer Redis has a command that blocks or administers, and anybody may send it.
    let scene = Scene::new();
    let known = commands(&scene.redis);
    assert!(known.len() > 300, "{}", known.len());
    let mut wrong = Vec::new();
    for (name, flags) in &known {
        let (first, rest) = name.split_first().unwrap();
        let has = |flag: &str| flags.iter().any(|found| found == flag);
        let kind = Kind::of(first.as_bytes(), rest);
        let waits = ["xread", "xreadgroup"].contains(&first.as_str());
        // To listen changes the connection; to tell others, or to ask who listens, does not.
        let tells = ["publish", "spublish", "pubsub"].contains(&first.as_str());
        let is_right = match kind {
            Kind::Ordinary => {
                let listens = has("pubsub") && !tells;
                !(has("admin") || has("no_auth") || listens || has("blocking") && !waits)
            }
            Kind::Blocking => has("blocking") || first.starts_with("wait"),
            Kind::Connection | Kind::Administrative => true,
        };
        if !is_right {
            wrong.push(format!("{}: {kind:?}, {flags:?}", name.join(" ")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for name in ["xread", "xreadgroup"] {
        let kind = Kind::of(name.as_bytes(), &["BLOCK", "0", "STREAMS", "s", "0"]);
        assert_eq!(kind, Kind::Blocking);
    }
}
