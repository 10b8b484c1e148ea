//! Debts that cannot be paid: they hold up neither the others nor what owes nothing.

use std::time::Duration;

use pg_cache_e2e::Scene;
use pg_cache_e2e::counters::value;
use pg_cache_e2e::outbox::{append, events, put, rows, wake};
use pg_cache_e2e::registry::{count, repair, table_key};
use pg_cache_testbed::eventually;
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

const DEBTS: &str = "SELECT count(*) FROM redis_debt";

/// Which keys the server lets anybody have.
fn allow(scene: &Scene, keys: &[&str]) {
    let rules = [&["ACL", "SETUSER", "default", "resetkeys"], keys].concat();
    assert_eq!(scene.redis.cli(&rules), "OK");
}

#[track_caller]
fn arrive(scene: &Scene, client: &mut Client, stream: &str, wanted: &[&str]) {
    eventually(SOON, stream, || {
        wake(client);
        events(&scene.redis, stream) == wanted
    });
}

#[test]
fn a_debt_that_redis_refuses_holds_up_nobody_else() {
    // Danger: one key for which the server's access list has no room, and no other debt is paid and
    // no durable event of the database leaves any more.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.redis.cli(&["SET", "app:k", "old"]);
    allow(&scene, &["~app:*", "~pgc:*"]);
    // More than one step takes, and before all others.
    let refused = "INSERT INTO redis_debt
                   SELECT n, (n % 600 + 100)::text::xid8, 'order:' || n
                     FROM generate_series(1, 1500) AS n";
    client.batch_execute(refused).unwrap();
    client.batch_execute("INSERT INTO redis_debt VALUES (99999, '700', 'app:k')").unwrap();
    put(&mut client, &[append("app:s", "0")]);
    arrive(&scene, &mut client, "app:s", &["0"]);
    eventually(SOON, "the other is paid", || count(&mut client, DEBTS) == 1500);
    assert_eq!(value(&scene.redis, "app:k"), None);
    // And one that comes later, at once.
    scene.redis.cli(&["SET", "app:k", "old"]);
    client.batch_execute("INSERT INTO redis_debt VALUES (5, '701', 'app:k')").unwrap();
    eventually(Duration::from_secs(3), "the later one is paid", || {
        wake(&mut client);
        count(&mut client, DEBTS) == 1500
    });
    assert_eq!(value(&scene.redis, "app:k"), None);
    allow(&scene, &["~*"]);
    eventually(2 * SOON, "all are paid once they may be", || count(&mut client, DEBTS) == 0);
}

#[test]
fn what_owes_waits_and_only_what_goes_to_the_same_place_waits_behind_it() {
    // Danger: an event leaves before the debt of its transaction is paid; or all events wait for a
    // debt that is never paid; or what waits is overtaken by what came later to the same stream.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    client
        .batch_execute(
            "CREATE TABLE t (id int);
             CREATE TRIGGER k AFTER INSERT ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_invalidate('order:{id}');
             CREATE TRIGGER e AFTER INSERT ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_stream('app:{id}', 'durable')",
        )
        .unwrap();
    let length = |stream: &str| events(&scene.redis, stream).len();
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    eventually(SOON, "sent", || length("app:1") == 1);
    allow(&scene, &["~app:*", "~pgc:*"]);
    put(&mut client, &[append("app:1", "before")]);
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(count(&mut client, DEBTS), 1);
    put(&mut client, &[append("app:1", "behind"), append("app:2", "another")]);
    arrive(&scene, &mut client, "app:2", &["another"]);
    eventually(SOON, "only those two wait", || rows(&mut client) == 2);
    put(&mut client, &[append("app:1", "last"), append("app:2", "one more")]);
    arrive(&scene, &mut client, "app:2", &["another", "one more"]);
    // Longer than what was put aside rests.
    std::thread::sleep(Duration::from_secs(6));
    wake(&mut client);
    eventually(SOON, "what has arrived is taken away", || rows(&mut client) == 3);
    assert_eq!(length("app:1"), 2);
    // A new worker knows it too.
    scene.quiet();
    put(&mut client, &[append("app:2", "to the new one")]);
    arrive(&scene, &mut client, "app:2", &["another", "one more", "to the new one"]);
    eventually(SOON, "what has arrived is taken away", || rows(&mut client) == 3);
    assert_eq!(length("app:1"), 2);
    allow(&scene, &["~*"]);
    eventually(2 * SOON, "sent when it is paid", || {
        wake(&mut client);
        rows(&mut client) == 0
    });
    let found = events(&scene.redis, "app:1");
    let own = |at: usize| found[at].starts_with("{\"op\":\"INSERT\"");
    assert!(own(0) && own(2), "{found:?}");
    assert_eq!([&found[1], &found[3], &found[4]], ["before", "behind", "last"]);
}

#[test]
fn a_long_transaction_holds_up_neither_debts_nor_events() {
    // Danger: somebody changed so much that keys were settled early, and goes on for hours: so long
    // no debt of anybody is paid and no durable event leaves.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let mut long = scene.connect();
    long.batch_execute("BEGIN; LOCK TABLE redis_server IN ROW EXCLUSIVE MODE").unwrap();
    scene.redis.cli(&["SET", "k", "old"]);
    client.batch_execute("INSERT INTO redis_debt VALUES (5, '700', 'k')").unwrap();
    put(&mut client, &[append("s", "0")]);
    arrive(&scene, &mut client, "s", &["0"]);
    eventually(SOON, "paid", || count(&mut client, DEBTS) == 0);
    assert_eq!(value(&scene.redis, "k"), None);
    // Nor while a new table waits for it, and with that the debts.
    let table = table_key(&mut client);
    scene.redis.cli(&["DEL", &table]);
    client.batch_execute("INSERT INTO redis_debt VALUES (5, '701', 'k')").unwrap();
    put(&mut client, &[append("s", "1")]);
    arrive(&scene, &mut client, "s", &["0", "1"]);
    put(&mut client, &[append("s", "2")]);
    arrive(&scene, &mut client, "s", &["0", "1", "2"]);
    assert_eq!(count(&mut client, DEBTS), 1);
    long.batch_execute("COMMIT").unwrap();
    repair(&mut client);
    eventually(SOON, "paid", || count(&mut client, DEBTS) == 0);
}
