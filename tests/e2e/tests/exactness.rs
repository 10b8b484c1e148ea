//! Exact or TTL only: what `redis_explain` promises, and when it stops promising.

use std::time::Duration;

use pg_cache_core::tag::Tag;
use pg_cache_e2e::counters::counted;
use pg_cache_e2e::gate::Gate;
use pg_cache_e2e::registry::{count, repair, table_key};
use pg_cache_e2e::tracking::track;
use pg_cache_e2e::{Outcome, Scene, cached, direct};
use pg_cache_testbed::{Redis, eventually};
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

/// Why a query is TTL only; empty if it is exact.
#[track_caller]
fn gaps(client: &mut Client, query: &str) -> Vec<String> {
    let row = client.query_one(
        "SELECT e->>'exact', array(SELECT jsonb_array_elements_text(e->'ttl_only_because'))
         FROM (SELECT redis_explain('k', $1)::jsonb) x(e)",
        &[&query],
    );
    let row = row.unwrap_or_else(|error| panic!("{query}: {error:?}"));
    let gaps: Vec<String> = row.get(1);
    let exact: String = row.get(0);
    assert_eq!(exact == "exact", gaps.is_empty(), "{exact} for {query}: {gaps:?}");
    gaps
}

#[track_caller]
fn exact(client: &mut Client, query: &str) {
    assert_eq!(gaps(client, query), [] as [&str; 0], "{query}");
}

/// Asserts that one of the reasons says this.
#[track_caller]
fn ttl_only(client: &mut Client, query: &str, why: &str) {
    let gaps = gaps(client, query);
    assert!(gaps.iter().any(|gap| gap.contains(why)), "{why} for {query}: {gaps:?}");
}

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

fn prepared(scene: &Scene) -> Client {
    let mut client = scene.connect();
    run(&mut client, "CREATE TABLE t (id int, v int); CREATE TABLE other (id int)");
    track(&mut client, "t", "{id}");
    client
}

#[test]
fn what_is_read_must_be_tracked() {
    // Danger: S1 is promised for a query that reads a table which nobody watches.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    run(
        &mut client,
        "CREATE VIEW seen AS SELECT * FROM other;
         CREATE MATERIALIZED VIEW mat AS SELECT * FROM other;
         CREATE SEQUENCE counter;
         CREATE FOREIGN DATA WRAPPER nothing;
         CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
         CREATE FOREIGN TABLE away (id int) SERVER nowhere;
         CREATE FUNCTION steady(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1';
         CREATE FUNCTION opaque(int) RETURNS int STABLE LANGUAGE sql AS 'SELECT $1'",
    );
    for query in [
        "SELECT * FROM t",
        "SELECT 1",
        "SELECT * FROM mat",
        "SELECT steady(id), current_user, current_setting('TimeZone') FROM t",
        "SELECT tableoid FROM t",
        "SELECT v::text, '2024-01-01'::date, date_trunc('day', '2024-01-01'::timestamptz) FROM t",
        "SELECT * FROM xmltable('/r' PASSING '<r>1</r>' COLUMNS n int PATH '.')",
        "VALUES (1), (2)",
        "WITH unused AS (SELECT * FROM other) SELECT * FROM t",
    ] {
        exact(&mut client, query);
    }
    for (query, why) in [
        ("SELECT * FROM other", "public.other is not tracked."),
        ("SELECT * FROM seen", "public.other is not tracked."),
        ("SELECT * FROM t WHERE EXISTS (SELECT FROM other)", "public.other is not tracked."),
        ("SELECT * FROM t UNION SELECT id, id FROM other", "public.other is not tracked."),
        ("WITH w AS (SELECT * FROM other) SELECT * FROM t, w", "public.other is not tracked."),
        ("SELECT last_value FROM counter", "is a sequence."),
        ("SELECT * FROM away", "is a foreign table."),
        ("SELECT opaque(id) FROM t", "STABLE"),
        ("SELECT now() FROM t", "tells the time"),
        ("SELECT * FROM t WHERE CURRENT_DATE > '2020-01-01'", "tells the time"),
        ("SELECT v::text::date FROM t", "may say 'now'"),
        ("SELECT * FROM json_to_record('{\"d\":\"now\"}') AS r(d timestamptz)", "may say 'now'"),
        ("SELECT * FROM xmltable('/r' PASSING '<r>now</r>' COLUMNS d date PATH '.')", "'now'"),
        ("SELECT pg_column_size(v) FROM t", "stored"),
        ("SELECT ctid FROM t", "system column"),
        ("SELECT id FROM t ORDER BY xmin::text", "system column"),
        ("SELECT * FROM t TABLESAMPLE SYSTEM (50) REPEATABLE (1)", "sample"),
    ] {
        ttl_only(&mut client, query, why);
    }
}

