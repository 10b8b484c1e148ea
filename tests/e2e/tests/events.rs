//! What triggers and functions send leaves with the commit: in order, once, and only then.

use pg_cache_e2e::Scene;
use pg_cache_e2e::counters::{commands, forget_commands};
use pg_cache_e2e::events::{entries, events, get, told};
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
    let found = events(&scene.redis, "s");
    let all = ["op", "schema", "table", "key", "new", "old", "changed", "xid", "at"];
    for event in &found {
        let members: Vec<&str> = event.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, all);
    }
    let what = |e: &Value| {
        json!([e["op"], e["schema"], e["table"], e["key"], e["new"], e["old"], e["changed"]])
    };
    let what: Vec<Value> = found.iter().map(what).collect();
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

#[test]
fn an_event_names_its_transaction_and_its_time() {
    // Danger: events of one transaction cannot be put together again.
    let scene = Scene::new();
    let mut client = streaming(&scene);
    let mut transaction = client.transaction().unwrap();
    let row = transaction
        .query_one(
            "SELECT pg_current_xact_id()::text, to_json(now() AT TIME ZONE 'UTC')::text",
            &[],
        )
        .unwrap();
    let (xid, now): (String, String) = (row.get(0), row.get(1));
    transaction
        .batch_execute(
            "SET TIME ZONE 'Asia/Tokyo'; INSERT INTO t VALUES (1);
             SAVEPOINT a; INSERT INTO t VALUES (2); SAVEPOINT b; INSERT INTO t VALUES (3);
             RELEASE a; INSERT INTO t VALUES (4)",
        )
        .unwrap();
    transaction.commit().unwrap();
    let found = events(&scene.redis, "s");
    assert_eq!(found.len(), 4);
    for event in found {
        // Not that of the savepoint, which has one of its own.
        assert_eq!(event["xid"].to_string(), xid, "{event}");
        assert_eq!(event["at"].as_str().unwrap(), format!("{}+00:00", now.trim_matches('"')));
    }
}

#[test]
fn what_no_rollback_took_leaves_in_order() {
    // Danger: an event of a change that never was, or one that overtakes another.
    let scene = Scene::new();
    let mut client = streaming(&scene);
    let insert = |id: i32| format!("INSERT INTO t VALUES ({id});");
    for (sql, expected) in [
        (format!("BEGIN; {}{} COMMIT", insert(1), insert(2)), "1 2"),
        (format!("BEGIN; {} ROLLBACK", insert(3)), ""),
        (
            format!(
                "BEGIN; {} SAVEPOINT a; {} SAVEPOINT b; {} ROLLBACK TO b; {} RELEASE a; {} COMMIT",
                insert(3),
                insert(4),
                insert(5),
                insert(6),
                insert(7)
            ),
            "3 4 6 7",
        ),
        (
            format!(
                "BEGIN; SAVEPOINT a; {} SAVEPOINT b; {} RELEASE b; ROLLBACK TO a; {} COMMIT",
                insert(8),
                insert(9),
                insert(10)
            ),
            "10",
        ),
        (
            format!(
                "DO $$ BEGIN {} BEGIN {} PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN {} \
                 END; {} END $$",
                insert(11),
                insert(12),
                insert(13),
                insert(14)
            ),
            "11 13 14",
        ),
        (
            format!(
                "DO $$ BEGIN {} COMMIT; {} ROLLBACK; {} END $$",
                insert(15),
                insert(16),
                insert(17)
            ),
            "15 17",
        ),
        ("INSERT INTO t SELECT generate_series(20, 25)".to_owned(), "20 21 22 23 24 25"),
        ("INSERT INTO t VALUES (30), (30)".to_owned(), ""),
        ("INSERT INTO t VALUES (30) ON CONFLICT (id) DO UPDATE SET v = 'x'".to_owned(), "30"),
        ("INSERT INTO t VALUES (30) ON CONFLICT (id) DO NOTHING".to_owned(), ""),
    ] {
        scene.redis.cli(&["DEL", "s"]);
        let _ = client.batch_execute(&sql);
        let _ = client.batch_execute("ROLLBACK");
        assert_eq!(told(&scene.redis, "s", "id").join(" "), expected, "{sql}");
    }
}

