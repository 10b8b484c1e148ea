//! Every built-in type through `redis_cached_rows`: what survives `row_to_json` and
//! `json_to_recordset` in PostgreSQL itself comes back equal, and what does not fails alike.

use pg_cache_e2e::Scene;
use pg_cache_e2e::counters::counted;
use pg_cache_e2e::outcome::sqlstate;
use postgres::Client;

/// Texts that are tried as input of every type; those that a type takes are its samples.
pub const LITERALS: &[&str] = &[
    "1",
    "0",
    "-1",
    "32767",
    "-32768",
    "2147483647",
    "9223372036854775807",
    "1.5",
    "-0.0",
    "1e-300",
    "3.4e38",
    "NaN",
    "Infinity",
    "-Infinity",
    "0.1",
    "123456789012345678901234567890.123456789",
    "1.10",
    "t",
    "f",
    "a",
    "",
    " ",
    "  padded  ",
    "é€😀",
    "line\nbreak\ttab",
    "quote\"and'back\\slash",
    "null",
    "NULL",
    "\\xdeadbeef",
    "\\x",
    "101",
    "2024-02-29",
    "0044-03-15 BC",
    "infinity",
    "-infinity",
    "23:59:59.999999",
    "24:00:00",
    "12:34:56+05:30",
    "2024-02-29 12:34:56.789012+00",
    "294276-12-31 23:59:59",
    "1 year 2 mons -3 days 04:05:06.7",
    "-1 day",
    "192.168.0.1",
    "10.0.0.0/8",
    "2001:db8::1/64",
    "08:00:2b:01:02:03",
    "08:00:2b:01:02:03:04:05",
    "(1,2)",
    "[(0,0),(1,1)]",
    "(1,1),(0,0)",
    "((0,0),(1,1),(2,0))",
    "{1,-1,0}",
    "<(0,0),1.5>",
    "{}",
    "{1,2,3}",
    "{NULL,1}",
    "{{1,2},{3,4}}",
    "[0:1]={1,2}",
    "{a,\"b c\",\"\"}",
    "[1,5)",
    "empty",
    "(,)",
    "[2024-01-01,2024-02-01)",
    "[2024-01-01 00:00,2024-02-01 00:00)",
    "{[1,2),[5,9)}",
    "{[2024-01-01,2024-02-01)}",
    "{[2024-01-01 00:00,2024-02-01 00:00)}",
    "fat & (rat | cat)",
    "'fat':2A 'rat':3",
    "<a b=\"1\">é</a>",
    "{\"a\": 1.10, \"b\": [null, true]}",
    "[1, 2]",
    "\"s\"",
    "$.a[*] ? (@ > 1)",
    "$12.34",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "0/16B3748",
    "10:20:10,14,15",
    "(0,1)",
    "pg_class",
    "int4",
    "now",
    "postgres=r/postgres",
    "english",
    "simple",
    "pg_catalog",
    "sum(integer)",
    "+(integer,integer)",
    "UTF8",
    "00000000000000000000",
];

/// The texts of a value before and after, or the SQLSTATE.
fn text(client: &mut Client, sql: &str) -> Result<Option<String>, String> {
    match client.query_one(sql, &[]) {
        Ok(row) => Ok(row.get(0)),
        Err(error) => Err(sqlstate(&error)),
    }
}

fn quoted(text: &str) -> String {
    if text.contains('\\') {
        format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

/// All types that a column can have: base, range, multirange, enum, domain and composite ones of
/// the catalogue, and their arrays; not the pseudo-types.
pub fn all_types(client: &mut Client) -> Vec<String> {
    let sql = "SELECT format_type(t.oid, NULL) FROM pg_type t
               WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typisdefined
                 AND t.typtype IN ('b', 'r', 'm', 'e', 'd')
                 AND NOT EXISTS (SELECT FROM pg_type e WHERE e.oid = t.typelem AND e.typtype = 'c')
               ORDER BY t.oid";
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Compares one value of one type. Returns whether PostgreSQL itself brings it back equal.
fn compare(client: &mut Client, name: &str, literal: &str) -> Option<bool> {
    let value = format!("{}::{name}", quoted(literal));
    let before = text(client, &format!("SELECT ({value})::text")).ok()?;
    let own = text(
        client,
        &format!(
            "SELECT v::text FROM json_to_recordset((SELECT json_agg(row_to_json(q)) FROM
             (SELECT {value} AS v) q)) AS t(v {name})"
        ),
    );
    let sql = format!(
        "SELECT v::text FROM redis_cached_rows($key$t:{name}$key$, 60,
         $query$SELECT {value} AS v$query$) AS t(v {name})"
    );
    for call in ["miss", "hit"] {
        let got = text(client, &sql);
        assert_eq!(got, own, "{name} of {literal:?}, {call}");
    }
    Some(own == Ok(before))
}