#[test]
fn json_that_is_read_as_a_time_is_ttl_only() {
    // Danger: JSON_VALUE makes a date of the text 'today', and tomorrow it is served as exact.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    let sql = "SELECT current_setting('server_version_num')::int";
    let version: i32 = client.query_one(sql, &[]).unwrap().get(0);
    if version >= 170_000 {
        let value =
            |kind| format!("SELECT JSON_VALUE('[\"1\"]', '$[0]' RETURNING {kind}) AS v FROM t");
        ttl_only(&mut client, &value("date"), "may say 'now'");
        exact(&mut client, &value("int"));
        let table = |kind| {
            format!("SELECT * FROM JSON_TABLE('[1]', '$[*]' COLUMNS (d {kind} PATH '$')) AS j, t")
        };
        ttl_only(&mut client, &table("timestamptz"), "may say 'now'");
        exact(&mut client, &table("text"));
    }
}

#[test]
fn triggers_must_see_every_change() {
    // Danger: tracking is switched off, wholly or for some changes, and hits go on being exact.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    let mut other = scene.connect();
    let query = "SELECT count(*) FROM t";
    let gap = "not ENABLE ALWAYS";
    for (off, why) in [
        ("ALTER TABLE t DISABLE TRIGGER USER", gap),
        ("ALTER TABLE t ENABLE TRIGGER USER", gap),
        ("ALTER TABLE t ENABLE REPLICA TRIGGER redis_track_row", gap),
        (
            "DO $$ DECLARE n name; BEGIN
            SELECT tgname INTO n FROM pg_trigger WHERE tgrelid = 't'::regclass
               AND tgfoid = 'redis_track_truncate'::regproc;
            EXECUTE format('DROP TRIGGER %I ON t', n); END $$",
            gap,
        ),
        (
            "DO $$ DECLARE n name; BEGIN
            SELECT tgname INTO n FROM pg_trigger WHERE tgrelid = 't'::regclass
               AND tgfoid = 'redis_track_row'::regproc;
            EXECUTE format('DROP TRIGGER %I ON t', n); END $$",
            gap,
        ),
    ] {
        track(&mut client, "t", "{id}");
        exact(&mut other, query);
        run(&mut client, off);
        ttl_only(&mut other, query, why);
    }
    // CREATE TRIGGER refuses some of them, where it is looked at.
    for partial in [
        "AFTER INSERT OR UPDATE ON t FOR EACH ROW",
        "AFTER INSERT OR UPDATE OF v OR DELETE ON t FOR EACH ROW",
        "BEFORE INSERT OR UPDATE OR DELETE ON t FOR EACH ROW",
        "AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH STATEMENT",
    ] {
        track(&mut client, "t", "{id}");
        run(
            &mut client,
            &format!(
                "DO $$ DECLARE n name; BEGIN
                   SELECT tgname INTO n FROM pg_trigger WHERE tgrelid = 't'::regclass
                      AND tgfoid = 'redis_track_row'::regproc;
                   EXECUTE format('DROP TRIGGER %I ON t', n); END $$;
                 ALTER EVENT TRIGGER pg_cache_ddl_end DISABLE;
                 CREATE TRIGGER redis_track {partial} EXECUTE FUNCTION redis_track_row();
                 ALTER EVENT TRIGGER pg_cache_ddl_end ENABLE ALWAYS;
                 ALTER TABLE t ENABLE ALWAYS TRIGGER redis_track"
            ),
        );
        ttl_only(&mut other, query, gap);
        run(&mut client, "DROP TRIGGER redis_track ON t");
    }
}

