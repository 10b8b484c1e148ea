//! `redis_verify` computes entries again as those who filled them, and reports what differs and
//! nothing else.

use pg_cache_core::key::EntryKeys;
use pg_cache_core::sidecar::{Sidecar, value_hash};
use pg_cache_e2e::counters::{counted, keys};
use pg_cache_e2e::outcome::{sqlstate, words};
use pg_cache_e2e::{Notices, Scene, cached, same_as_direct};
use postgres::Client;

/// Makes the cache of this database usable.
pub fn ready(scene: &Scene) -> (Client, Notices) {
    let (mut client, notices) = scene.connect_listening();
    client.batch_execute("SELECT * FROM redis_repair()").unwrap();
    (client, notices)
}

/// Fills an entry, and shows that the next call is served it.
#[track_caller]
pub fn filled(client: &mut Client, key: &str, query: &str) {
    same_as_direct(client, key, query).unwrap();
    let (_, counters) = counted(client, |c| cached(c, key, query).unwrap());
    assert_eq!(counters.hits, 1, "{key}: {counters:?}");
}

/// Keys and details of what `redis_verify` reports.
pub fn verified(client: &mut Client) -> Vec<(String, String)> {
    let rows = client.query("SELECT key, exact, detail FROM redis_verify()", &[]).unwrap();
    let row = |row: &postgres::Row| {
        assert!(!row.get::<_, bool>(1), "exact entries are not reported");
        (row.get(0), row.get(2))
    };
    rows.iter().map(row).collect()
}

/// What `redis_verify` said last: how many were recomputed, differ and were skipped, and why.
#[track_caller]
pub fn told(notices: &Notices) -> ([u64; 3], String) {
    let last = notices.of("NOTICE").pop().expect("a notice");
    let words = last.message().split(|c: char| !c.is_ascii_digit());
    let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
    let numbers = numbers.try_into().unwrap_or_else(|_| panic!("{}", last.message()));
    (numbers, last.detail().unwrap_or_default().to_owned())
}

pub fn set(scene: &Scene, key: &[u8], bytes: &[u8]) {
    let mut command = redis::cmd("SET");
    command.arg(key).arg(bytes).arg("PX").arg(60_000).exec(&mut scene.redis.client()).unwrap();
}

pub fn get(scene: &Scene, key: &[u8]) -> Vec<u8> {
    redis::cmd("GET").arg(key).query(&mut scene.redis.client()).unwrap()
}

/// Replaces an entry's value and rewrites its sidecar to match, as only a broken cache would.
pub fn falsify(scene: &Scene, key: &str, other: &str) {
    let keys = EntryKeys::new(key.as_bytes());
    let mut sidecar = Sidecar::decode(&get(scene, keys.sidecar())).unwrap();
    sidecar.value_bytes = other.len() as u64;
    sidecar.value_hash = value_hash(other.as_bytes());
    set(scene, keys.value(), other.as_bytes());
    set(scene, keys.sidecar(), &sidecar.encode());
}

pub const TABLE: &str = "CREATE TABLE t AS SELECT g AS v, 'row ' || g AS name, g / 3.0 AS n
                       FROM generate_series(1, 20) AS g; SELECT redis_track('t')";

#[test]
fn a_correct_cache_gives_an_empty_answer() {
    // Danger: it is empty because nothing was looked at; or an alarm about an honest entry.
    let scene = Scene::new();
    let (mut client, notices) = ready(&scene);
    client.batch_execute(TABLE).unwrap();
    let queries = [
        "SELECT v, name FROM t ORDER BY v",
        "SELECT count(*), sum(n) FROM t",
        "SELECT v FROM t WHERE false",
        "VALUES (1, 'a\"[{,')",
        "SELECT to_json(t) AS whole, ARRAY[v, v] AS list FROM t ORDER BY v DESC",
    ];
    for (number, query) in queries.iter().enumerate() {
        filled(&mut client, &format!("key:{number}"), query);
    }
    let (rows, counters) = counted(&mut client, verified);
    assert_eq!(rows, []);
    assert_eq!(told(&notices), ([5, 0, 0], String::new()));
    assert_eq!((counters.hits, counters.misses), (0, 0), "it counts nothing: {counters:?}");
    assert_eq!(keys(&scene.redis, "pgc:l:*"), [""; 0], "it takes no lease");
    let rows = client.query("SELECT * FROM redis_verify(2)", &[]).unwrap();
    assert!(rows.is_empty());
    assert_eq!(told(&notices).0, [2, 0, 0], "no more than asked for");
    let sql = "SELECT pg_current_xact_id_if_assigned()::text";
    client.batch_execute("BEGIN; SELECT * FROM redis_verify()").unwrap();
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, Option<String>>(0), None);
    client.batch_execute("COMMIT").unwrap();
}

