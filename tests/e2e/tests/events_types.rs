//! Values in events and stored rows are what `row_to_json` makes of them, and what is excepted is
//! nowhere.

use pg_cache_e2e::Scene;
use pg_cache_e2e::events::{everything, get};
use pg_cache_e2e::registry::{count, repair};
use postgres::Client;

use crate::types::{LITERALS, all_types};

/// Compares every row of `t` with what stands under its key.
#[track_caller]
fn compare(scene: &Scene, client: &mut Client, what: &str) -> usize {
    let rows = client.query("SELECT id, row_to_json(t)::text FROM t ORDER BY id", &[]).unwrap();
    for row in &rows {
        let (id, own): (i32, String) = (row.get(0), row.get(1));
        let got = get(&scene.redis, &format!("v:{id}"));
        assert_eq!(got.as_deref(), Some(&own[..]), "{what}, row {id}");
    }
    rows.len()
}

fn table(client: &mut Client, column: &str) {
    client
        .batch_execute(&format!(
            "DROP TABLE IF EXISTS t; CREATE TABLE t (id int, v {column}, \"a \"\"b\"\"\" int);
             CREATE TRIGGER e AFTER INSERT ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_store('v:{{id}}')"
        ))
        .unwrap_or_else(|error| panic!("{column}: {error:?}"));
}

#[test]
fn every_built_in_type_is_written_as_row_to_json_does() {
    // Danger: a number that is a string in events, or a date that hangs on another setting.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let mut types = all_types(&mut client);
    types.retain(|name| name != "cstring[]");
    let mut compared = 0;
    for (number, name) in types.iter().enumerate() {
        let is_odd = number % 2 == 1;
        let settings = match is_odd {
            true => {
                "SET timezone = 'Asia/Tokyo'; SET datestyle = 'SQL, DMY'; \
                     SET extra_float_digits = -3; SET bytea_output = escape"
            }
            false => {
                "RESET timezone; RESET datestyle; RESET extra_float_digits; RESET bytea_output"
            }
        };
        client.batch_execute(settings).unwrap();
        table(&mut client, name);
        let literals: Vec<&str> = LITERALS.to_vec();
        client.execute("SELECT set_config('my.type', $1, false)", &[name]).unwrap();
        client.execute("CREATE TEMP TABLE IF NOT EXISTS lit (l text[])", &[]).unwrap();
        client.execute("DELETE FROM lit", &[]).unwrap();
        client.execute("INSERT INTO lit VALUES ($1)", &[&literals]).unwrap();
        client
            .batch_execute(
                "DO $$ DECLARE l text; n int := 0; BEGIN
                   FOREACH l IN ARRAY (SELECT lit.l FROM lit) LOOP
                     n := n + 1;
                     BEGIN
                       EXECUTE format('INSERT INTO t VALUES (%s, %L::%s)', n, l,
                                      current_setting('my.type'));
                     EXCEPTION WHEN others THEN NULL; END;
                   END LOOP;
                   INSERT INTO t VALUES (0, NULL);
                 END $$",
            )
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        compared += compare(&scene, &mut client, name);
    }
    println!("{compared} values of {} types", types.len());
    assert!(compared > 1000, "{compared}");
}

#[test]
fn types_of_the_users_own_are_written_as_row_to_json_does() {
    // Danger: enums, domains, composites, ranges and what has a cast to json of its own.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    client
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('sad', 'o''k', 'glad \"x\"');
             CREATE DOMAIN positive AS numeric(10, 2) CHECK (VALUE > 0);
             CREATE TYPE pair AS (a int, b text);
             CREATE TYPE nest AS (p pair, list pair[], m mood);
             CREATE TYPE span AS RANGE (SUBTYPE = float8);
             CREATE DOMAIN pairs AS pair[];
             CREATE FUNCTION shown(span) RETURNS json LANGUAGE sql IMMUTABLE
                 AS $$ SELECT json_build_object('from', lower($1), 'to', upper($1)) $$;
             CREATE CAST (span AS json) WITH FUNCTION shown(span)",
        )
        .unwrap();
    for (name, value) in [
        ("mood", "'glad \"x\"'::mood"),
        ("mood[]", "ARRAY['sad', NULL, 'o''k']::mood[]"),
        ("positive", "1.10::positive"),
        ("pair", "ROW(1, 'x,\"y\"')::pair"),
        ("pair", "ROW(NULL, NULL)::pair"),
        ("pair[]", "ARRAY[ROW(1, 'a'), NULL, ROW(NULL, '')]::pair[]"),
        ("nest", "ROW(ROW(1, 'a'), ARRAY[ROW(2, 'b')::pair], 'sad')::nest"),
        ("span", "span(0.1, 0.3)"),
        ("span[]", "ARRAY[span(0.1, NULL), 'empty']"),
        ("pairs", "ARRAY[ROW(1, 'a')::pair]::pairs"),
        ("int[]", "'[2:4]={1,2,3}'::int[]"),
        ("text", "repeat('é\"', 50000)"),
        ("jsonb", "jsonb_build_object('a', repeat('x', 100000))"),
    ] {
        table(&mut client, name);
        client.batch_execute(&format!("INSERT INTO t VALUES (1, {value}, 2)")).unwrap();
        assert_eq!(compare(&scene, &mut client, name), 1);
    }
}