#[test]
fn partitions_and_children_count() {
    // Danger: one partition without its trigger, and what changes there shows in no tag.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    let mut other = scene.connect();
    run(
        &mut client,
        "CREATE TABLE p (id int, v int) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY LIST (v);
         CREATE TABLE p21 PARTITION OF p2 FOR VALUES IN (1);
         CREATE TABLE parent (id int);
         CREATE TABLE child (extra int) INHERITS (parent)",
    );
    for table in ["p", "parent"] {
        track(&mut client, table, "{id}");
    }
    for query in [
        "SELECT * FROM p",
        "SELECT * FROM p1",
        "SELECT * FROM p2",
        "SELECT * FROM p21",
        "SELECT * FROM parent",
        "SELECT * FROM child",
        "SELECT * FROM ONLY parent",
    ] {
        exact(&mut other, query);
    }
    run(
        &mut client,
        "ALTER TABLE p21 DISABLE TRIGGER USER; ALTER TABLE child DISABLE TRIGGER USER",
    );
    for query in ["SELECT * FROM p", "SELECT * FROM p2", "SELECT * FROM p21"] {
        ttl_only(&mut other, query, "public.p21 is missing or not ENABLE ALWAYS");
    }
    for query in ["SELECT * FROM parent", "SELECT * FROM child"] {
        ttl_only(&mut other, query, "public.child is missing");
    }
    for query in ["SELECT * FROM p1", "SELECT * FROM ONLY parent"] {
        exact(&mut other, query);
    }
    run(
        &mut client,
        "CREATE FOREIGN DATA WRAPPER nothing;
         CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
         CREATE TABLE q (id int) PARTITION BY LIST (id);
         CREATE TABLE q1 PARTITION OF q FOR VALUES IN (1)",
    );
    track(&mut client, "q", "{id}");
    exact(&mut other, "SELECT * FROM q");
    run(&mut client, "CREATE FOREIGN TABLE q2 PARTITION OF q FOR VALUES IN (2) SERVER nowhere");
    ttl_only(&mut other, "SELECT * FROM q", "is a foreign table");
    // The rows of another session's temporary child are that session's alone.
    run(&mut client, "CREATE TEMP TABLE mine () INHERITS (t)");
    exact(&mut other, "SELECT * FROM t");
}

#[test]
fn schema_changes_must_be_seen() {
    // Danger: the event triggers are off, a function body changes, and the entry stays a hit.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    let mut other = scene.connect();
    let query = "SELECT * FROM t";
    for trigger in ["pg_cache_ddl_start", "pg_cache_ddl_end", "pg_cache_sql_drop"] {
        exact(&mut other, query);
        for state in ["DISABLE", "ENABLE", "ENABLE REPLICA"] {
            run(&mut client, &format!("ALTER EVENT TRIGGER {trigger} {state}"));
            ttl_only(&mut other, query, "event trigger");
        }
        run(&mut client, &format!("ALTER EVENT TRIGGER {trigger} ENABLE ALWAYS"));
    }
    exact(&mut other, query);
    let version: i32 =
        client.query_one("SELECT current_setting('server_version_num')::int", &[]).unwrap().get(0);
    if version >= 170_000 {
        run(&mut other, "SET event_triggers = off");
        ttl_only(&mut other, query, "event_triggers");
        run(&mut other, "RESET event_triggers");
        exact(&mut other, query);
    }
}

#[test]
fn a_column_that_is_gone_pins_nothing() {
    // Danger: the group of a renamed column is depended on, and no change notes it any more.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    let groups = |client: &mut Client, query: &str| -> Vec<String> {
        let sql = "SELECT array(SELECT jsonb_array_elements_text(
                     redis_explain('k', $1)::jsonb->'tables'->0->'groups'))";
        client.query_one(sql, &[&query]).unwrap().get(0)
    };
    assert_eq!(groups(&mut client, "SELECT * FROM t WHERE id = 1"), ["id = 1"]);
    run(&mut client, "ALTER TABLE t RENAME id TO key");
    assert_eq!(groups(&mut client, "SELECT * FROM t WHERE key = 1"), [] as [&str; 0]);
    run(&mut client, "ALTER TABLE t RENAME v TO id");
    assert_eq!(groups(&mut client, "SELECT * FROM t WHERE id = 1"), ["id = 1"]);
}

#[test]
fn names_of_the_users_own_are_constants_or_arguments() {
    // Danger: a name that is made from a row is depended on by no tag at all.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    exact(&mut client, "SELECT 1 AS v WHERE redis_depends('prices')");
    exact(&mut client, "SELECT * FROM t WHERE redis_depends('prices'::varchar)");
    exact(&mut client, "SELECT * FROM t WHERE redis_depends(NULL)");
    let refused: Outcome = Err("42P17".into());
    for query in [
        "SELECT * FROM t WHERE redis_depends(v::text)",
        "SELECT * FROM t WHERE redis_depends('a' || 'b')",
        "SELECT * FROM t WHERE redis_depends((SELECT 'a'))",
    ] {
        assert_eq!(cached(&mut client, "named", query), refused, "{query}");
    }
    let sql =
        "SELECT redis_cached('named', 60, 'SELECT 1 AS v WHERE redis_depends($1)', 'x')::text";
    let text: String = client.query_one(sql, &[]).unwrap().get(0);
    assert_eq!(text, "[{\"v\":1}]");
}

