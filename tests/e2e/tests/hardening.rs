//! Databases and Redis servers whose administrators allow no more than is needed.

use std::time::Duration;

use pg_cache_e2e::events::{events, get};
use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::registry::repair;
use pg_cache_e2e::trouble::use_url;
use pg_cache_e2e::{Scene, cached};
use pg_cache_testbed::eventually;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_hardened_schema_stops_no_writer() {
    // Danger: an administrator takes EXECUTE from everybody, and nobody can write any more.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TABLE t (v int); GRANT ALL ON t TO PUBLIC; INSERT INTO t VALUES (0);
             SELECT redis_track('t');
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO CURRENT_USER;
             REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC",
        )
        .unwrap();
    repair(&mut client);
    assert_eq!(cached(&mut client, "k", "SELECT v FROM t").unwrap(), r#"[{"v":0}]"#);
    let role = format!("{}_writer", scene.database());
    client.batch_execute(&format!("CREATE ROLE {role} LOGIN")).unwrap();
    let mut writer = scene.connect_as(&role);
    writer.batch_execute("UPDATE t SET v = 1").unwrap();
    assert_eq!(cached(&mut client, "k", "SELECT v FROM t").unwrap(), r#"[{"v":1}]"#);
    writer.query_one("SELECT * FROM redis_tracked", &[]).unwrap();
    let refused = writer.batch_execute("SELECT redis_cached('k', 60, 'SELECT 1')").unwrap_err();
    assert_eq!(sqlstate(&refused), "42501", "the rest is as the administrator wants it");
    drop(writer);
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).unwrap();
}

#[test]
fn default_privileges_that_grant_nothing_stop_no_writer() {
    // Danger: as above, of an extension that is created after them.
    let scene = Scene::new();
    let mut client = scene.connect();
    let role = format!("{}_writer", scene.database());
    client
        .batch_execute(&format!(
            "DROP EXTENSION pg_cache;
             ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
             CREATE EXTENSION pg_cache;
             CREATE TABLE t (v int); GRANT ALL ON t TO PUBLIC; SELECT redis_track('t');
             CREATE ROLE {role} LOGIN"
        ))
        .unwrap();
    let mut writer = scene.connect_as(&role);
    writer.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    drop(writer);
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).unwrap();
}

#[test]
fn tables_of_the_extension_cannot_be_tracked() {
    // Danger: their rows come and go past all triggers, so hits over them would be wrong.
    let scene = Scene::new();
    let mut client = scene.connect();
    for table in ["redis_outbox", "redis_debt", "redis_server", "redis_job_done"] {
        let refused = client.batch_execute(&format!("SELECT redis_track('{table}')")).unwrap_err();
        assert_eq!(sqlstate(&refused), "42809", "{table}: {refused:?}");
    }
}

/// The rules of the Redis user that the documents show, for this password.
fn rules() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once("ACL SETUSER pg_cache ").expect("the documents show one");
    let (rules, _) = rest.split_once("```").unwrap();
    rules.split_whitespace().map(|rule| rule.replace(">password", ">pw")).collect()
}

#[test]
fn the_redis_user_of_the_documents_may_do_all_that_is_needed() {
    // Danger: who follows the documents has a cache that never hits, and loses events.
    let scene = Scene::new();
    let rules = rules();
    let mut set = vec!["ACL", "SETUSER", "pg_cache"];
    set.extend(rules.iter().map(String::as_str));
    assert_eq!(scene.redis.cli(&set), "OK");
    let mut client = scene.connect();
    let url = format!("{}?user=pg_cache&password=pw", scene.redis.url());
    let keep = format!("ALTER DATABASE {} SET pg_cache.url = '{url}'", scene.database());
    client.batch_execute(&keep).unwrap();
    use_url(&mut client, &url);
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int); SELECT redis_track('t');
             CREATE TRIGGER a AFTER UPDATE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_invalidate('app:t:{id}');
             CREATE TRIGGER b AFTER UPDATE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_stream('app:lined');
             CREATE TRIGGER c AFTER UPDATE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_stream('app:durable', 'durable');
             CREATE TRIGGER d AFTER UPDATE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_store('app:row:{id}');
             CREATE TRIGGER e AFTER UPDATE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_publish('app:channel');
             INSERT INTO t VALUES (1, 0)",
        )
        .unwrap();
    repair(&mut client);
    for v in 0..2 {
        let answer = format!(r#"[{{"v":{v}}}]"#);
        let ask = "SELECT v FROM t";
        assert_eq!(cached(&mut client, "app:t:1", ask).unwrap(), answer);
        let hit: String = client
            .query_one("SELECT redis_explain('app:t:1', 'SELECT v FROM t')->>'status'", &[])
            .unwrap()
            .get(0);
        assert_eq!(hit, "hit");
        client.batch_execute("UPDATE t SET v = v + 1").unwrap();
    }
    assert_eq!(events(&scene.redis, "app:lined").len(), 2);
    eventually(SOON, "durable events arrive", || {
        scene.redis.cli(&["XLEN", "app:durable"]).trim() == "2"
    });
    assert_eq!(get(&scene.redis, "app:row:1").unwrap(), r#"{"id":1,"v":2}"#);
    let counted: (i64, i64) = {
        let row = client.query_one("SELECT owed, lost FROM redis_stat_commit", &[]).unwrap();
        (row.get(0), row.get(1))
    };
    assert_eq!(counted, (0, 0), "owed and lost");
    let aside = "SELECT count(*) FROM redis_outbox";
    eventually(SOON, "nothing waits", || {
        client.query_one(aside, &[]).unwrap().get::<_, i64>(0) == 0
    });
    let row = client
        .query_one("SELECT allowed FROM redis_rate_limit('app:limit', 5, '1 minute')", &[])
        .unwrap();
    assert_eq!(row.get::<_, Option<bool>>(0), Some(true));
    assert_eq!(client.query("SELECT * FROM redis_verify(100)", &[]).unwrap().len(), 0);
}
