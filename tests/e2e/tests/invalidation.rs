//! `redis_invalidate`: the keys that a row names are gone from Redis when its commit returns.

use std::collections::BTreeSet;

use pg_cache_e2e::Scene;
use pg_cache_e2e::outcome::{sqlstate, words};
use pg_cache_e2e::registry::count;
use pg_cache_testbed::process::memory_peak_kb;
use postgres::Client;

fn registered() -> (Scene, Client) {
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("SELECT * FROM redis_repair()").unwrap();
    (scene, client)
}

/// Puts these keys there, runs the SQL, and says which are gone.
#[track_caller]
fn gone(scene: &Scene, client: &mut Client, keys: &[&str], sql: &str) -> BTreeSet<String> {
    let mut redis = scene.redis.client();
    for key in keys {
        let () = redis::cmd("SET").arg(key).arg("x").query(&mut redis).unwrap();
    }
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let mut is_gone = |key: &&&str| {
        let found: bool = redis::cmd("EXISTS").arg(**key).query(&mut redis).unwrap();
        !found
    };
    keys.iter().filter(|key| is_gone(key)).map(|key| (*key).to_owned()).collect()
}

fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

#[test]
fn the_keys_of_the_old_and_the_new_row_go() {
    // Danger: a program that reads Redis finds the row as it was before the commit.
    let (scene, mut client) = registered();
    client
        .batch_execute(
            "CREATE TABLE u (id int, org bigint, v text);
             CREATE TRIGGER k AFTER INSERT OR UPDATE OR DELETE ON u FOR EACH ROW
                 EXECUTE FUNCTION redis_invalidate('u:{id}', 'org:{org}:users', 'all')",
        )
        .unwrap();
    let keys = ["u:1", "u:2", "org:7:users", "org:8:users", "all"];
    let mut check = |sql: &str, expected: &[&str]| {
        assert_eq!(gone(&scene, &mut client, &keys, sql), set(expected), "{sql}");
    };
    check("INSERT INTO u VALUES (1, 7, 'a')", &["u:1", "org:7:users", "all"]);
    check("UPDATE u SET v = 'b'", &["u:1", "org:7:users", "all"]);
    check("UPDATE u SET id = 2", &["u:1", "u:2", "org:7:users", "all"]);
    check("UPDATE u SET org = 8", &["u:2", "org:7:users", "org:8:users", "all"]);
    check("BEGIN; UPDATE u SET v = 'c'; ROLLBACK", &[]);
    check("BEGIN; SAVEPOINT a; UPDATE u SET v = 'c'; ROLLBACK TO a; COMMIT", &[]);
    check("UPDATE u SET v = 'd' WHERE false", &[]);
    check("DELETE FROM u", &["u:2", "org:8:users", "all"]);
    check("TRUNCATE u", &[]);
}

#[test]
fn a_statement_may_name_a_key_that_needs_no_row() {
    // Danger: TRUNCATE fires no row trigger, and a list of all rows stays in Redis.
    let (scene, mut client) = registered();
    client
        .batch_execute(
            "CREATE TABLE u (id int);
             CREATE TRIGGER k AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON u
                 EXECUTE FUNCTION redis_invalidate('all:u', 'br{{ac}}es')",
        )
        .unwrap();
    let keys = ["all:u", "br{ac}es", "other"];
    for sql in ["INSERT INTO u VALUES (1)", "TRUNCATE u"] {
        let found = gone(&scene, &mut client, &keys, sql);
        assert_eq!(found, set(&["all:u", "br{ac}es"]), "{sql}");
    }
}

/// A column's type, a value, and the text that stands for it in a key.
const TEXTS: [(&str, &str, &str); 26] = [
    ("smallint", "-32768", "-32768"),
    ("int", "-2147483648", "-2147483648"),
    ("bigint", "9223372036854775807", "9223372036854775807"),
    ("text", "a b", "a b"),
    ("text", "a:b{c}#d%", "a%3Ab%7Bc%7D%23d%25"),
    ("text", "", ""),
    ("text", "ünï", "ünï"),
    ("varchar(9)", "x", "x"),
    ("char(3)", "x", "x"),
    ("name", "n", "n"),
    ("bool", "true", "true"),
    ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("date", "2026-03-01", "2026-03-01"),
    ("timestamp", "2026-03-01 12:00:00.5", "2026-03-01T12%3A00%3A00.5"),
    ("timestamptz", "2026-03-01 12:00+05", "2026-03-01T07%3A00%3A00+00%3A00"),
    ("timestamptz", "infinity", "infinity"),
    ("time", "12:00", "12%3A00%3A00"),
    ("interval", "1 day 02:00", "1 day 02%3A00%3A00"),
    ("float8", "0.1", "0.1"),
    ("float4", "0.1", "0.1"),
    ("numeric", "1.50", "1.50"),
    ("bytea", "ab", "\\x6162"),
    ("money", "1234.50", "$1,234.50"),
    ("regclass", "'pg_class'::regclass", "pg_class"),
    ("timestamptz[]", "{2026-03-01 12:00+05}", "%7B\"2026-03-01 07%3A00%3A00+00\"%7D"),
    ("day", "2026-03-01", "2026-03-01"),
];