#[test]
fn readers_of_redis_learn_whether_a_trigger_can_name_the_key() {
    // Danger: a program reads Redis and trusts a key that no trigger ever deletes.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    let mut readers = |sql: &str, key: &str, query: &str| -> String {
        if !sql.is_empty() {
            run(&mut client, sql);
        }
        let sql = "SELECT redis_explain($1, $2)->>'redis_readers'";
        client.query_one(sql, &[&key, &query]).unwrap().get(0)
    };
    let query = "SELECT * FROM t WHERE id = 7";
    assert_eq!(readers("", "t:7", query), "ttl");
    let trigger = "CREATE TRIGGER keys AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW
                   EXECUTE FUNCTION redis_invalidate('t:{id}')";
    assert_eq!(readers(trigger, "t:7", query), "named");
    assert_eq!(readers("", "u:7", query), "ttl");
    assert_eq!(readers("", "t:7", "SELECT * FROM t, other"), "ttl");
    assert_eq!(readers("", "t:7", "SELECT now(), t.* FROM t"), "ttl");
    assert_eq!(readers("ALTER TABLE t DISABLE TRIGGER keys", "t:7", query), "ttl");
}

/// What a call would come to, and to what that is due.
#[track_caller]
fn status(client: &mut Client, query: &str) -> (String, Vec<String>) {
    let row = client.query_one(
        "SELECT e->>'status', array(SELECT jsonb_array_elements_text(e->'status_because'))
         FROM (SELECT redis_explain('k', $1)::jsonb) x(e)",
        &[&query],
    );
    let row = row.unwrap_or_else(|error| panic!("{query}: {error:?}"));
    (row.get(0), row.get(1))
}

