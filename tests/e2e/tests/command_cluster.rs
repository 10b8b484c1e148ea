//! What a node of a cluster says of keys that are not its own.

use std::net::TcpListener;
use std::time::Duration;

use pg_cache_e2e::Scene;
use pg_cache_e2e::outcome::{sqlstate, words};
use pg_cache_testbed::{Redis, eventually};

const SOON: Duration = Duration::from_secs(20);

/// A node that talks to others on a port of its own.
fn node() -> Redis {
    let bus = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let bus = bus.unwrap().port().to_string();
    Redis::start_tcp(&["--cluster-enabled", "yes", "--cluster-port", &bus])
}

fn bus_of(redis: &Redis) -> String {
    redis.cli(&["CONFIG", "GET", "cluster-port"]).lines().nth(1).unwrap().to_owned()
}

#[test]
fn a_node_of_a_cluster_says_where_the_key_is() {
    // Danger: "redis refused the command" for a key that lies elsewhere.
    let scene = Scene::with_redis(|| {
        let redis = node();
        redis.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
        eventually(SOON, "the cluster is up", || {
            redis.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
        });
        redis
    });
    let redis = &scene.redis;
    let other = node();
    let port = other.port().unwrap().to_string();
    redis.cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus_of(&other)]);
    let id = other.cli(&["CLUSTER", "MYID"]);
    eventually(SOON, "they know each other", || {
        redis.cli(&["CLUSTER", "NODES"]).lines().any(|line| {
            line.starts_with(&id) && !line.contains("handshake") && line.contains(" connected")
        })
    });
    let slot = |key: &str| redis.cli(&["CLUSTER", "KEYSLOT", key]);
    redis.cli(&["SET", "{ask}:here", "x"]);
    assert_eq!(redis.cli(&["CLUSTER", "SETSLOT", &slot("moved"), "NODE", &id]), "OK");
    assert_eq!(redis.cli(&["CLUSTER", "SETSLOT", &slot("{ask}"), "MIGRATING", &id]), "OK");
    let mut client = scene.connect();
    for (expression, state, text) in [
        ("redis_get('moved')", "0A000", "MOVED"),
        ("redis_get('{ask}:gone')", "0A000", "ASK"),
        ("redis_command('MGET', '{ask}:here', '{ask}:gone')", "55006", "TRYAGAIN"),
        ("redis_command('MSET', 'a', '1', 'b', '2')", "22023", "in braces"),
    ] {
        let sql = format!("SELECT {expression}");
        let error = client.batch_execute(&sql).expect_err(&sql);
        assert_eq!(sqlstate(&error), state, "{sql}: {}", words(&error));
        assert!(words(&error).contains(text), "{}", words(&error));
    }
    // What is beside the key has gone, or never was: nothing is done by halves.
    client.batch_execute("SELECT redis_set('{ask}:here', 'v')").expect_err("ASK");
    assert_eq!(redis.cli(&["GET", "{ask}:here"]), "x");
}