#[test]
fn a_value_has_one_text_in_every_session() {
    // Danger: a session with another TimeZone or DateStyle deletes another key than the one that
    // stands there.
    let (scene, mut client) = registered();
    client.batch_execute("CREATE DOMAIN day AS date").unwrap();
    let odd =
        "SET timezone = 'Asia/Tokyo'; SET datestyle = 'SQL, DMY'; SET intervalstyle = iso_8601;
               SET extra_float_digits = -5; SET bytea_output = escape; SET search_path = ''";
    for (number, (kind, value, text)) in TEXTS.into_iter().enumerate() {
        let value = match kind {
            "regclass" => value.to_owned(),
            "day" => format!("'{value}'::public.day"),
            _ => format!("'{value}'::{kind}"),
        };
        client
            .batch_execute(&format!(
                "RESET ALL; CREATE TABLE t{number} (v {kind}, n int);
                 CREATE TRIGGER k AFTER INSERT OR UPDATE OR DELETE ON t{number} FOR EACH ROW
                     EXECUTE FUNCTION redis_invalidate('v:{{v}}')"
            ))
            .unwrap();
        let key = format!("v:{text}");
        for settings in ["", odd] {
            for change in [
                format!("INSERT INTO public.t{number} VALUES ({value})"),
                format!("UPDATE public.t{number} SET n = 1"),
                format!("DELETE FROM public.t{number}"),
            ] {
                client.batch_execute(settings).unwrap();
                let found = gone(&scene, &mut client, &[&key], &change);
                assert_eq!(found, set(&[&key]), "{kind} {value}: {change} {settings}");
            }
        }
        client.batch_execute("RESET ALL").unwrap();
    }
    let shown: String = client.query_one("SHOW TimeZone", &[]).unwrap().get(0);
    assert_eq!(shown, "UTC", "the session's own settings come back");
}

#[test]
fn a_row_without_a_value_for_the_key_is_refused() {
    // Danger: a key that nobody can name is taken for deleted.
    let (_scene, mut client) = registered();
    client
        .batch_execute(
            "CREATE TABLE u (id int, v int);
             CREATE TRIGGER k AFTER INSERT OR UPDATE OR DELETE ON u FOR EACH ROW
                 EXECUTE FUNCTION redis_invalidate('u:{id}')",
        )
        .unwrap();
    let error = client.batch_execute("INSERT INTO u VALUES (NULL, 1)").unwrap_err();
    assert_eq!(error.code().unwrap().code(), "22004");
    assert!(error.as_db_error().unwrap().message().contains("\"id\""));
    let error = client.batch_execute("ALTER TABLE u DROP id").unwrap_err();
    assert_eq!(error.code().unwrap().code(), "2BP01");
    assert!(error.as_db_error().unwrap().message().contains("\"k\" on public.u: column \"id\""));
}

#[test]
fn many_rows_need_bounded_memory() {
    // Danger: a statement over millions of rows keeps each key until its commit.
    let (scene, mut client) = registered();
    client
        .batch_execute(
            "CREATE TABLE u (id int, v int);
             CREATE TRIGGER k AFTER INSERT OR UPDATE OR DELETE ON u FOR EACH ROW
                 EXECUTE FUNCTION redis_invalidate('u:{id}');
             SET pg_cache.pending_keys_max = 100",
        )
        .unwrap();
    let early = "SELECT early FROM redis_stat_commit";
    let keys = ["u:1", "u:57", "u:1000", "u:1001"];
    let insert = "INSERT INTO u SELECT g, g FROM generate_series(1, 1000) g";
    for (sql, steps) in [(insert, 5), ("UPDATE u SET v = v + 1", 5)] {
        let before = count(&mut client, early);
        assert_eq!(gone(&scene, &mut client, &keys, sql), set(&keys[..3]));
        assert!(count(&mut client, early) >= before + steps, "{sql}: in steps");
    }
}

#[test]
fn a_key_for_each_of_many_rows_takes_no_more_memory_than_a_few() {
    // Danger: a statement over millions of rows is ended by the kernel, and the server with it.
    let (_scene, mut client) = registered();
    let table = "CREATE TABLE u (id int, v int);
                 INSERT INTO u SELECT g, 0 FROM generate_series(1, 300000) g;
                 CREATE TRIGGER k AFTER INSERT OR UPDATE OR DELETE ON u FOR EACH ROW
                     EXECUTE FUNCTION redis_invalidate('u:{id}')";
    client.batch_execute(table).unwrap();
    client.batch_execute("UPDATE u SET v = v + 1 WHERE id <= 20000").unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let before_kb = memory_peak_kb(pid);
    client.batch_execute("UPDATE u SET v = v + 1").unwrap();
    let grown_kb = memory_peak_kb(pid) - before_kb;
    // PostgreSQL's own queue of rows for which a trigger is to run takes 4 MB of it.
    println!("grew by {grown_kb} kB");
    assert!(grown_kb < 12 << 10, "grew by {grown_kb} kB");
    let told = "SELECT keys FROM redis_stat_commit";
    assert_eq!(count(&mut client, told), 320_000);
}

