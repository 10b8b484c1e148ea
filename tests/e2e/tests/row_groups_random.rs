//! Random pinned queries against random writes: a hit is what the query returns now.

use fastrand::Rng;
use pg_cache_e2e::counters::counted;
use pg_cache_e2e::{Scene, direct};
use postgres::Client;

const QUERIES: usize = 60;
const WRITES: usize = 60;
/// Queries that are looked at after each write.
const LOOKS: usize = 6;

/// Three tables of the same columns, tracked in three ways; one is a partition tree.
const SCHEMA: &str = "
CREATE TABLE t0 (id serial, g int, h bigint, n numeric);
CREATE TABLE t1 (id serial, g int, h bigint, n numeric) PARTITION BY HASH (id);
CREATE TABLE t1a PARTITION OF t1 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE t1b PARTITION OF t1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE t2 (id serial, g int, h bigint, n numeric);
CREATE VIEW v0 AS SELECT * FROM t0 WHERE g = 1;
CREATE VIEW v1 AS SELECT a.* FROM t1 a LEFT JOIN t2 b ON b.h = a.h AND a.g = 2 WHERE a.h = 1;
CREATE VIEW v2 AS SELECT b.g, b.h, a.n FROM t0 a RIGHT JOIN t2 b ON a.g = b.h WHERE b.n = 2;
SELECT redis_track('t0', '{g}');
SELECT redis_track('t1', '{g,h}');
SELECT redis_track('t2', '{h,n}');
INSERT INTO t0 (g, h, n) SELECT i % 4, i % 3, i % 5 FROM generate_series(1, 12) i;
INSERT INTO t1 (g, h, n) SELECT i % 3, i % 4, i % 2 FROM generate_series(1, 12) i;
INSERT INTO t2 (g, h, n) SELECT i % 2, i % 3, i % 4 FROM generate_series(1, 12) i;
";

/// A query with `$1` in it, and what stands there.
struct Query {
    text: String,
    argument: i32,
}

fn column(rng: &mut Rng, tables: &[usize]) -> String {
    let at = tables[rng.usize(..tables.len())];
    format!("x{at}.{}", ["g", "h", "n"][rng.usize(..3)])
}

fn condition(rng: &mut Rng, tables: &[usize]) -> String {
    let (a, b) = (column(rng, tables), column(rng, tables));
    let value = rng.i32(0..4);
    let inner = rng.usize(..3);
    match rng.usize(..20) {
        0..6 => format!("{a} = {value}"),
        6..10 => format!("{a} = {b}"),
        10 => format!("{a} = $1"),
        11 => format!("{a} IN ({value}, {})", rng.i32(0..4)),
        12 => format!("{a} IS NULL"),
        13 => format!("{a} <= {b}"),
        14 => format!("({a} = {value} OR {b} = {value})"),
        15 => format!("NOT ({a} = {b})"),
        16 => format!("EXISTS (SELECT FROM t{inner} s WHERE s.g = {value} AND s.h = {a})"),
        17 => format!("NOT EXISTS (SELECT FROM t{inner} s WHERE s.g = {a} AND s.h = {value})"),
        18 => format!("{a} IN (SELECT s.h FROM t{inner} s WHERE s.n = {value} AND s.h = s.g)"),
        _ => format!("{a} >= (SELECT max(s.n) FROM t{inner} s WHERE s.g = {value} AND s.h = $1)"),
    }
}

fn conditions(rng: &mut Rng, tables: &[usize], least: usize) -> String {
    let all: Vec<_> = (0..least + rng.usize(..3)).map(|_| condition(rng, tables)).collect();
    if all.is_empty() { "true".to_owned() } else { all.join(" AND ") }
}

fn join(rng: &mut Rng, tables: &[usize]) -> String {
    let [table] = tables else {
        let (left, right) = tables.split_at(rng.usize(1..tables.len()));
        let kind = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"][rng.usize(..4)];
        let on = match kind {
            // Only conditions that can be hashed or merged are allowed there.
            "FULL JOIN" => format!("{} = {}", column(rng, left), column(rng, right)),
            _ => conditions(rng, tables, 1),
        };
        let (left, right) = (join(rng, left), join(rng, right));
        return format!("({left} {kind} {right} ON {on})");
    };
    let (inner, by) = (rng.usize(..3), ["g", "h", "n"][rng.usize(..3)]);
    let value = rng.i32(0..4);
    match rng.usize(..10) {
        0 => format!("(SELECT * FROM t{inner} WHERE {by} = {value}) x{table}"),
        1 => format!("v{inner} x{table}"),
        2 => format!(
            "(SELECT g, max(h) AS h, sum(n) AS n FROM t{inner} WHERE {by} = {value} GROUP BY g)
               x{table}"
        ),
        3 => format!(
            "(SELECT g, h, n FROM t{inner} WHERE {by} = {value}
               UNION ALL SELECT h, g, n FROM t0 WHERE g = {value}) x{table}"
        ),
        4 => format!("(t{inner} JOIN t2 AS j USING (h, n)) AS x{table} (h, n, i, g)"),
        _ => format!("t{inner} x{table}"),
    }
}