#[test]
fn many_events_of_one_statement_arrive_each_once_in_order() {
    // Danger: where one batch of events ends and the next begins, one is lost, doubled or cut; or a
    // rollback takes what stands in one batch with what it undoes, or leaves that.
    let scene = Scene::new();
    let mut client = streaming(&scene);
    let insert = |from: i32, to: i32| {
        format!("INSERT INTO t SELECT g, repeat('x', g % 700) FROM generate_series({from}, {to}) g")
    };
    let sql = [
        "SET pg_cache.commit_timeout_ms = 10000; BEGIN".to_owned(),
        insert(1, 2000),
        "SAVEPOINT a".to_owned(),
        insert(2001, 4000),
        "SELECT redis_publish('c', 'between')".to_owned(),
        "ROLLBACK TO a".to_owned(),
        insert(4001, 5000),
        "RELEASE a".to_owned(),
        insert(5001, 6000),
        "SELECT redis_publish('c', 'between')".to_owned(),
        insert(6001, 6100),
        "COMMIT".to_owned(),
    ];
    client.batch_execute(&sql.join(";\n")).unwrap();
    let expected: Vec<i32> = (1..=2000).chain(4001..=6100).collect();
    let rows: Vec<(i32, usize)> = events(&scene.redis, "s")
        .iter()
        .map(|event| (event["new"]["id"].as_i64().unwrap() as i32, text(&event["new"]["v"]).len()))
        .collect();
    assert!(rows.iter().map(|(id, _)| *id).eq(expected), "{} events", rows.len());
    assert!(rows.iter().all(|(id, length)| *length == *id as usize % 700));
    let counted = client.query_one("SELECT sent, lost FROM redis_stat_commit", &[]).unwrap();
    assert_eq!((counted.get::<_, i64>(0), counted.get::<_, i64>(1)), (4101, 0));
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn copies_cascades_and_merges_send_too() {
    // Danger: a bulk load, or a row that goes with its parent, leaves subscribers behind.
    let scene = Scene::new();
    let mut client = streaming(&scene);
    client
        .batch_execute(
            "CREATE TABLE parent (id int PRIMARY KEY);
             ALTER TABLE t ADD FOREIGN KEY (id) REFERENCES parent ON DELETE CASCADE;
             INSERT INTO parent VALUES (1), (2), (3)",
        )
        .unwrap();
    let mut copy = client.copy_in("COPY t FROM STDIN").unwrap();
    std::io::Write::write_all(&mut copy, b"1\ta\tx\n2\tb\tx\n").unwrap();
    copy.finish().unwrap();
    client
        .batch_execute(
            "MERGE INTO t USING (VALUES (2), (3)) AS s(id) ON t.id = s.id
                 WHEN MATCHED THEN UPDATE SET v = 'm'
                 WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'n');
             DELETE FROM parent WHERE id = 1",
        )
        .unwrap();
    let ops = events(&scene.redis, "s");
    let ops: Vec<String> =
        ops.iter().map(|event| format!("{} {}", event["op"], event["key"]["id"])).collect();
    let expected = ["INSERT 1", "INSERT 2", "UPDATE 2", "INSERT 3", "DELETE 1"];
    assert_eq!(ops, expected.map(|op| op.replacen(' ', "\" ", 1).replacen("", "\"", 1)));
}

#[test]
fn a_partition_speaks_in_the_name_of_its_root() {
    // Danger: subscribers of `orders` hear of `orders_2026_11`, which they do not know.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE SCHEMA shop;
             CREATE TABLE shop.orders (id int, day int, v text, PRIMARY KEY (day, id))
                 PARTITION BY LIST (day);
             CREATE TABLE shop.orders_1 PARTITION OF shop.orders FOR VALUES IN (1);
             CREATE TABLE shop.orders_2 (v text, dropped int, day int NOT NULL, id int NOT NULL);
             ALTER TABLE shop.orders_2 DROP COLUMN dropped;
             ALTER TABLE shop.orders ATTACH PARTITION shop.orders_2 FOR VALUES IN (2);
             CREATE TABLE shop.orders_3 PARTITION OF shop.orders FOR VALUES IN (3)
                 PARTITION BY RANGE (id);
             CREATE TABLE orders_3_1 PARTITION OF shop.orders_3 FOR VALUES FROM (0) TO (100);
             CREATE TRIGGER e AFTER INSERT OR UPDATE OR DELETE ON shop.orders FOR EACH ROW
                 EXECUTE FUNCTION redis_stream('day:{day}', 'columns=id,v');",
        )
        .unwrap();
    repair(&mut client);
    client
        .batch_execute(
            "INSERT INTO shop.orders VALUES (7, 1, 'a');
             INSERT INTO shop.orders_2 VALUES ('b', 2, 8);
             INSERT INTO shop.orders VALUES (9, 3, 'c');
             INSERT INTO orders_3_1 VALUES (10, 3, 'd');
             UPDATE shop.orders SET day = 2 WHERE id = 7",
        )
        .unwrap();
    let seen = |stream: &str| {
        let told = events(&scene.redis, stream);
        let line = |e: &Value| format!("{} {} {} {}", e["op"], e["schema"], e["table"], e["key"]);
        told.iter().map(line).collect::<Vec<_>>().join("; ").replace('"', "")
    };
    assert_eq!(seen("day:1"), "INSERT shop orders {id:7,day:1}; DELETE shop orders {id:7,day:1}");
    assert_eq!(seen("day:2"), "INSERT shop orders {day:2,id:8}; INSERT shop orders {day:2,id:7}");
    // Not in that of its parent, which is a partition too.
    assert_eq!(seen("day:3"), "INSERT shop orders {id:9,day:3}; INSERT shop orders {id:10,day:3}");
}