#[test]
fn what_is_excepted_is_nowhere_in_redis() {
    // Danger: a password hash stands in a stream, a stored row, a job, a key, or a message.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut triggers = String::new();
    for (number, what) in
        ["redis_stream('s:{id}'", "redis_store('t:{id}'", "redis_job('q'", "redis_publish('c'"]
            .into_iter()
            .enumerate()
    {
        triggers += &format!(
            "CREATE TRIGGER e{number} AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW
                 EXECUTE FUNCTION {what}, 'except=hash,big');"
        );
    }
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id int, hash text, v text, big text, PRIMARY KEY (id, hash));
             CREATE TRIGGER h AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_store('h:{{id}}', 'as=hash', 'except=hash,big');{triggers}"
        ))
        .unwrap();
    repair(&mut client);
    let heard = scene.redis.client();
    let mut heard = heard;
    let mut heard = heard.as_pubsub();
    heard.subscribe("c").unwrap();
    client
        .batch_execute(
            "INSERT INTO t SELECT g, 'hunter2', 'plain', 'hunter2' || repeat('y', 50000)
               FROM generate_series(1, 5) g;
             UPDATE t SET v = 'other'; UPDATE t SET hash = 'hunter2b'; DELETE FROM t WHERE id > 3",
        )
        .unwrap();
    let all = everything(&scene.redis);
    assert!(all.contains("other"), "the search finds what is there");
    assert!(!all.contains("hunter2"));
    heard.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    for _ in 0..12 {
        let message: String = heard.get_message().unwrap().get_payload().unwrap();
        assert!(message.contains("\"v\":") && !message.contains("hunter2"), "{message}");
    }
}

#[test]
fn what_is_excepted_is_not_even_read() {
    // Danger: a secret is written out and then left out: whoever can raise an error in between, or
    // reads the outbox, has it. Here whoever writes one of two types out fails.
    let mut scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TYPE silent;
             CREATE FUNCTION silent_in(cstring) RETURNS silent
                 LANGUAGE internal IMMUTABLE STRICT AS 'textin';
             CREATE FUNCTION silent_out(silent) RETURNS cstring
                 LANGUAGE internal IMMUTABLE STRICT AS 'any_out';
             CREATE TYPE silent (INPUT = silent_in, OUTPUT = silent_out, LIKE = text);
             CREATE TYPE word AS ENUM ('hunter2', 'hunter3');
             CREATE FUNCTION word_json(word) RETURNS json LANGUAGE plpgsql
                 AS $$ BEGIN RAISE 'read: %', $1; END $$;
             CREATE CAST (word AS json) WITH FUNCTION word_json(word)",
        )
        .unwrap();
    for kind in ["publish('c'", "stream('s'", "job('q'", "store('t:{id}'", "store('h', 'as=hash'"] {
        for durable in ["", ", 'durable'"] {
            let table = |except: &str| {
                format!(
                    "DROP TABLE IF EXISTS t;
                     CREATE TABLE t (id int PRIMARY KEY, a silent, b word, v text);
                     CREATE TRIGGER e AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW
                         EXECUTE FUNCTION redis_{kind}{except}{durable});"
                )
            };
            for except in ["'except=a'", "'except=b'"] {
                let sql = table(&format!(", {except}"));
                client.batch_execute(&sql).unwrap();
                let insert = "INSERT INTO t VALUES (1, 'hunter2', 'hunter2', 'plain')";
                client.batch_execute(insert).expect_err("the other one is read");
            }
            client.batch_execute(&table(", 'except=a,b'")).unwrap();
            for sql in [
                "INSERT INTO t VALUES (1, 'hunter2', 'hunter2', 'plain')",
                "UPDATE t SET a = 'hunter2b', b = 'hunter3'",
                "UPDATE t SET v = 'other'",
                "UPDATE t SET id = 2",
                "DELETE FROM t",
            ] {
                client
                    .batch_execute(sql)
                    .unwrap_or_else(|e| panic!("{kind}{durable}: {sql}: {e:?}"));
            }
        }
    }
    // What waits in the outbox is whole there.
    scene.redis.stop();
    let wait = "INSERT INTO t VALUES (3, 'hunter2', 'hunter2', 'plain')";
    client.batch_execute(&format!("BEGIN; {wait}; PREPARE TRANSACTION 'excepted'")).unwrap();
    client.batch_execute("COMMIT PREPARED 'excepted'").unwrap();
    let holds = |text: &str| {
        format!("SELECT count(*) FROM redis_outbox WHERE position('{text}'::bytea IN message) > 0")
    };
    assert!(count(&mut client, &holds("plain")) >= 1, "the search finds what is there");
    assert_eq!(count(&mut client, &holds("hunter")), 0);
}

#[test]
fn a_database_in_another_encoding_sends_utf8() {
    // Danger: bytes of LATIN1 that no JSON parser takes.
    let scene = Scene::new();
    let name = format!("{}_latin1", scene.database());
    let mut admin = scene.connect();
    admin
        .batch_execute(&format!(
            "CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'"
        ))
        .unwrap();
    scene.prepare_database(&name);
    scene.postgres().create_extension(&name);
    scene.postgres().register(&name);
    let mut client = scene.connect_to("postgres", &name);
    client
        .batch_execute(
            "CREATE TABLE t (id int, \"größe\" text, j json);
             CREATE TRIGGER e AFTER INSERT ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_store('é:{id}', 'columns=größe,j');
             INSERT INTO t VALUES (1, 'ünï', '{\"ä\": \"ö\"}')",
        )
        .unwrap();
    let found = get(&scene.redis, "é:1");
    assert_eq!(found.as_deref(), Some("{\"größe\":\"ünï\",\"j\":{\"ä\": \"ö\"}}"));
}
