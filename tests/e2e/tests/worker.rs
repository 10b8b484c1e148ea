//! The worker: whatever happens to either side, the database is registered again within moments,
//! with a generation that nobody had before.

use std::time::Duration;

use pg_cache_e2e::Scene;
use pg_cache_testbed::eventually;
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

/// The generation that is registered with a server, if any.
fn generation(client: &mut Client) -> Option<String> {
    let sql = "SELECT generation::text FROM redis_server WHERE servers <> ''";
    client.query_opt(sql, &[]).unwrap().map(|row| row.get(0))
}

fn repair(client: &mut Client) {
    client.batch_execute("SELECT * FROM redis_repair()").unwrap();
}

#[test]
fn a_new_database_registers_itself() {
    // Danger: an extension that needs a call that nobody makes before it caches anything.
    let scene = Scene::new();
    let mut client = scene.connect();
    eventually(SOON, "registered", || generation(&mut client).is_some());
    repair(&mut client);
    let key = scene.redis.cli(&["KEYS", "pgc:t:*"]);
    assert_eq!(
        scene.redis.cli(&["HGET", &key, "R"]),
        generation(&mut client).unwrap().replace('-', "")
    );
}