#[test]
fn an_entry_that_differs_is_reported() {
    // Danger: the number that operators publish is always zero.
    let scene = Scene::new();
    let (mut client, notices) = ready(&scene);
    client.batch_execute(TABLE).unwrap();
    let query = "SELECT v FROM t WHERE v < 4 ORDER BY v";
    for key in ["good", "lost", "more", "order", "no array"] {
        filled(&mut client, key, query);
    }
    falsify(&scene, "lost", r#"[{"v":1}, {"v":3}]"#);
    falsify(&scene, "more", r#"[{"v":1}, {"v":2}, {"v":3}, {"v":3}]"#);
    falsify(&scene, "order", r#"[{"v":3}, {"v":1}, {"v":2}]"#);
    falsify(&scene, "no array", r#"{"v":1}"#);
    assert_eq!(cached(&mut client, "lost", query).unwrap(), r#"[{"v":1}, {"v":3}]"#, "believed");
    let mut rows = verified(&mut client);
    rows.sort();
    let row = |key: &str, detail: &str| (key.to_owned(), detail.to_owned());
    let expected = [
        row(
            "lost",
            "Rows in Redis: 2, of which 0 are not in the result; rows in the result: 3, of which 1 \
             are not in Redis.",
        ),
        row(
            "more",
            "Rows in Redis: 4, of which 1 are not in the result; rows in the result: 3, of which 0 \
             are not in Redis.",
        ),
        row("no array", "What stands in Redis is no JSON array."),
    ];
    assert_eq!(rows, expected);
    assert_eq!(told(&notices), ([5, 3, 0], String::new()));
}

#[test]
fn an_entry_is_judged_by_the_snapshot_at_hand() {
    // Danger: an alarm about an entry that nobody would be served: one that a writer has overtaken,
    // or that is newer than an old snapshot.
    let scene = Scene::new();
    let (mut client, notices) = ready(&scene);
    client.batch_execute(TABLE).unwrap();
    let query = "SELECT v, name FROM t ORDER BY v";
    filled(&mut client, "k", query);
    let mut writer = scene.connect();
    writer.batch_execute("UPDATE t SET name = 'new' WHERE v = 1").unwrap();
    assert_eq!(verified(&mut client), []);
    assert_eq!(told(&notices), ([0, 0, 1], "Skipped: 1 changed.".to_owned()));
    filled(&mut client, "k", query);
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM t").unwrap();
    assert_eq!(verified(&mut client), []);
    assert_eq!(told(&notices).0, [1, 0, 0]);
    writer.batch_execute("UPDATE t SET name = 'newer' WHERE v = 1").unwrap();
    filled(&mut writer, "k", query);
    assert_eq!(verified(&mut client), []);
    assert_eq!(told(&notices), ([0, 0, 1], "Skipped: 1 running_writer.".to_owned()));
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(verified(&mut client), []);
    assert_eq!(told(&notices).0, [1, 0, 0]);
}

#[test]
fn entries_are_recomputed_as_those_who_filled_them() {
    // Danger: an alarm about every entry of a tenant, or of a session in another time zone; or an
    // operator's own settings and role that stay changed.
    let scene = Scene::new();
    let (mut client, notices) = ready(&scene);
    let (alice, bob) = (scene.create_role("alice"), scene.create_role("bob"));
    client
        .batch_execute(&format!(
            "CREATE TABLE note (owner text, tenant text, at timestamptz, f float8);
             INSERT INTO note VALUES ('{alice}', '1', '2020-01-02 03:04:05Z', 0.1),
               ('{alice}', '2', '2020-01-02 03:04:05Z', 1e-7), ('{bob}', '1', 'epoch', 3);
             CREATE SCHEMA s; CREATE TABLE s.note AS SELECT 'hidden' AS owner;
             SELECT redis_track('note'), redis_track('s.note');
             GRANT USAGE ON SCHEMA s TO PUBLIC; GRANT SELECT ON note, s.note TO PUBLIC;
             ALTER TABLE note ENABLE ROW LEVEL SECURITY;
             CREATE POLICY p ON note USING (owner = current_user
               AND tenant = coalesce(current_setting('app.tenant', true), tenant))"
        ))
        .unwrap();
    let mut entries = 0;
    for role in [&alice, &bob] {
        let mut client = scene.connect_as(role);
        filled(&mut client, "notes", "SELECT * FROM note");
        for tenant in ["1", "2"] {
            client.batch_execute(&format!("SET app.tenant = '{tenant}'")).unwrap();
            filled(&mut client, "notes", "SELECT * FROM note");
        }
        entries += 3;
    }
    let mut session = scene.connect();
    for (number, setting) in [
        "search_path = s, public",
        "TimeZone = 'Asia/Kathmandu'",
        "DateStyle = 'SQL, DMY'",
        "extra_float_digits = -5",
        "IntervalStyle = 'iso_8601'",
        "bytea_output = 'escape'",
    ]
    .iter()
    .enumerate()
    {
        session.batch_execute(&format!("RESET ALL; SET {setting}")).unwrap();
        let query = "SELECT note AS v, at - 'epoch' AS i, '\\x00'::bytea AS b FROM note";
        let query = if number == 0 { "SELECT * FROM note" } else { query };
        filled(&mut session, &format!("set:{number}"), query);
        entries += 1;
    }
    let state = "SELECT current_user, session_user, current_setting('search_path'),
                        current_setting('TimeZone'), current_setting('DateStyle')";
    let before = format!("{:?}", client.query_one(state, &[]).unwrap());
    assert_eq!(verified(&mut client), []);
    let (numbers, detail) = told(&notices);
    assert_eq!(numbers, [entries, 0, 0], "{detail}");
    assert_eq!(format!("{:?}", client.query_one(state, &[]).unwrap()), before);
    // And each of them is really compared, by a session that never had a tenant.
    for key in keys(&scene.redis, "notes#*") {
        falsify(&scene, &key, "[]");
    }
    assert_eq!(verified(&mut scene.connect()).len(), 5, "bob has no note of tenant 2");
}

#[test]
fn arguments_of_every_kind_are_brought_back() {
    // Danger: an argument that comes back as another value makes a miss of its entry, which is
    // then never looked at.
    let scene = Scene::new();
    let (mut client, notices) = ready(&scene);
    client
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (a int, b text);
             CREATE DOMAIN small AS int CHECK (value < 100)",
        )
        .unwrap();
    let arguments = [
        "1",
        "true",
        "1.50::numeric",
        "'NaN'::float8",
        "0.1::float4",
        "9007199254740993",
        "'text'::text",
        "repeat('long', 3000)",
        "'x'::char(5)",
        "'name'::name",
        "'2020-02-29'::date",
        "'2020-02-29 01:02:03.000004+05'::timestamptz",
        "'1 month 2 days'::interval",
        "'12:00+03'::timetz",
        "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid",
        "'192.168.0.1/24'::inet",
        "'(1,2),(3,4)'::box",
        "'\\x00ff'::bytea",
        "'{\"a\": [1, 2]}'::jsonb",
        "'{\"a\":1}'::json",
        "'[1,5)'::int4range",
        "'{1,NULL,3}'::int[]",
        "'{{a,b},{c,d}}'::text[]",
        "'glad'::mood",
        "ROW(1, 'x')::pair",
        "ARRAY[ROW(1, 'x')::pair]",
        "7::small",
        "B'1010'",
        "NULL::int",
        "'untyped'",
    ];
    for (number, argument) in arguments.iter().enumerate() {
        let call = format!("redis_cached('a:{number}', 60, 'SELECT $1 AS v', {argument})");
        for _ in 0..2 {
            client.query_one(&format!("SELECT {call}::text"), &[]).unwrap();
        }
    }
    let sql =
        "SELECT redis_cached('drivers', 60, 'SELECT $1::int + $2::numeric AS v', $1, $2)::text";
    client.query_one(sql, &[&Some("1"), &Some("2.5")]).unwrap();
    assert_eq!(verified(&mut client), []);
    let (numbers, detail) = told(&notices);
    assert_eq!(numbers, [arguments.len() as u64 + 1, 0, 0], "{detail}");
}

#[test]
fn what_cannot_be_computed_is_skipped() {
    // Danger: one dropped table ends the whole check, or is reported as a breach of the promise.
    let scene = Scene::new();
    let (mut client, notices) = ready(&scene);
    let (alice, bob) = (scene.create_role("alice"), scene.create_role("bob"));
    client
        .batch_execute(&format!(
            "{TABLE}; CREATE TABLE gone AS TABLE t; CREATE TABLE shut AS TABLE t;
             SELECT redis_track('gone'), redis_track('shut'); CREATE TABLE loose AS TABLE t;
             GRANT SELECT ON t, shut TO {alice}, {bob}"
        ))
        .unwrap();
    filled(&mut client, "good", "SELECT v FROM t ORDER BY v");
    filled(&mut client, "gone", "SELECT v FROM gone ORDER BY v");
    filled(&mut client, "loose", "SELECT v FROM loose ORDER BY v");
    filled(&mut client, "now", "SELECT v FROM t WHERE now() > 'epoch'");
    filled(&mut client, "cold", "SELECT v FROM t WHERE v = 1");
    filled(&mut client, "foreign", "SELECT v FROM t WHERE v = 2");
    filled(&mut scene.connect_as(&alice), "shut", "SELECT v FROM shut ORDER BY v");
    filled(&mut scene.connect_as(&alice), "session", "SELECT session_user AS v FROM t");
    let mut leaving = scene.connect_as(&bob);
    filled(&mut leaving, "left", "SELECT v FROM t ORDER BY v");
    drop(leaving);
    scene.redis.cli(&["DEL", "cold"]);
    scene.redis.cli(&["SET", "foreign", "[]", "KEEPTTL"]);
    client
        .batch_execute(&format!(
            "DROP TABLE gone; REVOKE SELECT ON shut FROM {alice}; DROP OWNED BY {bob};
             DROP ROLE {bob}"
        ))
        .unwrap();
    filled(&mut client, "good", "SELECT v FROM t ORDER BY v");
    assert_eq!(verified(&mut client), []);
    let (numbers, detail) = told(&notices);
    assert_eq!(numbers, [1, 0, 8], "{detail}");
    for words in [
        "1 cold",
        "2 without a recipe or not exact",
        "1 foreign",
        "2 whose query fails",
        "1 of a role that is gone",
    ] {
        assert!(detail.contains(words), "{words}: {detail}");
    }
    assert!(detail.contains("1 that depend on the session of another role"), "{detail}");
    let still: i64 = client.query_one("SELECT count(*) FROM t", &[]).unwrap().get(0);
    assert_eq!(still, 20, "the transaction goes on");
}

#[test]
fn a_query_that_gives_other_rows_each_time_is_not_reported() {
    // Danger: LIMIT without ORDER BY, or a function that lies about itself, is an alarm.
    let scene = Scene::new();
    let (mut client, notices) = ready(&scene);
    client
        .batch_execute(
            "CREATE SEQUENCE s; CREATE FUNCTION liar(int) RETURNS bigint IMMUTABLE LANGUAGE plpgsql
             AS $$ BEGIN RETURN (random() * 1e15)::bigint; END $$",
        )
        .unwrap();
    let sql = "SELECT redis_cached('liar', 60, 'SELECT liar($1) AS v', 1)::text";
    client.query_one(sql, &[]).unwrap();
    assert_eq!(verified(&mut client), []);
    let (numbers, detail) = told(&notices);
    assert_eq!(numbers, [0, 0, 1], "{detail}");
    assert_eq!(detail, "Skipped: 1 whose query gives other rows each time.");
}

#[test]
fn it_says_where_it_cannot_judge() {
    // Danger: an empty answer that means "not looked".
    let scene = Scene::new();
    let (mut client, _) = ready(&scene);
    client.batch_execute(TABLE).unwrap();
    filled(&mut client, "k", "SELECT v FROM t");
    let call = "SELECT * FROM redis_verify()";
    for (before, expected, hint) in [
        ("BEGIN; SELECT pg_current_xact_id()", "25001", "statement of its own"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", "25001", "READ COMMITTED"),
        ("BEGIN; SET LOCAL pg_cache.enabled = off", "55000", "Set pg_cache.enabled to on"),
    ] {
        client.batch_execute(before).unwrap();
        let error = client.query(call, &[]).unwrap_err();
        assert_eq!(sqlstate(&error), expected, "{before}: {}", words(&error));
        assert!(words(&error).contains(hint), "{before}: {}", words(&error));
        client.batch_execute("ROLLBACK").unwrap();
    }
    let role = scene.create_role("alice");
    let mut alice = scene.connect_as(&role);
    for sql in [call, "SELECT redis_verify_json(1)", "SELECT secret FROM redis_server"] {
        assert_eq!(sqlstate(&alice.query(sql, &[]).unwrap_err()), "42501", "{sql}");
    }
}

#[test]
fn a_cancel_ends_it() {
    // Danger: a cancel that is taken for the failure of one entry's query, and skipped.
    let scene = Scene::new();
    let (mut client, _) = ready(&scene);
    client
        .batch_execute(
            "CREATE FUNCTION slow(s float8) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(s); RETURN 1; END $$",
        )
        .unwrap();
    for key in ["a", "b"] {
        filled(&mut client, key, "SELECT slow(v) FROM (VALUES (0.4::float8)) AS t(v)");
    }
    // Another session: this one has planned the call away.
    let mut client = scene.connect();
    client.batch_execute("SET statement_timeout = '200ms'").unwrap();
    let error = client.query("SELECT * FROM redis_verify()", &[]).unwrap_err();
    assert_eq!(sqlstate(&error), "57014", "{}", words(&error));
    client.batch_execute("RESET statement_timeout; SELECT * FROM redis_verify()").unwrap();
}