fn query(rng: &mut Rng) -> Query {
    let tables: Vec<usize> = (0..1 + rng.usize(..3)).collect();
    let from = join(rng, &tables);
    let least = rng.usize(..2);
    let filter = conditions(rng, &tables, least);
    let (a, b) = (column(rng, &tables), column(rng, &tables));
    let select = match rng.usize(..3) {
        0 => format!("SELECT count(*) AS c, sum({a}) AS s FROM {from} WHERE {filter}"),
        1 => format!(
            "SELECT {a} AS a, count({b}) AS c FROM {from} WHERE {filter} GROUP BY 1 ORDER BY 1"
        ),
        _ => {
            let ids: Vec<_> = tables.iter().map(|table| format!("x{table}.g")).collect();
            let (ids, last) = (ids.join(", "), ids.len() + 2);
            let order: Vec<_> = (1..=last).map(|place| place.to_string()).collect();
            let names: Vec<_> = (0..tables.len()).map(|place| format!("i{place}")).collect();
            format!(
                "SELECT * FROM (SELECT {ids}, {a}, {b} FROM {from} WHERE {filter})
                   AS s({}, a, b) ORDER BY {}",
                names.join(", "),
                order.join(", ")
            )
        }
    };
    Query { text: select, argument: rng.i32(0..4) }
}

fn write(rng: &mut Rng) -> String {
    let table = ["t0", "t1", "t2", "t1a", "t1b"][rng.usize(..5)];
    let column = ["g", "h", "n"][rng.usize(..3)];
    let (value, other) = (rng.i32(0..4), rng.i32(0..4));
    let one = match rng.usize(..10) {
        0..3 if !table.starts_with("t1") || table == "t1" => {
            format!("INSERT INTO {table} (g, h, n) VALUES ({value}, {other}, {}.0)", rng.i32(0..4))
        }
        0..6 => format!(
            "UPDATE {table} SET {column} = {value} WHERE id =
               (SELECT id FROM {table} ORDER BY random() LIMIT 1)"
        ),
        6 => format!("UPDATE {table} SET {column} = NULL WHERE g = {value} AND h = {other}"),
        7 => format!("UPDATE {table} SET n = n + 0.5 WHERE h = {value}"),
        8 => format!("DELETE FROM {table} WHERE g = {value} AND n = {other}"),
        _ => format!(
            "DELETE FROM {table} WHERE id = (SELECT id FROM {table} ORDER BY random() LIMIT 1)"
        ),
    };
    match rng.usize(..20) {
        0 => format!("BEGIN; {one}; ROLLBACK"),
        1 => format!(
            "BEGIN; SAVEPOINT a; {one}; ROLLBACK TO a; UPDATE t0 SET n = 1 WHERE g = 1; COMMIT"
        ),
        2 => format!("BEGIN; SAVEPOINT a; {one}; RELEASE a; COMMIT"),
        3 => "TRUNCATE t2".to_owned(),
        _ => one,
    }
}

/// Compares, and says whether it was a hit.
fn look(reader: &mut Client, place: usize, query: &Query, seed: u64) -> bool {
    let Query { text, argument } = query;
    let literal = direct(reader, &text.replace("$1", &argument.to_string()));
    let arguments = if text.contains("$1") { format!(", {argument}") } else { String::new() };
    let sql = format!("SELECT redis_cached('r:{place}', 600, $1{arguments})::text");
    let (found, counters) = counted(reader, |reader| {
        reader.query_one(&sql, &[text]).map(|row| row.get::<_, String>(0)).unwrap()
    });
    assert_eq!(Ok(found), literal, "seed {seed}, hit {}: {text}", counters.hits);
    counters.hits == 1
}

#[test]
fn a_hit_is_what_the_query_returns_now() {
    // Danger: some join, condition or type pins a group that a row outside of it shows through.
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let scene = Scene::new();
    let (mut reader, mut writer) = (scene.connect(), scene.connect());
    writer.batch_execute(SCHEMA).unwrap();
    reader.batch_execute("SELECT * FROM redis_repair()").unwrap();
    let mut queries = Vec::new();
    while queries.len() < QUERIES {
        let query = query(&mut rng);
        // What PostgreSQL cannot join is no question of ours.
        if direct(&mut reader, &query.text.replace("$1", "1")).is_ok() {
            queries.push(query);
        }
    }
    let (mut looks, mut hits, begun) = (0, 0, std::time::Instant::now());
    for _ in 0..WRITES {
        let write = write(&mut rng);
        writer.batch_execute(&write).unwrap_or_else(|error| panic!("{write}: {error:?}"));
        for _ in 0..LOOKS {
            let place = rng.usize(..QUERIES);
            hits += usize::from(look(&mut reader, place, &queries[place], seed));
            looks += 1;
        }
    }
    println!("{hits} hits of {looks} in {:?}", begun.elapsed());
    assert!(hits * 10 > looks, "seed {seed}: {hits} hits of {looks}: nothing is pinned");
}
