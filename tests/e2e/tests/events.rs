//! What triggers and functions send leaves with the commit: in order, once, and only then.

use pg_cache_e2e::Scene;
use pg_cache_e2e::registry::repair;
use postgres::Client;
use serde_json::{Value, json};

/// A table whose changes go to the stream `s`.
fn streaming(scene: &Scene) -> Client {
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text, secret text);
             CREATE TRIGGER e AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_stream('s', 'except=secret')",
        )
        .unwrap();
    repair(&mut client);
    client
}

/// The events of a stream, oldest first.
#[track_caller]
fn events(scene: &Scene, stream: &str) -> Vec<Value> {
    type Entry = (String, Vec<(String, String)>);
    let mut redis = scene.redis.client();
    let found: Vec<Entry> =
        redis::cmd("XRANGE").arg(stream).arg("-").arg("+").query(&mut redis).unwrap();
    let event = |(_, fields): Entry| {
        assert_eq!(fields.len(), 1, "{fields:?}");
        assert_eq!(fields[0].0, "event");
        serde_json::from_str(&fields[0].1).unwrap()
    };
    found.into_iter().map(event).collect()
}

#[test]
fn an_event_says_what_happened_to_which_row() {
    // Danger: a subscriber cannot tell which row an event is about, or what became of it.
    let scene = Scene::new();
    let mut client = streaming(&scene);
    client
        .batch_execute(
            "INSERT INTO t VALUES (1, 'a', 'x'); UPDATE t SET v = 'b'; UPDATE t SET v = 'b';
             UPDATE t SET secret = 'y'; DELETE FROM t",
        )
        .unwrap();
    let found = events(&scene, "s");
    let members: Vec<Vec<&str>> = found
        .iter()
        .map(|event| event.as_object().unwrap().keys().map(String::as_str).collect())
        .collect();
    let all = ["op", "schema", "table", "key", "new", "old", "changed", "xid", "at"];
    for members in members {
        assert_eq!(members, all);
    }
    let what: Vec<Value> = found
        .iter()
        .map(|e| {
            json!([e["op"], e["schema"], e["table"], e["key"], e["new"], e["old"], e["changed"]])
        })
        .collect();
    let (a, b) = (json!({"id": 1, "v": "a"}), json!({"id": 1, "v": "b"}));
    let key = json!({"id": 1});
    assert_eq!(
        what,
        [
            json!(["INSERT", "public", "t", key, a, null, null]),
            json!(["UPDATE", "public", "t", key, b, a, ["v"]]),
            json!(["DELETE", "public", "t", key, null, b, null]),
        ]
    );
}
