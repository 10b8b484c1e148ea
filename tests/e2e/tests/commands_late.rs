//! Commands that nobody waits for any more, and a Redis that comes back.

use std::time::Duration;

use pg_cache_e2e::Scene;
use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::registry::count;
use pg_cache_testbed::{Redis, eventually};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn what_was_given_up_is_not_delivered_behind_our_back() {
    // Danger: a command times out; minutes later the system delivers the rest of it, and it
    // overwrites what was written since.
    let scene = Scene::with_redis(|| Redis::start_tcp(&[]));
    let mut client = scene.connect();
    client.batch_execute("SET pg_cache.timeout_ms = '300ms'; SELECT redis_set('k', 'a')").unwrap();
    let pid = count(&mut client, "SELECT pg_backend_pid()::bigint");
    scene.redis.freeze();
    // More than a server that does not read takes, less than the system keeps for us.
    let late = client.batch_execute("SELECT redis_command('SET', 'k', repeat('b', 1000000))");
    scene.redis.thaw();
    assert_eq!(sqlstate(&late.unwrap_err()), "08006");
    let name = format!(":{pid} ");
    eventually(SOON, "Redis has read all there is of that connection", || {
        !scene.redis.cli(&["CLIENT", "LIST"]).contains(&name)
    });
    assert_eq!(scene.redis.cli(&["STRLEN", "k"]), "1");
}