#[test]
fn when_and_columns_say_which_updates_count() {
    // Danger: a counter that changes at every click floods the subscribers of the status; or who
    // asked for nothing but the id of what changed its status hears of no change.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, status text, clicks int, big text);
             ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
             CREATE TRIGGER a AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_stream('when', 'when=status');
             CREATE TRIGGER b AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_stream('columns', 'columns=status,big');
             CREATE TRIGGER c AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_stream('both', 'columns=id,big', 'when=status');",
        )
        .unwrap();
    repair(&mut client);
    client
        .batch_execute(
            "INSERT INTO t VALUES (1, 'new', 0, repeat('x', 10000));
             UPDATE t SET clicks = clicks + 1;
             UPDATE t SET status = 'paid', clicks = 9;
             UPDATE t SET big = repeat('x', 9999) || 'x';
             UPDATE t SET big = NULL;
             DELETE FROM t",
        )
        .unwrap();
    let changes = |stream: &str| {
        let told = events(&scene.redis, stream);
        let line = |e: &Value| format!("{} {}", e["op"].as_str().unwrap(), e["changed"]);
        told.iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(changes("when"), ["INSERT null", r#"UPDATE ["status","clicks"]"#, "DELETE null"]);
    assert_eq!(
        changes("columns"),
        ["INSERT null", r#"UPDATE ["status"]"#, r#"UPDATE ["big"]"#, "DELETE null"]
    );
    assert_eq!(changes("both"), ["INSERT null", "UPDATE []", "DELETE null"]);
}

#[test]
fn without_a_primary_key_the_replica_identity_tells_rows_apart() {
    // Danger: a key that is not one; or none, because its check may be deferred.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TABLE a (x int NOT NULL, y int); CREATE UNIQUE INDEX ax ON a (x);
             ALTER TABLE a REPLICA IDENTITY USING INDEX ax;
             CREATE TABLE b (x int); CREATE TABLE c (x int PRIMARY KEY, y int);
             CREATE TABLE d (y int, z int, x int, PRIMARY KEY (x, y) DEFERRABLE);
             CREATE TABLE f (y int NOT NULL, x int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);
             CREATE UNIQUE INDEX fy ON f (y); ALTER TABLE f REPLICA IDENTITY USING INDEX fy;
             CREATE TABLE g (y int, x int, PRIMARY KEY (x) DEFERRABLE) PARTITION BY LIST (x);
             CREATE TABLE g1 (x int NOT NULL, y int); ALTER TABLE g ATTACH PARTITION g1 DEFAULT;",
        )
        .unwrap();
    for table in ["a", "b", "c", "d", "f", "g"] {
        let except = if table == "c" { ", 'except=x'" } else { "" };
        client
            .batch_execute(&format!(
                "CREATE TRIGGER e AFTER INSERT ON {table} FOR EACH ROW
                     EXECUTE FUNCTION redis_stream('{table}'{except})"
            ))
            .unwrap();
    }
    repair(&mut client);
    client
        .batch_execute(
            "INSERT INTO a VALUES (1, 2); INSERT INTO b VALUES (1);
             INSERT INTO c VALUES (1, 2); INSERT INTO d VALUES (1, 2, 3);
             INSERT INTO f VALUES (1, 2); INSERT INTO g VALUES (1, 2)",
        )
        .unwrap();
    for (table, key) in [
        ("a", json!({"x": 1})),
        ("b", json!(null)),
        ("c", json!({})),
        ("d", json!({"y": 1, "x": 3})),
        ("f", json!({"x": 2})),
        ("g", json!({"x": 2})),
    ] {
        assert_eq!(events(&scene.redis, table)[0]["key"], key, "{table}");
    }
}

#[test]
fn functions_send_with_the_commit_without_an_id() {
    // Danger: a message of a rolled-back transaction; or a transaction ID burnt for each message.
    let scene = Scene::new();
    let mut client = streaming(&scene);
    let mut redis = scene.redis.client();
    let mut heard = redis.as_pubsub();
    heard.subscribe("c").unwrap();
    heard.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    client
        .batch_execute(
            "BEGIN; SELECT redis_publish('c', 'lost'); ROLLBACK;
             BEGIN READ ONLY; SELECT redis_publish('c', 'read only');
             SELECT redis_at_commit('SET', 'k', 'v'); COMMIT",
        )
        .unwrap();
    let row = client
        .query_one("SELECT redis_publish('c', 'ünï'), txid_current_if_assigned() IS NULL", &[])
        .unwrap();
    assert!(row.get::<_, bool>(1));
    for expected in ["read only", "ünï"] {
        let message: String = heard.get_message().unwrap().get_payload().unwrap();
        assert_eq!(message, expected);
    }
    assert_eq!(get(&scene.redis, "k").as_deref(), Some("v"));
}

#[test]
fn messages_of_all_kinds_keep_their_order() {
    // Danger: the job that says "send the mail" is run before the key it reads is there.
    let scene = Scene::new();
    let mut client = streaming(&scene);
    client
        .batch_execute(
            "CREATE TRIGGER f AFTER INSERT ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_job('mailer', 'columns=id')",
        )
        .unwrap();
    scene.redis.cli(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    client
        .batch_execute(
            "BEGIN; SELECT redis_at_commit('RPUSH', 'order', 'first'); INSERT INTO t VALUES (1);
             SELECT redis_at_commit('EVAL', 'return redis.call(''RPUSH'', KEYS[1],
                 redis.call(''XLEN'', ''s'') + redis.call(''XLEN'', ''mailer''))', '1', 'order');
             COMMIT",
        )
        .unwrap();
    let order: Vec<String> =
        redis::cmd("LRANGE").arg("order").arg(0).arg(-1).query(&mut scene.redis.client()).unwrap();
    assert_eq!(order, ["first", "2"]);
    let job = &entries(&scene.redis, "mailer")[0];
    let names: Vec<&str> = job.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["id", "payload"]);
    assert_eq!(job[0].1.len(), 32);
    let payload: Value = serde_json::from_str(&job[1].1).unwrap();
    assert_eq!((&payload["op"], &payload["new"]), (&json!("INSERT"), &json!({"id": 1})));
}

#[test]
fn a_commit_with_events_costs_one_round_trip() {
    // Danger: a question to Redis for each message, or one before the first.
    let scene = Scene::alone();
    let mut client = streaming(&scene);
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    forget_commands(&scene);
    client.batch_execute("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(commands(&scene.redis), [("xadd".to_owned(), 1)].into());
    forget_commands(&scene);
    client.batch_execute("INSERT INTO t SELECT generate_series(3, 100)").unwrap();
    assert_eq!(commands(&scene.redis), [("xadd".to_owned(), 98)].into());
    forget_commands(&scene);
    client.batch_execute("BEGIN; INSERT INTO t VALUES (101); ROLLBACK").unwrap();
    assert_eq!(commands(&scene.redis), [].into());
}

#[test]
fn a_stream_is_kept_short() {
    // Danger: a stream that nobody trims fills Redis.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TABLE t (id int);
             CREATE TRIGGER e AFTER INSERT ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_stream('s', 'maxlen=100')",
        )
        .unwrap();
    repair(&mut client);
    client.batch_execute("INSERT INTO t SELECT generate_series(1, 5000)").unwrap();
    let length: i64 = redis::cmd("XLEN").arg("s").query(&mut scene.redis.client()).unwrap();
    assert!((100..400).contains(&length), "{length}");
    assert_eq!(told(&scene.redis, "s", "id").last().map(String::as_str), Some("5000"));
}

#[test]
fn names_have_the_databases_prefix_but_channels() {
    // Danger: two databases on one Redis write into one stream.
    let scene = Scene::new();
    let mut client = streaming(&scene);
    client
        .batch_execute(
            "SELECT redis_register('app:');
             CREATE TRIGGER f AFTER INSERT ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_store('t:{id}')",
        )
        .unwrap();
    repair(&mut client);
    client.batch_execute("INSERT INTO t VALUES (1, 'a')").unwrap();
    assert_eq!(told(&scene.redis, "app:s", "id"), ["1"]);
    assert_eq!(get(&scene.redis, "app:t:1").as_deref(), Some(r#"{"id":1,"v":"a","secret":null}"#));
}