#[test]
fn a_miss_names_what_changed() {
    // Danger: an operator learns that something changed and never what, among a dozen tables.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    run(&mut client, "CREATE TABLE lone (id int); INSERT INTO t VALUES (1, 1), (2, 2)");
    track(&mut client, "lone", "{}");
    track(&mut client, "other", "{}");
    scene.register();
    let all = "SELECT t.id FROM t, other, lone WHERE redis_depends('mine')";
    let group = "SELECT v FROM t WHERE id = 1";
    let cases = [
        (all, "INSERT INTO other VALUES (1)", "table public.other"),
        (all, "UPDATE t SET v = 0", "table public.t"),
        (all, "SELECT redis_touch('mine')", "tag mine"),
        (all, "TRUNCATE lone", "table public.lone as a whole, as by TRUNCATE"),
        (group, "UPDATE t SET v = 3 WHERE id = 1", "a row group of table public.t"),
    ];
    for (query, change, because) in cases {
        let _ = cached(&mut client, "k", query);
        assert_eq!(status(&mut client, query), ("hit".to_owned(), vec![]), "before {change}");
        run(&mut client, change);
        let (word, named) = status(&mut client, query);
        assert_eq!(word, "changed", "{change}");
        assert!(named.iter().any(|name| name == because), "{change}: {named:?}");
        assert!(named.len() < 3, "{change}: {named:?}");
    }
    // For an older snapshot, the writer is still running.
    let mut reader = scene.connect();
    run(&mut reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    run(&mut client, "INSERT INTO other VALUES (2)");
    let running = ("running_writer".to_owned(), vec!["table public.other".to_owned()]);
    assert_eq!(status(&mut reader, all), running);
}

#[test]
fn what_keeps_a_whole_database_from_its_entries_is_named() {
    // Danger: everything is computed, and whoever is on call is told `cold`, or something that the
    // calls themselves do not count.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    track(&mut client, "other", "{}");
    repair(&mut client);
    let (query, elsewhere) = ("SELECT t.id FROM t, other", Redis::start());
    let key = table_key(&mut client);
    let mut oid = |table: &str| {
        count(&mut client, &format!("SELECT '{table}'::regclass::oid::bigint")) as u32
    };
    let owed = Tag::any(oid("other")).0 as i64;
    let debt = format!("INSERT INTO redis_debt VALUES ({owed}, '700', NULL)");
    let move_away = format!("SET pg_cache.url = '{}'", elsewhere.url());
    // Nobody mends anything while the worker waits before it pays.
    let paying = Gate::new();
    let lose = format!("HSET {key} R ffffffffffffffffffffffffffffffff");
    let cases = [
        (&debt[..], "", "debt", "table public.other"),
        ("DELETE FROM redis_debt", "", "hit", ""),
        (&move_away, "", "identity", ""),
        ("RESET pg_cache.url", &lose, "generation", ""),
        ("UPDATE redis_server SET timeline = timeline + 1", "", "unregistered", ""),
    ];
    let _ = cached(&mut client, "k", query);
    scene.quiet();
    scene.set_faults(&paying.at("worker.pay"));
    for (sql, command, reason, because) in cases {
        run(&mut client, sql);
        if !command.is_empty() {
            scene.redis.cli(&command.split(' ').collect::<Vec<&str>>());
        }
        let (word, named) = status(&mut client, query);
        assert_eq!((word.as_str(), named.concat().as_str()), (reason, because));
        let (answer, counters) = counted(&mut client, |c| cached(c, "k", query));
        assert_eq!(answer, direct(&mut client, query), "{reason}");
        let counts = if reason == "hit" { counters.hits } else { counters.reason(reason) };
        assert_eq!(counts, 1, "{reason}: {counters:?}");
    }
    paying.open();
    repair(&mut client);
    // The worker still sweeps away what is old, and maybe the lease of who fills it anew.
    eventually(SOON, "it is a hit again", || {
        let _ = cached(&mut client, "k", query);
        status(&mut client, query) == ("hit".to_owned(), vec![])
    });
}

#[test]
fn a_schema_change_is_named_and_waited_for() {
    // Danger: an entry is used while the message of a schema change is on its way; or the change
    // shows as one of some table.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    repair(&mut client);
    let query = "SELECT id FROM t";
    let _ = cached(&mut client, "k", query);
    run(&mut client, "CREATE VIEW unrelated AS SELECT 1 AS a");
    assert_eq!(status(&mut client, query), ("changed".to_owned(), vec!["the schema".to_owned()]));
    let mut writer = scene.connect();
    run(&mut writer, "SET pg_cache.fault_point = 'commit.ended:sleep_1500'");
    let changing =
        std::thread::spawn(move || run(&mut writer, "CREATE VIEW visible AS SELECT 1 AS a"));
    let visible = "SELECT count(*) FROM pg_class WHERE relname = 'visible'";
    eventually(SOON, "it is visible", || count(&mut client, visible) == 1);
    // Its messages are not sent yet.
    let (answer, counters) = counted(&mut client, |c| cached(c, "k", query));
    assert_eq!(answer, direct(&mut client, query));
    assert_eq!(counters.reason("catalogue"), 1, "{counters:?}");
    changing.join().unwrap();
    let (_, counters) = counted(&mut client, |c| (cached(c, "k", query), cached(c, "k", query)));
    assert_eq!((counters.reason("catalogue"), counters.hits), (0, 1), "{counters:?}");
}

#[test]
fn a_condition_that_is_not_ours_tells_nothing() {
    // Danger: a row trigger that looks away at some rows, or notes another table, passes for ours.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    track(&mut client, "other", "{}");
    exact(&mut client, "SELECT id FROM other");
    let conditions = [
        ("redis_track_note('t'::regclass)", "", false),
        ("redis_track_note('other'::regclass) AND true", "", false),
        ("redis_track_note('other'::regclass) OR pg_trigger_depth() = 0", "", false),
        ("pg_trigger_depth() = 0", "", false),
        ("redis_track_note('other'::regclass)", "'id'", false),
        ("redis_track_note('other'::regclass)", "", true),
    ];
    for (condition, arguments, is_ours) in conditions {
        run(
            &mut client,
            &format!(
                "DROP TRIGGER redis_track_row ON other;
                 CREATE TRIGGER redis_track_row AFTER INSERT OR UPDATE OR DELETE ON other
                     FOR EACH ROW WHEN ({condition})
                     EXECUTE FUNCTION redis_track_row({arguments});
                 ALTER TABLE other ENABLE ALWAYS TRIGGER redis_track_row"
            ),
        );
        match is_ours {
            true => exact(&mut client, "SELECT id FROM other"),
            false => ttl_only(&mut client, "SELECT id FROM other", "A tracking trigger"),
        }
    }
}
