//! Settings: where Redis is, who may say so, and that a change counts from the next call.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pg_cache_e2e::counters::{commands, counted, keys, value};
use pg_cache_e2e::outcome::{sqlstate, words};
use pg_cache_e2e::{Scene, cached};
use pg_cache_testbed::{Redis, eventually};
use postgres::Client;

const QUERY: &str = "SELECT 1 AS v";

fn set_url(client: &mut Client, url: &str) -> Result<(), postgres::Error> {
    client.batch_execute(&format!("SET pg_cache.url = '{url}'"))
}

fn load(client: &mut Client) {
    client.batch_execute("SELECT count(*) FROM redis_stat_cached").unwrap();
}

/// How often a server was asked for an entry.
fn looks(redis: &Redis) -> u64 {
    commands(redis).get("mget").copied().unwrap_or(0)
}

#[test]
fn a_changed_url_counts_from_the_next_call() {
    // Danger: the old server is written to for as long as the backend lives; or the new one, that
    // no writer knows of, gets entries which nobody invalidates.
    let scene = Scene::new();
    let second = Redis::start();
    let mut client = scene.connect();
    cached(&mut client, "a", QUERY).unwrap();
    let mut elsewhere = |sql: &str, key: &str| {
        client.batch_execute(sql).unwrap();
        let before = (looks(&scene.redis), looks(&second));
        let (answer, counters) = counted(&mut client, |c| cached(c, key, QUERY));
        assert_eq!(answer.as_deref(), Ok(r#"[{"v":1}]"#));
        let asked = (looks(&scene.redis) - before.0, looks(&second) - before.1);
        assert_eq!((asked.0 > 0, asked.1 > 0), (counters.fills == 1, counters.fills == 0));
        assert_eq!(value(&second, key), None, "only the registered server holds entries");
        assert_eq!(value(&scene.redis, key).is_some(), counters.fills == 1);
        counters.reason("identity") == 1
    };
    assert!(elsewhere(&format!("SET pg_cache.url = '{}'", second.url()), "b"));
    assert!(!elsewhere("RESET pg_cache.url", "c"));
    let local = format!("BEGIN; SET LOCAL pg_cache.url = '{}'", second.url());
    assert!(elsewhere(&local, "d"));
    assert!(!elsewhere("ROLLBACK", "e"));
    assert_eq!(keys(&second, "*"), [""; 0]);
}

#[test]
fn a_changed_url_is_tried_at_once_although_the_old_one_failed() {
    // Danger: the administrator repairs the address and the breaker still answers for the old one.
    let scene = Scene::new();
    let mut client = scene.connect();
    set_url(&mut client, "unix:///nonexistent.sock").unwrap();
    for _ in 0..20 {
        cached(&mut client, "k", QUERY).unwrap();
    }
    client.batch_execute("RESET pg_cache.url").unwrap();
    let (_, counters) = counted(&mut client, |c| cached(c, "k", QUERY));
    assert_eq!(counters.fills, 1, "{counters:?}");
}

#[test]
fn a_changed_configuration_file_counts_after_a_reload() {
    // Danger: SIGHUP is how operators change addresses.
    let scene = Scene::new();
    let second = Redis::start();
    let mut client = scene.connect();
    cached(&mut client, "a", QUERY).unwrap();
    let sql = format!("ALTER DATABASE {} RESET pg_cache.url", scene.database());
    client.batch_execute(&sql).unwrap();
    let sql = format!(
        "ALTER ROLE postgres IN DATABASE {} SET pg_cache.url = '{}'",
        scene.database(),
        second.url()
    );
    client.batch_execute(&sql).unwrap();
    // The worker hears of it as new sessions do: the first one that finds another server there
    // starts it, and it registers that server.
    let mut fresh = scene.connect();
    eventually(Duration::from_secs(30), "the new server is used", || {
        cached(&mut fresh, "b", QUERY).unwrap();
        value(&second, "b").is_some()
    });
    let (_, counters) = counted(&mut client, |c| cached(c, "c", QUERY));
    assert_eq!(counters.reason("identity"), 1, "the old one no longer: {counters:?}");
    assert_eq!(value(&scene.redis, "c"), None);
}

#[test]
fn credentials_of_every_kind_log_in() {
    // Danger: a password with `@`, `/`, `%` or a letter beyond ASCII locks the cache out.
    let scene = Scene::new();
    let tcp = Redis::start_tcp(&[]);
    for redis in [&scene.redis, &tcp] {
        let password = "p@s/s:w%rd?&#é";
        let rules = ["ACL", "SETUSER", "us:er", "on", &format!(">{password}"), "~*", "&*", "+@all"];
        assert_eq!(redis.cli(&rules), "OK");
    }
    let encoded = "p%40s%2Fs%3Aw%25rd%3F%26%23%C3%A9";
    let tcp_url = tcp.url().replace("redis://", &format!("redis://us%3Aer:{encoded}@"));
    for url in [format!("{}?user=us%3Aer&password={encoded}", scene.redis.url()), tcp_url] {
        scene.move_to(&url);
        let mut client = scene.connect();
        let key = format!("k:{}", url.len());
        let (_, counters) = counted(&mut client, |c| cached(c, &key, QUERY));
        assert_eq!(counters.fills, 1, "{counters:?}");
    }
    assert!(tcp.cli(&["CLIENT", "LIST"]).contains("user=us:er"));
}

/// A file that the server's user can read.
fn password_file(scene: &Scene, content: &str) -> std::path::PathBuf {
    let path = scene.postgres().socket_dir().join(format!("password_{}", scene.database()));
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    path
}

#[test]
fn the_password_file_is_read_and_a_changed_one_is_read_again() {
    // Danger: a rotated secret needs every connection of the site to be closed.
    let scene = Scene::with_redis(|| Redis::start_with(&["--requirepass", "first"]));
    let mut client = scene.connect();
    set_url(&mut client, &scene.redis.url()).unwrap();
    for content in ["first", "first\n", "first\r\n"] {
        let path = password_file(&scene, content);
        client
            .batch_execute(&format!("SET pg_cache.password_file = '{}'", path.display()))
            .unwrap();
        let mut fresh = scene.connect();
        set_url(&mut fresh, &scene.redis.url()).unwrap();
        fresh.batch_execute(&format!("SET pg_cache.password_file = '{}'", path.display())).unwrap();
        let (_, counters) = counted(&mut fresh, |c| cached(c, &format!("{content:?}"), QUERY));
        assert_eq!(counters.fills, 1, "{content:?}: {counters:?}");
    }
    cached(&mut client, "warm", QUERY).unwrap();
    scene.redis.cli(&["CONFIG", "SET", "requirepass", "second"]);
    let mut redis = redis_after_rotation(&scene);
    let _: i64 =
        redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").query(&mut redis).unwrap();
    password_file(&scene, "second\n");
    eventually(Duration::from_secs(15), "the new one is read", || {
        counted(&mut client, |c| cached(c, "warm", QUERY).unwrap()).1.hits == 1
    });
}

fn redis_after_rotation(scene: &Scene) -> redis::Connection {
    let path = scene.redis.socket().display().to_string();
    redis::Client::open(format!("unix://{path}?pass=second")).unwrap().get_connection().unwrap()
}

#[test]
fn a_missing_password_file_is_a_reason_not_an_error() {
    // Danger: a page fails because a file of the cache is gone.
    let scene = Scene::new();
    let mut client = scene.connect();
    load(&mut client);
    client.batch_execute("SET pg_cache.password_file = '/nonexistent/password'").unwrap();
    let (answer, counters) = counted(&mut client, |c| cached(c, "k", QUERY));
    assert_eq!(answer.as_deref(), Ok(r#"[{"v":1}]"#));
    assert_eq!((counters.hits, counters.misses), (0, 1), "{counters:?}");
    client.batch_execute("RESET pg_cache.password_file").unwrap();
    assert_eq!(counted(&mut client, |c| cached(c, "k", QUERY)).1.fills, 1);
}

#[test]
fn the_address_is_hidden_from_ordinary_users() {
    // Danger: the password stands in pg_settings for everyone to read.
    let scene = Scene::new();
    let role = scene.create_role("alice");
    let mut client = scene.connect_as(&role);
    load(&mut client);
    for setting in ["pg_cache.url", "pg_cache.password_file"] {
        for sql in [format!("SHOW {setting}"), format!("SELECT current_setting('{setting}')")] {
            let error = client.simple_query(&sql).unwrap_err();
            assert_eq!(sqlstate(&error), "42501", "{sql}");
        }
        let sql = "SELECT count(*) FROM pg_settings WHERE name = $1 AND setting <> ''";
        assert_eq!(client.query_one(sql, &[&setting]).unwrap().get::<_, i64>(0), 0, "{setting}");
    }
    let sql = "SELECT setting FROM pg_settings WHERE name = 'pg_cache.url'";
    let shown: String = {
        let mut c = scene.connect();
        load(&mut c);
        c.query_one(sql, &[]).unwrap().get(0)
    };
    assert_eq!(shown, scene.redis.url());
}

#[test]
fn ordinary_users_cannot_aim_the_server_at_a_host_of_theirs() {
    // Danger: any user makes the server connect wherever he likes, and reads what it sends. A
    // setting made before the library is loaded is a placeholder that anybody may set.
    let scene = Scene::new();
    let role = scene.create_role("mallory");
    let theirs = Redis::start();
    let mut client = scene.connect_as(&role);
    load(&mut client);
    for setting in [
        "url",
        "password_file",
        "scope_settings",
        "session_prefix",
        "ttl_max",
        "value_bytes_max",
        "lease_timeout_ms",
        "commit_timeout_ms",
        "pending_keys_max",
        "ahead_ms",
        "on_unreachable",
        "outbox_mb_max",
        "rate_limit_on_unreachable",
    ] {
        let error = client.batch_execute(&format!("SET pg_cache.{setting} = '60'")).unwrap_err();
        assert_eq!(sqlstate(&error), "42501", "{setting}");
    }
    let mut early = scene.connect_as(&role);
    let _ = set_url(&mut early, &theirs.url());
    cached(&mut early, "k", QUERY).unwrap();
    assert_eq!(value(&theirs, "k"), None, "the placeholder was taken for an administrator's word");
    let mut config: postgres::Config = scene.postgres().conninfo(scene.database()).parse().unwrap();
    config.user(&role).options(&format!("-c pg_cache.url={}", theirs.url()));
    let mut options = config.connect(postgres::NoTls).unwrap();
    cached(&mut options, "k", QUERY).unwrap();
    assert_eq!(value(&theirs, "k"), None, "a connection option was taken for it");
    let mut own = scene.connect_as(&role);
    let _ = own.batch_execute(&format!("ALTER ROLE {role} SET pg_cache.url = '{}'", theirs.url()));
    let mut after = scene.connect_as(&role);
    cached(&mut after, "k", QUERY).unwrap();
    assert_eq!(value(&theirs, "k"), None, "a role's own setting was taken for it");
    assert_eq!(theirs.cli(&["INFO", "commandstats"]).matches("cmdstat_hello").count(), 0);
}

#[test]
fn schemes_that_are_not_there_yet_are_refused_by_name() {
    // Danger: `rediss` taken for `redis` sends the password in the clear.
    let scene = Scene::new();
    let mut client = scene.connect();
    load(&mut client);
    for url in [
        "rediss://127.0.0.1:6379",
        "REDISS://127.0.0.1:6379",
        "redis+sentinel://h1,h2/service",
        "redis+cluster://h1,h2",
        "http://127.0.0.1",
        "127.0.0.1:6379",
        "redis://h:notaport",
        "redis://h:65536",
        "redis://h/notadb",
        "redis://h?nonsense=1",
        "unix://relative",
        "unix:///x?db=-1",
    ] {
        let error = set_url(&mut client, url).expect_err(url);
        assert_eq!(sqlstate(&error), "22023", "{url}: {error:?}");
        let db = error.as_db_error().unwrap();
        assert!(db.hint().is_some() || db.detail().is_some(), "{url}: says what is wrong");
    }
    cached(&mut client, "k", QUERY).unwrap();
    assert!(value(&scene.redis, "k").is_some(), "the setting before is still in force");
}

#[test]
fn a_refused_address_is_not_repeated_with_its_password() {
    // Danger: the password of a mistyped address lands in the client's log.
    let scene = Scene::new();
    let mut client = scene.connect();
    load(&mut client);
    for url in
        ["rediss://u:tell-nobody@h", "redis://u:tell-nobody@h:bad", "redis://:tell-nobody@h/x"]
    {
        let told = words(&set_url(&mut client, url).unwrap_err());
        assert!(!told.contains("tell-nobody"), "{told}");
    }
}

#[test]
fn a_bad_address_from_before_the_library_was_loaded_does_not_stop_the_query() {
    // Danger: ALTER DATABASE … SET with a typo, made before anybody could check it.
    let scene = Scene::new();
    let mut client = scene.connect();
    let sql = format!("ALTER DATABASE {} SET pg_cache.url = 'rediss://later'", scene.database());
    let _ = client.batch_execute(&sql);
    let mut fresh = scene.connect();
    assert_eq!(cached(&mut fresh, "k", QUERY).as_deref(), Ok(r#"[{"v":1}]"#));
}

#[test]
fn limits_of_settings_are_kept() {
    // Danger: a negative or absurd value is taken and waits for ever.
    let scene = Scene::new();
    let mut client = scene.connect();
    load(&mut client);
    for setting in [
        "timeout_ms = 0",
        "timeout_ms = -1",
        "connect_timeout_ms = 0",
        "lease_timeout_ms = 0",
        "fill_wait_ms = -1",
        "value_bytes_max = -1",
        "ttl_max = 0",
        "plans_max = 0",
        "enabled = perhaps",
        "commit_timeout_ms = 0",
        "pending_keys_max = 0",
        "ahead_ms = -1",
        "pending_events_bytes_max = 0",
        "on_unreachable = perhaps",
        "rate_limit_on_unreachable = perhaps",
        "queue_visibility_ms = 0",
        "queue_attempts_max = 0",
        "queue_backoff_ms = -1",
        "queue_done_keep_s = -1",
    ] {
        let error = client.batch_execute(&format!("SET pg_cache.{setting}")).expect_err(setting);
        assert_eq!(sqlstate(&error), "22023", "{setting}");
    }
    let names = "SELECT string_agg(name || ' ' || setting, E'\\n' ORDER BY name) FROM pg_settings
                 WHERE name ~ '^pg_cache[.](enabled|.*_ms|.*_max|on_.*|scope_settings)$'";
    let shown: String = client.query_one(names, &[]).unwrap().get(0);
    let expected = [
        "pg_cache.ahead_ms 2",
        "pg_cache.commit_timeout_ms 1000",
        "pg_cache.connect_timeout_ms 500",
        "pg_cache.enabled on",
        "pg_cache.fill_wait_ms 5000",
        "pg_cache.lease_timeout_ms 10000",
        "pg_cache.on_unreachable fence",
        "pg_cache.outbox_mb_max 1024",
        "pg_cache.pending_events_bytes_max 67108864",
        "pg_cache.pending_keys_max 10000",
        "pg_cache.plans_max 200",
        "pg_cache.queue_attempts_max 5",
        "pg_cache.queue_backoff_ms 1000",
        "pg_cache.queue_visibility_ms 60000",
        "pg_cache.scope_settings ",
        "pg_cache.timeout_ms 200",
        "pg_cache.ttl_max 2592000",
        "pg_cache.value_bytes_max 8388608",
    ];
    assert_eq!(shown, expected.join("\n"));
}

#[test]
fn a_misspelt_setting_is_refused() {
    // Danger: `pg_cache.timeout` is set, nothing happens, and nobody says so.
    let scene = Scene::new();
    if scene.postgres().cluster().major() < 15 {
        return;
    }
    let mut client = scene.connect();
    load(&mut client);
    let error = client.batch_execute("SET pg_cache.timeout = 5").unwrap_err();
    assert_eq!(sqlstate(&error), "42602", "{error:?}");
}

#[test]
fn a_reload_of_the_configuration_reaches_sessions_that_are_open() {
    // Danger: settings that came with the session's start are remembered, and SIGHUP is not heard.
    let redis = [Redis::start(), Redis::start()];
    let _turn = Scene::new();
    let server = pg_cache_testbed::Postgres::start_with(&[("pg_cache.url", &redis[0].url())]);
    server.register("test");
    let mut client = server.connect();
    let query = "SELECT timestamptz '2024-07-01 00:00+00' AS at";
    let utc = cached(&mut client, "k", query).unwrap();
    let mut admin = server.connect();
    admin.batch_execute("ALTER SYSTEM SET TimeZone = 'Asia/Tokyo'").unwrap();
    let url = redis[1].url();
    admin.batch_execute(&format!("ALTER SYSTEM SET pg_cache.url = '{url}'")).unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").unwrap();
    eventually(Duration::from_secs(10), "it is heard", || {
        let shown = client.query_one("SELECT current_setting('pg_cache.url')", &[]).unwrap();
        shown.get::<_, String>(0) == url
    });
    server.register("test");
    let tokyo = cached(&mut client, "k", query).unwrap();
    assert_ne!(tokyo, utc);
    assert_eq!(value(&redis[1], "k").as_deref(), Some(tokyo.as_bytes()));
    assert_eq!(value(&redis[0], "k").as_deref(), Some(utc.as_bytes()));
}
