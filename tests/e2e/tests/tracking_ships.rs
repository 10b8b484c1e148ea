//! Tracking goes where the tables go: into a dump and out of it, and to a subscriber.

use std::process::Command;
use std::time::Duration;

use pg_cache_e2e::counters::{counted, keys};
use pg_cache_e2e::notes::{any, group};
use pg_cache_e2e::{Scene, same_as_direct};
use pg_cache_testbed::process::run_well;
use pg_cache_testbed::{Postgres, Redis, eventually};
use postgres::Client;

const SCHEMA: &str = "
CREATE TABLE plain (id int PRIMARY KEY, \"odd \"\"name\" int);
CREATE TABLE parted (id int, k int) PARTITION BY LIST (k);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1) PARTITION BY LIST (id);
CREATE TABLE parted_11 PARTITION OF parted_1 FOR VALUES IN (1);
CREATE TABLE parent (id int);
CREATE TABLE child (v int) INHERITS (parent);
CREATE MATERIALIZED VIEW m AS SELECT 1 AS a;
CREATE TRIGGER keys AFTER INSERT OR UPDATE OR DELETE ON plain FOR EACH ROW
    EXECUTE FUNCTION redis_invalidate('plain:{id}', 'it''s {{all}}');
INSERT INTO plain VALUES (1, 1);
INSERT INTO parted VALUES (1, 1);
INSERT INTO child VALUES (1, 1);
SELECT redis_track('plain', ARRAY['odd \"name']);
SELECT redis_track('parted', '{id}');
SELECT redis_track('parent');
";

