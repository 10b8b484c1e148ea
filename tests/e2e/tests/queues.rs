//! Jobs: put on a queue with the commit.

use pg_cache_e2e::events::entries;
use pg_cache_e2e::jobs::sent;
use pg_cache_e2e::{Scene, outcome};
use pg_cache_testbed::Redis;
use postgres::Client;

fn text(client: &mut Client, sql: &str) -> String {
    client.query_one(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// The payloads of a queue's stream.
fn payloads(redis: &Redis, queue: &str) -> Vec<String> {
    entries(redis, queue).into_iter().map(|fields| fields[1].1.clone()).collect()
}

#[test]
fn a_job_leaves_with_its_commit_and_only_then() {
    // Danger: a mail about an order that was never placed, or none about one that was.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "BEGIN; SELECT redis_enqueue('q', '\"undone\"'); ROLLBACK;
             BEGIN;
             SELECT redis_enqueue('q', '1');
             SAVEPOINT a; SELECT redis_enqueue('q', '\"undone\"'); ROLLBACK TO a;
             SAVEPOINT b; SELECT redis_enqueue('q', '2', id => 'b'); RELEASE b;
             DO $$ BEGIN
                 PERFORM redis_enqueue('q', '\"undone\"', id => 'c'); RAISE 'no';
             EXCEPTION WHEN OTHERS THEN NULL; END $$;",
        )
        .unwrap();
    let id = text(&mut client, "SELECT redis_enqueue('q', '{\"a\": [3]}')");
    assert!(id.len() == 32 && id.bytes().all(|c| c.is_ascii_hexdigit()), "{id}");
    assert_eq!(payloads(&scene.redis, "q"), [""; 0], "nothing before the commit");
    client.batch_execute("COMMIT").unwrap();
    sent(&mut client);
    assert_eq!(payloads(&scene.redis, "q"), ["1", "2", "{\"a\": [3]}"]);
    let last = entries(&scene.redis, "q").pop().unwrap();
    assert_eq!(last[0], ("id".to_owned(), id), "the id that was returned before the commit");
}

#[test]
fn what_is_no_job_is_refused() {
    // Danger: a slip in a migration is found when the first job does not come.
    let scene = Scene::new();
    let mut client = scene.connect();
    let long = "x".repeat(300);
    for (call, state) in [
        ("NULL, '1'", "22004"),
        ("'q', NULL", "22004"),
        ("'', '1'", "22023"),
        ("'pgc:q', '1'", "42939"),
        ("'q', '1', -1", "22023"),
        ("'q', '1', '-1 s'", "22023"),
        ("'q', '1', 'soon'", "22023"),
        ("'q', '1', interval '100 years'", "22023"),
        ("'q', '1', true", "42804"),
        ("'q', '1', id => ''", "22023"),
        (&format!("'q', '1', id => '{long}'"), "54000"),
        ("'q', '1', format => 'resque'", "22023"),
        ("'q', '1', format => NULL", "22004"),
    ] {
        let error = client.batch_execute(&format!("SELECT redis_enqueue({call})")).unwrap_err();
        assert_eq!(outcome::sqlstate(&error), state, "{call}");
    }
    for call in ["0", "'0'", "interval '0'", "0.0", "'0 seconds'", "NULL", "1", "'1 s'", "0.5"] {
        client.batch_execute(&format!("SELECT redis_enqueue('q', '1', {call})")).unwrap();
    }
}
