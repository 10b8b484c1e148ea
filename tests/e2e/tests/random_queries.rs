//! Ten thousand random queries, each computed, filled and served, and each time compared byte for
//! byte with PostgreSQL's own `json_agg(row_to_json())`.

mod generator;
mod patterns;

use pg_cache_e2e::counters::counted;
use pg_cache_e2e::{Outcome, Scene, outcome};
use postgres::Client;

use generator::{Generator, Query, TABLES};

const QUERIES: usize = 10_000;

/// Asks in one statement for the answer computed, the answer served, and PostgreSQL's own.
fn three_answers(client: &mut Client, key: &str, query: &Query) -> [Outcome; 3] {
    let call =
        format!("redis_cached('{key}', 600, $q${}$q${})::text", query.text, query.arguments());
    let own = format!(
        "(SELECT coalesce(json_agg(row_to_json(x)), '[]')::text FROM (\n{}\n) AS x)",
        query.with_constants()
    );
    match client.query_one(&format!("SELECT {call}, {call}, {own}"), &[]) {
        Ok(row) => [0, 1, 2].map(|column| Ok(row.get(column))),
        // One of them failed, so each is asked by itself.
        Err(_) => [&call, &call, &own].map(|sql| {
            let result = client.query_one(&format!("SELECT {sql}"), &[]);
            result.map(|row| row.get(0)).map_err(|error| outcome::sqlstate(&error))
        }),
    }
}

fn run(seed: u64, queries: usize) {
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute(TABLES).unwrap();
    let mut generator = Generator::new(seed);
    let (mut failed, mut empty) = (0, 0);
    let ((), counters) = counted(&mut client, |client| {
        for number in 0..queries {
            let query = generator.query();
            // Few keys, so that entries replace each other all the time.
            let key = format!("random:{}", number % 50);
            let [computed, served, own] = three_answers(client, &key, &query);
            let told = || {
                format!(
                    "PG_CACHE_SEED={seed}, query {number}:\n{}\n{:?}",
                    query.text, query.constants
                )
            };
            assert!(computed == own, "{}\ncomputed {computed:?}\nown      {own:?}", told());
            assert!(served == own, "{}\nserved {served:?}\nown    {own:?}", told());
            failed += usize::from(own.is_err());
            empty += usize::from(own.as_deref() == Ok("[]"));
        }
    });
    println!("{queries} queries, {failed} failed alike, {empty} without rows; {counters:?}");
    let answered = (queries - failed) as i64;
    assert!(failed < queries / 10, "the generator makes mostly errors: {failed}");
    assert!(empty < queries / 2, "the generator makes mostly nothing: {empty}");
    assert!(counters.hits > answered * 9 / 10, "{counters:?}");
    assert!(counters.fills > answered * 9 / 10, "{counters:?}");
}

#[test]
fn ten_thousand_random_queries_answer_as_postgresql_does() {
    // Danger: a shape of query, a type or a value that nobody thought of.
    let given = std::env::var("PG_CACHE_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("PG_CACHE_SEED={seed}");
    std::thread::scope(|scope| {
        // A scene holds a turn and so belongs to one thread; two of them use both cores.
        for half in 0..2_u64 {
            scope.spawn(move || run(seed ^ half, QUERIES / 2));
        }
    });
}