/// Every trigger of ours, with its state and arguments.
fn state(client: &mut Client) -> Vec<String> {
    let sql = "SELECT format('%s: %s %s', tgrelid::regclass, tgenabled, pg_get_triggerdef(t.oid))
                 FROM pg_trigger t JOIN pg_proc p ON p.oid = tgfoid AND proname LIKE 'redis%'
               UNION ALL
               SELECT format('%s %s %s', relation, \"by\", missing) FROM redis_tracked
                ORDER BY 1";
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_dump_brings_tracking_back() {
    // Danger: a restored database serves stale rows because nothing watches its tables.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute(SCHEMA).unwrap();
    let server = scene.postgres();
    let restored = format!("{}_restored", scene.database());
    client.batch_execute(&format!("CREATE DATABASE {restored}")).unwrap();
    scene.prepare_database(&restored);
    let mut dump = Command::new(server.bin("pg_dump"));
    dump.arg("-d").arg(server.conninfo(scene.database()));
    let dumped = run_well(dump, server.socket_dir());
    let file = server.socket_dir().join(format!("{restored}.sql"));
    std::fs::write(&file, &dumped).unwrap();
    let mut psql = Command::new(server.bin("psql"));
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&file);
    psql.arg("-d").arg(server.conninfo(&restored));
    run_well(psql, server.socket_dir());

    let before = state(&mut client);
    assert!(before.len() >= 14, "{before:#?}");
    let mut copy = scene.connect_to("postgres", &restored);
    assert_eq!(state(&mut copy), before);
    copy.batch_execute("SELECT * FROM redis_repair(); INSERT INTO parted_11 VALUES (1, 1)")
        .unwrap();
    copy.batch_execute("CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2)").unwrap();
    let sql = "SELECT count(*) FROM redis_tracked WHERE missing IS NOT NULL";
    assert_eq!(copy.query_one(sql, &[]).unwrap().get::<_, i64>(0), 0);
}

const REPLICATED: &str = "
CREATE TABLE t (id int PRIMARY KEY, v int);
CREATE TABLE p (id int PRIMARY KEY) PARTITION BY LIST (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1, 2, 3);
";

const SUBSCRIBED: &str = "
SELECT redis_track('t', '{id}');
SELECT redis_track('p');
CREATE TRIGGER keys AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW
    EXECUTE FUNCTION redis_invalidate('t:{id}');
ALTER TABLE t ENABLE ALWAYS TRIGGER keys;
";

/// A change of the publisher's, the condition that it has arrived, and what it tells: tags, and the
/// keys that it deletes.
type Step<'a> = (&'a str, &'a str, &'a [&'a String], &'a [&'a str]);

#[test]
fn what_replication_applies_is_told() {
    // Danger: a subscriber's cache never hears of the changes that come from its publisher.
    let scene = Scene::new();
    let publisher = Postgres::start_with(&[("wal_level", "logical")]);
    let mut source = publisher.connect();
    source.batch_execute(REPLICATED).unwrap();
    source.batch_execute("CREATE PUBLICATION all_of_it FOR TABLE t, p").unwrap();
    source.batch_execute("INSERT INTO t VALUES (1, 1); INSERT INTO p VALUES (2)").unwrap();
    let mut client = scene.connect();
    client.batch_execute("SELECT * FROM redis_repair()").unwrap();
    client.batch_execute(REPLICATED).unwrap();
    client.batch_execute(SUBSCRIBED).unwrap();
    let (t, p) = (any(&mut client, "t"), any(&mut client, "p"));
    let [one, seven] = ["1", "7"].map(|id| group(&mut client, "t", &[("id", id)]));
    // The first copy of the tables comes in another way than what follows.
    let name = format!("s_{}", scene.database());
    let subscribe = format!(
        "CREATE SUBSCRIPTION {name} CONNECTION '{}' PUBLICATION all_of_it",
        publisher.conninfo("test")
    );
    let copied = "(SELECT count(*) = 1 FROM t) AND (SELECT count(*) = 1 FROM p)";
    let first: Step<'_> = (&subscribe, copied, &[&t, &one, &p], &["t:1"]);
    arrives(&scene, &mut client, first);
    let steps: [Step<'_>; 5] = [
        ("INSERT INTO t VALUES (7, 1)", "2 = (SELECT count(*) FROM t)", &[&t, &seven], &["t:7"]),
        ("UPDATE t SET v = 2 WHERE id = 7", "2 IN (SELECT v FROM t)", &[&t, &seven], &["t:7"]),
        ("DELETE FROM t WHERE id = 7", "7 NOT IN (SELECT id FROM t)", &[&t, &seven], &["t:7"]),
        ("INSERT INTO p VALUES (1)", "1 IN (SELECT id FROM p)", &[&p], &[]),
        ("TRUNCATE p", "NOT EXISTS (SELECT FROM p)", &[&p], &[]),
    ];
    for step in steps {
        arrives(&scene, &mut source, step);
    }
    client.batch_execute(&format!("DROP SUBSCRIPTION {name}")).unwrap();
}

/// Makes the change on `side`, and asserts that it is told when it can be seen.
#[track_caller]
fn arrives(scene: &Scene, side: &mut Client, (sql, arrived, tags, gone): Step<'_>) {
    let query = "SELECT (SELECT json_agg(t ORDER BY id) FROM t), (SELECT json_agg(p) FROM p)";
    let mut reader = scene.connect();
    for _ in 0..2 {
        same_as_direct(&mut reader, "k", query).unwrap();
    }
    scene.redis.cli(&["MSET", "t:1", "old", "t:7", "old"]);
    let before = fields(&scene.redis);
    side.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    eventually(Duration::from_secs(30), sql, || {
        reader.query_one(&format!("SELECT {arrived}"), &[]).unwrap().get::<_, bool>(0)
    });
    let after = fields(&scene.redis);
    for tag in tags {
        assert_ne!(before.get(*tag), after.get(*tag), "{sql} tells {tag}");
    }
    let kept: Vec<&str> = ["t:1", "t:7"].into_iter().filter(|key| !gone.contains(key)).collect();
    assert_eq!(keys(&scene.redis, "t:*"), kept, "{sql}");
    let (_, counters) = counted(&mut reader, |c| same_as_direct(c, "k", query).unwrap());
    assert_eq!(counters.hits, 0, "{sql}: {counters:?}");
}

fn fields(redis: &Redis) -> std::collections::BTreeMap<String, String> {
    let key = redis.cli(&["KEYS", "pgc:t:*"]);
    redis::cmd("HGETALL").arg(key).query(&mut redis.client()).unwrap()
}
