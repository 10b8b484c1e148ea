//! Read-through: a miss computes and fills, a hit answers from Redis, and what stands under the key
//! is plain JSON that any program can read.

use std::sync::Mutex;
use std::time::Duration;

use pg_cache_e2e::counters::{commands, counted, forget_commands, keys, value};
use pg_cache_e2e::outcome::{explained, sqlstate, status};
use pg_cache_e2e::{Scene, cached, direct, same_as_direct};
use pg_cache_testbed::eventually;
use pg_cache_testbed::fake::{FakeRedis, Reply};
use postgres::Client;

const CITIES: &str = "
    CREATE TABLE city (id int PRIMARY KEY, name text, people bigint, area numeric(10, 2));
    INSERT INTO city VALUES (1, 'Łódź', 672185, 293.25), (2, E'Quote\"Town\\n', NULL, 0.10),
                            (3, '', 9007199254740993, NULL)";
const ALL: &str = "SELECT * FROM city ORDER BY id";

fn pttl(scene: &Scene, key: &str) -> i64 {
    redis::cmd("PTTL").arg(key).query(&mut scene.redis.client()).unwrap()
}

fn one(client: &mut Client, sql: &str) -> String {
    client.query_one(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
}

#[test]
fn second_call_is_answered_by_redis() {
    // Danger: a cache that computes every time, or counts hits that are none.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute(CITIES).unwrap();
    let expected = direct(&mut client, ALL);
    let (first, cold) = counted(&mut client, |c| cached(c, "city:all", ALL));
    // Nothing tracks the table at this stage, so only a computed answer can show this change.
    client.batch_execute("UPDATE city SET name = 'changed'").unwrap();
    let (second, warm) = counted(&mut client, |c| cached(c, "city:all", ALL));
    assert_eq!(first, expected);
    assert_eq!(second, expected, "the second call computed");
    assert_eq!((cold.hits, cold.misses, cold.fills, cold.reason("cold")), (0, 1, 1, 1), "{cold:?}");
    assert_eq!((warm.hits, warm.misses, warm.fills), (1, 0, 0), "{warm:?}");
    assert_eq!(cold.bytes_filled, expected.unwrap().len() as i64);
    assert_eq!(warm.bytes_read, cold.bytes_filled);
}

#[test]
fn another_backend_is_answered_by_the_same_entry() {
    // Danger: an entry that only the backend which filled it can use.
    let scene = Scene::new();
    let mut filler = scene.connect();
    filler.batch_execute(CITIES).unwrap();
    let filled = cached(&mut filler, "city:all", ALL);
    filler.batch_execute("DELETE FROM city").unwrap();
    let mut reader = scene.connect();
    let (read, counters) = counted(&mut reader, |c| cached(c, "city:all", ALL));
    assert_eq!(read, filled);
    assert_eq!((counters.hits, counters.misses), (1, 0), "{counters:?}");
}

#[test]
fn a_hit_is_one_round_trip() {
    // Danger: a hit that asks Redis twice costs more than many a query. What it asks comes in one
    // piece: the entry, its part of the tag table, and the server's proof when that is due.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute(CITIES).unwrap();
    cached(&mut client, "city:all", ALL).unwrap();
    cached(&mut client, "city:all", ALL).unwrap();
    forget_commands(&scene);
    for _ in 0..10 {
        cached(&mut client, "city:all", ALL).unwrap();
    }
    let calls = commands(&scene.redis);
    let expected = [("hmget".to_owned(), 10), ("mget".to_owned(), 10)];
    assert_eq!(calls, expected.into(), "one look for each hit");
    // The first answer is held back until the second command is there: who waits for it before he
    // sends that one waits in vain.
    let held = Mutex::new(Vec::new());
    let fake = FakeRedis::before(&scene.redis, move |request, mut reply| {
        let mut held = held.lock().unwrap();
        match request.is("MGET") {
            true => held.append(&mut reply),
            false => reply.splice(..0, held.drain(..)).for_each(drop),
        }
        Reply::Bytes(reply)
    });
    client.batch_execute(&format!("SET pg_cache.url = '{}'", fake.url())).unwrap();
    let ((), counters) = counted(&mut client, |c| {
        for _ in 0..10 {
            cached(c, "city:all", ALL).unwrap();
        }
    });
    assert_eq!((counters.hits, counters.misses), (10, 0), "{counters:?}");
}

#[test]
fn value_under_the_key_is_the_result_byte_for_byte() {
    // Danger: programs that GET the key receive something else than SQL readers do.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute(CITIES).unwrap();
    let answer = same_as_direct(&mut client, "city:all", ALL).unwrap();
    assert_eq!(value(&scene.redis, "city:all").unwrap(), answer.as_bytes());
    assert_eq!(scene.redis.cli(&["TYPE", "city:all"]), "string");
}

#[test]
fn no_rows_is_an_empty_array() {
    // Danger: json_agg over nothing is NULL, and a NULL is no JSON array for a client to walk.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute(CITIES).unwrap();
    let query = "SELECT * FROM city WHERE id < 0";
    for _ in 0..2 {
        assert_eq!(cached(&mut client, "none", query).as_deref(), Ok("[]"));
    }
    assert_eq!(value(&scene.redis, "none").unwrap(), b"[]");
}

#[test]
fn same_key_with_another_query_is_a_miss_that_replaces() {
    // Danger: two call sites that chose one key read each other's results.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute(CITIES).unwrap();
    let other = "SELECT count(*) FROM city";
    same_as_direct(&mut client, "shared", ALL).unwrap();
    let (answer, counters) = counted(&mut client, |c| cached(c, "shared", other));
    assert_eq!(answer, direct(&mut client, other));
    assert_eq!((counters.reason("fingerprint"), counters.fills), (1, 1), "{counters:?}");
    assert_eq!(value(&scene.redis, "shared").unwrap(), answer.unwrap().as_bytes());
    assert_eq!(status(&mut client, "shared", other), "hit");
    assert_eq!(status(&mut client, "shared", ALL), "fingerprint");
}

#[test]
fn argument_values_and_types_tell_entries_apart() {
    // Danger: customer 2 is shown what was computed for customer 1 under a key without its number.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute(CITIES).unwrap();
    let call = |client: &mut Client, arguments: &str| -> String {
        one(client, &format!("SELECT redis_cached('arg', 60, 'SELECT $1 AS v', {arguments})::text"))
    };
    for _ in 0..2 {
        assert_eq!(call(&mut client, "1"), r#"[{"v":1}]"#);
        assert_eq!(call(&mut client, "2"), r#"[{"v":2}]"#);
        assert_eq!(call(&mut client, "2::numeric(5,2)"), r#"[{"v":2.00}]"#);
        assert_eq!(call(&mut client, "2.0::numeric"), r#"[{"v":2.0}]"#);
        assert_eq!(call(&mut client, "'2'::text"), r#"[{"v":"2"}]"#);
        assert_eq!(call(&mut client, "date '2024-02-29'"), r#"[{"v":"2024-02-29"}]"#);
        assert_eq!(call(&mut client, "NULL::int"), r#"[{"v":null}]"#);
        assert_eq!(call(&mut client, "ARRAY[1, 2]"), r#"[{"v":[1,2]}]"#);
        assert_eq!(call(&mut client, "ARRAY['1', NULL, '']"), r#"[{"v":["1",null,""]}]"#);
        assert_eq!(call(&mut client, "true"), r#"[{"v":true}]"#);
    }
}

#[test]
fn null_argument_and_empty_string_and_absent_are_three_things() {
    // Danger: a fingerprint that joins pieces without lengths takes ('a', 'b') for ('ab', '').
    let scene = Scene::new();
    let mut client = scene.connect();
    let query = "SELECT $1::text AS a, $2::text AS b";
    let cases =
        ["'a','b'", "'ab',''", "'','ab'", "NULL,'ab'", "'ab',NULL", "'NULL','ab'", "'a,','b'"];
    for round in 0..2 {
        for case in cases {
            let expected = one(
                &mut client,
                &format!(
                    "SELECT json_agg(row_to_json(x))::text FROM (SELECT a, b FROM
                          (VALUES ({case})) AS v(a, b)) x"
                ),
            );
            for form in [case.to_owned(), format!("VARIADIC ARRAY[{case}]::text[]")] {
                let sql = format!("SELECT redis_cached('pair', 60, '{query}', {form})::text");
                assert_eq!(one(&mut client, &sql), expected, "{form}, round {round}");
            }
        }
    }
}

#[test]
fn untyped_parameters_as_a_driver_sends_them_take_the_types_of_the_query() {
    // Danger: node-postgres and this crate send parameters without types; "could not determine data
    // type" would make the function useless to them.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute(CITIES).unwrap();
    let query = "SELECT id, name FROM city WHERE id = $1 OR people > $2 ORDER BY id";
    let sql = "SELECT redis_cached($1, 60, $2, $3, $4)::text";
    let expected = direct(
        &mut client,
        "SELECT id, name FROM city WHERE id = 1 OR people > 700000 ORDER BY id",
    );
    for _ in 0..2 {
        let row = client.query_one(sql, &[&"drv", &query, &"1", &"700000"]).unwrap();
        assert_eq!(Ok(row.get(0)), expected);
    }
    // The literal form of the same call.
    let literal = format!("SELECT redis_cached('drv', 60, '{query}', '1', '700000')::text");
    let (answer, counters) = counted(&mut client, |c| one(c, &literal));
    assert_eq!(Ok(answer), expected);
    assert_eq!(counters.hits, 1, "a literal and a parameter are the same argument: {counters:?}");
    let error = client.query_one(sql, &[&"drv", &query, &"x", &"1"]).unwrap_err();
    assert_eq!(sqlstate(&error), "22P02", "{error:?}");
}

#[test]
fn parameters_with_a_cast_keep_their_type() {
    // Danger: a typed parameter that is turned into text and back loses precision or meaning.
    let scene = Scene::new();
    let mut client = scene.connect();
    let sql = "SELECT redis_cached('typed', 60, 'SELECT $1 AS a, $2 AS b, $3 AS c',
               $1::bigint, $2::float8, $3::timestamptz)::text";
    let time = "2024-02-29 12:34:56.789012+00";
    let time_sql = sql.replace("$3::timestamptz", "$3::text::timestamptz");
    for _ in 0..2 {
        let row = client.query_one(&time_sql, &[&i64::MAX, &0.1_f64, &time]).unwrap();
        let text: String = row.get(0);
        assert_eq!(
            text,
            r#"[{"a":9223372036854775807,"b":0.1,"c":"2024-02-29T12:34:56.789012+00:00"}]"#
        );
    }
}

#[test]
fn value_and_sidecar_end_together_at_the_ttl() {
    // Danger: an entry without an end is an entry that is wrong for ever.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute(CITIES).unwrap();
    for ttl in ["300", "300::bigint", "300::smallint", "'5 minutes'", "interval '5 minutes'"] {
        let key = format!("ttl:{ttl}");
        client
            .query_one(&format!("SELECT redis_cached($1, {ttl}, $2)::text"), &[&key, &ALL])
            .unwrap_or_else(|e| panic!("{ttl}: {e:?}"));
        let left = pttl(&scene, &key);
        assert!((290_000..=300_000).contains(&left), "{ttl}: {left} ms left");
        let sidecar = keys(&scene.redis, &format!("pgc:e:*{}", key.replace(['\'', '*'], "?")));
        assert_eq!(sidecar.len(), 1, "{sidecar:?}");
        let beside = pttl(&scene, &sidecar[0]);
        assert!((beside - left).abs() < 2_000, "value {left} ms, sidecar {beside} ms");
    }
}

#[test]
fn after_its_ttl_an_entry_is_computed_anew() {
    // Danger: without tracking the TTL is all that stands between a reader and an old answer.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute(CITIES).unwrap();
    let sql = format!("SELECT redis_cached('short', interval '150 milliseconds', '{ALL}')::text");
    let old = one(&mut client, &sql);
    client.batch_execute("UPDATE city SET people = 5").unwrap();
    let new = direct(&mut client, ALL).unwrap();
    eventually(Duration::from_secs(5), "the entry ends", || value(&scene.redis, "short").is_none());
    let (answer, counters) = counted(&mut client, |c| one(c, &sql));
    assert_ne!(answer, old);
    assert_eq!(answer, new);
    assert_eq!(counters.reason("cold"), 1, "{counters:?}");
}

#[test]
fn the_rows_function_reads_the_same_entry() {
    // Danger: two copies of one result, of different age.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute(CITIES).unwrap();
    cached(&mut client, "city:all", ALL).unwrap();
    client.batch_execute("DELETE FROM city WHERE id = 3").unwrap();
    let (rows, counters) = counted(&mut client, |c| {
        c.query(
            "SELECT id, name, people, area::text FROM redis_cached_rows('city:all', 60, $1)
             AS t(id int, name text, people bigint, area numeric)",
            &[&ALL],
        )
        .unwrap()
    });
    assert_eq!((counters.hits, counters.misses), (1, 0), "{counters:?}");
    let names: Vec<String> = rows.iter().map(|row| row.get(1)).collect();
    assert_eq!(names, ["Łódź", "Quote\"Town\n", ""]);
    assert_eq!(rows[2].get::<_, Option<i64>>(2), Some(9_007_199_254_740_993));
    assert_eq!(rows[0].get::<_, Option<String>>(3).as_deref(), Some("293.25"));
}

#[test]
fn switched_off_it_computes_and_leaves_redis_alone() {
    // Danger: an operator who switches the cache off to find a fault still meets it.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute(CITIES).unwrap();
    cached(&mut client, "city:all", ALL).unwrap();
    client.batch_execute("UPDATE city SET people = 5; SET pg_cache.enabled = off").unwrap();
    forget_commands(&scene);
    let (answer, counters) = counted(&mut client, |c| cached(c, "city:all", ALL));
    assert_eq!(answer, direct(&mut client, ALL));
    assert_eq!(counters.reason("disabled"), 1, "{counters:?}");
    assert_eq!((counters.hits, counters.fills), (0, 0), "{counters:?}");
    assert!(commands(&scene.redis).is_empty());
}

#[test]
fn explain_tells_the_entry_and_does_not_make_one() {
    // Danger: looking at the cache changes it, or its report is of another entry.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute(CITIES).unwrap();
    assert_eq!(status(&mut client, "city:all", ALL), "cold");
    assert_eq!(explained(&mut client, "city:all", ALL, "entry"), None);
    assert_eq!(value(&scene.redis, "city:all"), None);
    let answer = cached(&mut client, "city:all", ALL).unwrap();
    assert_eq!(status(&mut client, "city:all", ALL), "hit");
    let mut entry = |field: &str| -> i64 {
        let sql = format!("SELECT (redis_explain('city:all', $1)->'entry'->>'{field}')::bigint");
        client.query_one(&sql, &[&ALL]).unwrap().get(0)
    };
    assert_eq!(entry("bytes"), answer.len() as i64);
    assert!((1..=60_000).contains(&entry("ttl_ms")));
    assert!((0..60_000).contains(&entry("age_ms")));
    assert_eq!(explained(&mut client, "city:all", ALL, "redis_key").as_deref(), Some("city:all"));
    assert_eq!(explained(&mut client, "city:all", ALL, "cacheable").as_deref(), Some("true"));
    assert_eq!(explained(&mut client, "city:all", ALL, "exact").as_deref(), Some("ttl"));
}

#[test]
fn temporary_tables_and_system_catalogs_are_computed_and_never_stored() {
    // Danger: a session's private rows for everyone, or a catalogue that changes unnoticed.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute("CREATE TEMP TABLE mine AS SELECT 1 AS v; CREATE TABLE plain (v int)")
        .unwrap();
    let cases = [
        ("SELECT * FROM mine", "temp_table"),
        ("SELECT count(*) FROM pg_class", "system_catalog"),
        ("SELECT (SELECT count(*) FROM pg_proc), v FROM plain", "system_catalog"),
    ];
    for (query, reason) in cases {
        for _ in 0..2 {
            let expected = direct(&mut client, query);
            let (answer, counters) = counted(&mut client, |c| cached(c, "private", query));
            assert_eq!(answer, expected);
            assert_eq!(counters.reason(reason), 1, "{query}: {counters:?}");
            assert_eq!((counters.hits, counters.fills), (0, 0), "{query}: {counters:?}");
        }
        assert_eq!(value(&scene.redis, "private"), None, "{query}");
        assert_eq!(status(&mut client, "private", query), reason, "{query}");
        assert_eq!(explained(&mut client, "private", query, "cacheable").as_deref(), Some("false"));
    }
}

#[test]
fn a_view_over_the_cache_reads_through_it() {
    // Danger: an ORM that reads the view gets other columns, types or rows than the query's own.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute(CITIES).unwrap();
    client.execute("SELECT redis_cached_view('city_cached', 60, $1)", &[&ALL]).unwrap();
    let same = "SELECT string_agg(t::text, '|' ORDER BY id) FROM";
    let expected = one(&mut client, &format!("{same} city t"));
    assert_eq!(one(&mut client, &format!("{same} city_cached t")), expected);
    client.batch_execute("DELETE FROM city").unwrap();
    assert_eq!(one(&mut client, &format!("{same} city_cached t")), expected, "not from the cache");
    let columns = "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', '
                   ORDER BY attnum) FROM pg_attribute WHERE attnum > 0 AND attrelid =";
    assert_eq!(
        one(&mut client, &format!("{columns} 'city_cached'::regclass")),
        one(&mut client, &format!("{columns} 'city'::regclass"))
    );
}

#[test]
fn arguments_that_print_alike_are_told_apart() {
    // Danger: a fingerprint of an argument's text, where settings make two values print the same.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("SET extra_float_digits = -10; SET TimeZone = 'Europe/Berlin'").unwrap();
    for (query, values) in [
        ("SELECT $1 > 0.1::float8 AS v", ["0.1::float8", "0.10000000000001::float8"]),
        ("SELECT $1 > 0.1::float4 AS v", ["0.1::float4", "0.1000001::float4"]),
        (
            "SELECT $1[1] > 0.1::float8 AS v",
            ["ARRAY[0.1::float8]", "ARRAY[0.10000000000001::float8]"],
        ),
        ("SELECT $1 <@ point(0.1, 0)::box AS v", ["point(0.1, 0)", "point(0.10000000000001, 0)"]),
        (
            "SELECT extract(epoch FROM $1) AS v",
            ["timestamptz '2024-10-27 02:30+02'", "timestamptz '2024-10-27 02:30+01'"],
        ),
        ("SELECT scale($1) AS v", ["1.0", "1.00"]),
        ("SELECT $1::text AS v", ["'-0'::float8", "0::float8"]),
        ("SELECT array_lower($1, 1) AS v", ["'[0:1]={1,2}'::int[]", "'{1,2}'::int[]"]),
        (
            "SELECT $1 = justify_hours($1) AND extract(hour FROM $1) = 24 AS v",
            ["interval '24 hours'", "interval '1 day'"],
        ),
        ("SELECT pg_typeof($1)::text AS v", ["1::int", "1::bigint"]),
        ("SELECT $1::text IS NULL AS v", ["NULL::text", "'NULL'::text"]),
    ] {
        for _ in 0..2 {
            for value in values {
                let literal = query.replace("$1", &format!("({value})"));
                let expected = direct(&mut client, &literal);
                let sql = format!("SELECT redis_cached('alike', 60, $q${query}$q$, {value})::text");
                assert_eq!(Ok(one(&mut client, &sql)), expected, "{query} of {value}");
            }
        }
    }
}

#[test]
fn a_column_may_have_any_name() {
    // Danger: an alias of ours in the way of a column of theirs.
    let scene = Scene::new();
    let mut client = scene.connect();
    for name in [
        "x",
        "t",
        "q",
        "r",
        "s",
        "row",
        "j",
        "json",
        "query",
        "result",
        "value",
        "of_all2",
        "cached",
        "_",
        "tableoid2",
    ] {
        let query = format!("SELECT 1 AS {name}, 2 AS other");
        for _ in 0..2 {
            same_as_direct(&mut client, name, &query).unwrap();
        }
    }
}