#[test]
fn only_who_was_granted_it_names_keys_to_delete() {
    // Danger: anybody with a table of their own deletes the keys of every program on that Redis.
    let (scene, mut client) = registered();
    let role = scene.create_role("anybody");
    client
        .batch_execute(&format!("CREATE SCHEMA own AUTHORIZATION {role}; CREATE TABLE u (id int)"))
        .unwrap();
    let mut other = scene.connect_as(&role);
    let attach = |table: &str| {
        format!(
            "CREATE TRIGGER k AFTER INSERT ON {table} FOR EACH ROW
                 EXECUTE FUNCTION redis_invalidate('session:1')"
        )
    };
    other.batch_execute("CREATE TABLE own.t (id int)").unwrap();
    let error = other.batch_execute(&attach("own.t")).unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42501");
    client.batch_execute(&attach("u")).unwrap();
    client.batch_execute(&format!("GRANT INSERT ON u TO {role}")).unwrap();
    let keys = ["session:1"];
    let found = gone(&scene, &mut other, &keys, "INSERT INTO u VALUES (1)");
    assert_eq!(found, set(&keys), "who writes the table needs no grant");
}

#[test]
fn a_trigger_that_cannot_name_a_key_is_refused_when_it_is_created() {
    // Danger: a migration passes, and from then on every write fails, and does not say why.
    let (_scene, mut client) = registered();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text)").unwrap();
    let row = "AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW";
    let statement = "AFTER INSERT ON t FOR EACH STATEMENT";
    let wrong = [
        (row, "redis_invalidate()", "22023", "no key is named"),
        (row, "redis_invalidate('')", "22023", "no key is named"),
        (row, "redis_invalidate('t', '')", "22023", "no key is named"),
        (row, "redis_invalidate('{nope}')", "42703", "column \"nope\" does not exist"),
        (row, "redis_invalidate('t:{id')", "22023", "invalid key template"),
        (row, "redis_invalidate('pgc:x')", "42939", "must not begin with"),
        ("BEFORE INSERT ON t FOR EACH ROW", "redis_invalidate('t')", "39P01", "must be AFTER"),
        (statement, "redis_invalidate('t:{id}')", "39P01", "needs a row"),
        ("BEFORE INSERT ON t FOR EACH ROW", "redis_track_row()", "39P01", "must be AFTER"),
        (statement, "redis_track_row()", "39P01", "must be AFTER"),
        (statement, "redis_track_truncate()", "39P01", "must be AFTER TRUNCATE"),
    ];
    let refused = |client: &mut Client, sql: &str, state: &str, said: &str| {
        let error = client.batch_execute(sql).expect_err(sql);
        let words = words(&error);
        assert_eq!(sqlstate(&error), state, "{sql}: {words}");
        assert!(words.contains("trigger \"bad\" on public.t: "), "{sql}: {words}");
        assert!(words.contains(said), "{sql}: {words}");
    };
    for (when, function, state, said) in wrong {
        let sql = format!("CREATE TRIGGER bad {when} EXECUTE FUNCTION {function}");
        refused(&mut client, &sql, state, said);
    }
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    // One that was made while nobody looked says the same when it fires.
    client.batch_execute("ALTER EVENT TRIGGER pg_cache_ddl_end DISABLE").unwrap();
    for (when, function, state, said) in wrong {
        let sql = format!("CREATE TRIGGER bad {when} EXECUTE FUNCTION {function}");
        client.batch_execute(&sql).unwrap();
        refused(&mut client, "INSERT INTO t VALUES (2)", state, said);
        client.batch_execute("DROP TRIGGER bad ON t").unwrap();
    }
    let named = format!("CREATE TRIGGER bad {row} EXECUTE FUNCTION redis_invalidate('v:{{v}}')");
    client.batch_execute(&named).unwrap();
    refused(&mut client, "INSERT INTO t VALUES (3)", "22004", "column \"v\" must not be null");
    client.batch_execute("ALTER TABLE t RENAME v TO w").unwrap();
    refused(&mut client, "INSERT INTO t VALUES (4, 'a')", "42703", "column \"v\" does not exist");
    client.batch_execute("ALTER EVENT TRIGGER pg_cache_ddl_end ENABLE ALWAYS").unwrap();
}
