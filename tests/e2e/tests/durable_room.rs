//! The bound of the outbox is one of what waits, not of what was sent and takes room still.

use std::time::Duration;

use pg_cache_e2e::Scene;
use pg_cache_e2e::outbox::{append, put, rows, wake};
use pg_cache_e2e::outcome::{sqlstate, words};
use pg_cache_e2e::registry::{count, repair};
use pg_cache_testbed::eventually;
use postgres::Client;

const SOON: Duration = Duration::from_secs(40);

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
     CREATE TRIGGER events AFTER INSERT ON t
         FOR EACH ROW EXECUTE FUNCTION redis_stream('s', 'durable');
     SET pg_cache.outbox_mb_max = 2";

/// Sends so much that the outbox takes more than its bound. One that is refused waits all the time:
/// room is given back only where nothing does.
fn pass_much(scene: &Scene, client: &mut Client) {
    scene.redis.cli(&["RPUSH", "bad", "a list"]);
    put(client, &[append("bad", "0")]);
    let payload = "x".repeat(1000);
    for _ in 0..4 {
        put(client, &vec![append("passed", &payload); 2000]);
    }
    eventually(SOON, "all is sent", || {
        wake(client);
        rows(client) == 1
    });
    let size = "SELECT pg_table_size('redis_outbox')";
    assert!(count(client, size) > 6 * 1024 * 1024, "nothing gives the room back");
}

/// Somebody's report, which sees all rows that ever were.
fn long_snapshot(scene: &Scene) -> Client {
    let mut reader = scene.connect();
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    reader
}

#[test]
fn rows_that_were_sent_are_not_in_the_way_of_those_that_wait() {
    // Danger: somebody's report runs for hours, so that nothing is vacuumed, and commits fail
    // though next to nothing waits.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    client.batch_execute(TABLE).unwrap();
    let report = long_snapshot(&scene);
    pass_much(&scene, &mut client);
    // From now on some wait, all the time.
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    for id in 0..200 {
        client.batch_execute(&format!("INSERT INTO t VALUES ({id}, 'x')")).unwrap();
    }
    let health = "SELECT ok, detail FROM redis_health() WHERE \"check\" = 'outbox'";
    let detail: String = client.query_one(health, &[]).unwrap().get(1);
    assert!(detail.contains("unless an old snapshot keeps it"), "{detail}");
    // Those that wait are bounded as ever.
    let mut put_so_far = 1000;
    let error = loop {
        assert!(put_so_far < 100_000, "it is bounded");
        let (from, to) = (put_so_far, put_so_far + 999);
        let sql = format!("INSERT INTO t SELECT g, 'x' FROM generate_series({from}, {to}) g");
        match client.batch_execute(&sql) {
            Ok(()) => put_so_far += 1000,
            Err(error) => break error,
        }
    };
    assert_eq!(sqlstate(&error), "53400", "{}", words(&error));
    drop(report);
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually(SOON, "the events are sent", || {
        wake(&mut client);
        rows(&mut client) == 1
    });
    client.batch_execute("INSERT INTO t VALUES (-1, 'x')").expect("next to nothing waits");
}