#[test]
fn every_built_in_type_comes_back_as_postgresql_itself_brings_it_back() {
    // Danger: a type whose JSON is another type's, or loses what the text of it has.
    let scene = Scene::new();
    let mut client = scene.connect();
    // Comparisons with the session's own text output need one that does not depend on the clock.
    let literals: Vec<&str> = LITERALS.iter().copied().filter(|text| *text != "now").collect();
    let (mut survive, mut differ, mut none) = (Vec::new(), Vec::new(), Vec::new());
    let types = all_types(&mut client);
    let ((), counters) = counted(&mut client, |c| {
        for name in &types {
            let results: Vec<bool> =
                literals.iter().filter_map(|literal| compare(c, name, literal)).collect();
            match results.as_slice() {
                [] => none.push(name.clone()),
                all if all.iter().all(|same| *same) => survive.push(name.clone()),
                _ => differ.push(name.clone()),
            }
        }
    });
    println!("come back equal: {survive:?}\nfor some value do not: {differ:?}\nno value: {none:?}");
    assert!(survive.len() > 80, "{} types survive", survive.len());
    assert!(counters.hits > 500, "{counters:?}");
    for name in &none {
        let base = name.trim_end_matches("[]");
        let refused = text(&mut client, &format!("SELECT '1'::{base}"));
        let arrays = name.ends_with("[]") || matches!(name.as_str(), "oidvector" | "int2vector");
        assert!(arrays || refused == Err("0A000".into()), "no sample for {name}: {refused:?}");
    }
}

#[test]
fn types_of_the_users_own_come_back() {
    // Danger: enums, domains, composites, ranges and arrays of them, nested.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('sad', 'o''k', 'glad \"x\"');
             CREATE DOMAIN positive AS numeric(10, 2) CHECK (VALUE > 0);
             CREATE TYPE pair AS (a int, b text);
             CREATE TYPE nest AS (p pair, list pair[], m mood);
             CREATE TYPE span AS RANGE (SUBTYPE = float8);
             CREATE DOMAIN pairs AS pair[]",
        )
        .unwrap();
    for (name, value) in [
        ("mood", "'glad \"x\"'::mood"),
        ("mood[]", "ARRAY['sad', NULL, 'o''k']::mood[]"),
        ("positive", "1.10::positive"),
        ("pair", "ROW(1, 'x,\"y\"')::pair"),
        ("pair", "ROW(NULL, NULL)::pair"),
        ("pair", "NULL::pair"),
        ("pair[]", "ARRAY[ROW(1, 'a'), NULL, ROW(NULL, '')]::pair[]"),
        ("nest", "ROW(ROW(1, 'a'), ARRAY[ROW(2, 'b')::pair], 'sad')::nest"),
        ("span", "span(0.1, 0.3)"),
        ("span[]", "ARRAY[span(0.1, NULL), 'empty']"),
        ("pairs", "ARRAY[ROW(1, 'a')::pair]::pairs"),
        ("int[]", "'[2:4]={1,2,3}'::int[]"),
        ("int[]", "'{{1,2},{3,4}}'::int[]"),
    ] {
        let own = text(
            &mut client,
            &format!(
                "SELECT v::text FROM json_to_recordset((SELECT json_agg(row_to_json(q)) FROM
                 (SELECT {value} AS v) q)) AS t(v {name})"
            ),
        );
        let sql = format!(
            "SELECT v::text FROM redis_cached_rows('own', 60,
             $query$SELECT {value} AS v$query$) AS t(v {name})"
        );
        for _ in 0..2 {
            assert_eq!(text(&mut client, &sql), own, "{name}: {value}");
        }
    }
}

#[test]
fn columns_are_found_by_name_and_may_be_fewer_than_the_query_returns() {
    // Danger: columns matched by position put a salary where a name should be.
    let scene = Scene::new();
    let mut client = scene.connect();
    let query = "SELECT 1 AS a, 'x' AS b, NULL::int AS c, 2.50 AS \"D e\", 'é' AS \"ü\"";
    let sql = |list: &str, columns: &str| {
        format!(
            "SELECT ({columns})::text FROM redis_cached_rows('k', 60, '{}') AS t({list})",
            query.replace('\'', "''")
        )
    };
    for _ in 0..2 {
        for (list, columns, expected) in [
            ("a int, b text, c int, \"D e\" numeric, \"ü\" text", "t.*", "(1,x,,2.50,é)"),
            ("b text, a int", "t.*", "(x,1)"),
            ("\"ü\" text", "\"ü\"", "é"),
            ("a text", "a", "1"),
            ("a numeric(5, 2)", "a", "1.00"),
        ] {
            let got = text(&mut client, &sql(list, columns));
            assert_eq!(got, Ok(Some(expected.to_owned())), "{list}");
        }
        assert_eq!(text(&mut client, &sql("z int", "z")), Err("42703".into()));
        assert_eq!(text(&mut client, &sql("b int", "b")), Err("22P02".into()));
    }
}

#[test]
fn rows_come_in_the_querys_order_and_number() {
    // Danger: a row lost or doubled at a boundary of memory.
    let scene = Scene::new();
    let mut client = scene.connect();
    for count in [0, 1, 2, 1000, 20_000] {
        let sql = format!(
            "SELECT count(*), coalesce(bool_and(ok), true) FROM (
               SELECT n = {count} - row_number() OVER () + 1 AND t = repeat('x', n % 50) AS ok
               FROM redis_cached_rows('rows', 60,
                 'SELECT g AS n, repeat(''x'', g % 50) AS t 
                  FROM generate_series(1, {count}) g ORDER BY g DESC')
                 AS r(n int, t text)) x"
        );
        for _ in 0..2 {
            let row = client.query_one(&sql, &[]).unwrap();
            assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1)), (count, true));
        }
    }
}
