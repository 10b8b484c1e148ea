//! Databases that are not in UTF-8: their keys, queries, arguments and results go through whole.

use pg_cache_e2e::Scene;
use pg_cache_e2e::counters::{counted, value};
use postgres::Client;

/// A database in `encoding` on this scene's Redis, and a connection to it.
fn database(scene: &Scene, encoding: &str) -> Client {
    let name = format!("{}_{}", scene.database(), encoding.to_lowercase());
    scene
        .postgres()
        .connect()
        .batch_execute(&format!(
            "CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'"
        ))
        .unwrap();
    scene.prepare_database(&name);
    let mut client = scene.connect_to("postgres", &name);
    client.batch_execute("CREATE EXTENSION pg_cache").unwrap();
    scene.postgres().register(&name);
    client
}

/// An expression for the bytes of a value in hexadecimal, so that no conversion to the client's
/// encoding hides a difference.
fn hex(encoding: &str, value: &str) -> String {
    format!("encode(convert_to(({value})::text, '{encoding}'), 'hex')")
}

/// Calls twice and compares with PostgreSQL's own answer. Returns how often it was filled, served,
/// and refused by the encoding.
#[track_caller]
fn same(client: &mut Client, encoding: &str, key: &str, query: &str) -> (i64, i64, i64) {
    let own = format!("SELECT coalesce(json_agg(row_to_json(of_all)), '[]') FROM ({query}) of_all");
    let sql = format!("SELECT {}", hex(encoding, &own));
    let expected: String = client.query_one(&sql, &[]).unwrap().get(0);
    let sql =
        format!("SELECT {}", hex(encoding, &format!("redis_cached({key}, 60, $q${query}$q$)")));
    let ((), counters) = counted(client, |client| {
        for round in ["cold", "warm"] {
            let got = client.query_one(&sql, &[]);
            let got: String =
                got.unwrap_or_else(|e| panic!("{encoding}, {key}, {query}: {e:?}")).get(0);
            assert_eq!(got, expected, "{encoding}, {key}, {query}, {round}");
        }
    });
    (counters.fills, counters.hits, counters.reason("encoding"))
}

#[test]
fn a_database_in_another_encoding_is_served_in_its_own_and_stored_in_utf8() {
    // Danger: bytes of LATIN1 taken for UTF-8: a panic, or a mangled umlaut, here or in Redis.
    let scene = Scene::new();
    let words =
        [("LATIN1", "é"), ("LATIN9", "€"), ("WIN1252", "“é”"), ("EUC_JP", "日"), ("KOI8R", "мир")];
    for (encoding, word) in words {
        let mut client = database(&scene, encoding);
        client
            .batch_execute(&format!("CREATE TABLE \"t{word}\" AS SELECT '{word}' AS \"c{word}\""))
            .unwrap();
        let (key, query) = (format!("k:{word}"), format!("SELECT * FROM \"t{word}\""));
        assert_eq!(same(&mut client, encoding, "'ascii'", "SELECT 'x' AS v"), (1, 1, 0));
        let counts = same(&mut client, encoding, &format!("'{key}'"), &query);
        assert_eq!(counts, (1, 1, 0), "{encoding}");
        let stored = String::from_utf8(value(&scene.redis, &key).unwrap()).unwrap();
        assert_eq!(stored, format!(r#"[{{"c{word}":"{word}"}}]"#), "{encoding}");
        let sql = format!(
            "SELECT v FROM redis_cached_rows('r{word}', 60, 'SELECT $1 || ''{word}'' AS v',
             '{word}'::text) AS r(v text)"
        );
        for _ in 0..2 {
            let got = client.query_one(&sql, &[]).unwrap_or_else(|e| panic!("{encoding}: {e:?}"));
            assert_eq!(got.get::<_, String>(0), word.repeat(2), "{encoding}");
        }
        let sql = format!("SELECT redis_cached('k', 60, 'SELECT \"{word}\"')");
        let error = client.query_one(&sql, &[]).unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42703", "{encoding}");
        let sql = format!("SELECT redis_explain('{key}', $1)->>'status'");
        let status: String = client.query_one(&sql, &[&query]).unwrap().get(0);
        assert_eq!(status, "hit", "{encoding}");
        let flushed: i64 =
            client.query_one(&format!("SELECT redis_flush('k:{word}')"), &[]).unwrap().get(0);
        assert_eq!(flushed, 1, "{encoding}");
    }
}

#[test]
fn databases_in_two_encodings_share_a_redis() {
    // Danger: one of them reads the bytes that the other wrote.
    let scene = Scene::new();
    let mut clients = [database(&scene, "LATIN1"), database(&scene, "UTF8")];
    for _ in 0..3 {
        for (client, encoding) in clients.iter_mut().zip(["LATIN1", "UTF8"]) {
            same(client, encoding, "'é'", "SELECT 'é' AS v, getdatabaseencoding()::text AS e");
        }
    }
}

#[test]
fn what_has_no_utf8_is_returned_not_stored_and_counted() {
    // Danger: SQL_ASCII holds any bytes; a conversion that fails takes the answer with it.
    let scene = Scene::new();
    let mut client = database(&scene, "SQL_ASCII");
    let encoding = "SQL_ASCII";
    assert_eq!(same(&mut client, encoding, "'ascii'", "SELECT 'x' AS v"), (1, 1, 0));
    let counts = same(&mut client, encoding, "'k'", "SELECT chr(233) AS v");
    assert_eq!(counts, (0, 0, 2), "not UTF-8");
    assert_eq!(value(&scene.redis, "k"), None);
    let counts = same(&mut client, encoding, "chr(200) || chr(1)", "SELECT 'x' AS v");
    assert_eq!(counts, (1, 1, 0), "a key of any bytes");
    let counts = same(&mut client, encoding, "'u'", "SELECT chr(195) || chr(169) AS v");
    assert_eq!(counts, (1, 1, 0), "bytes that are UTF-8");
    assert_eq!(value(&scene.redis, "u").as_deref(), Some(r#"[{"v":"é"}]"#.as_bytes()));
}

#[test]
fn jobs_go_through_databases_of_every_encoding() {
    // Danger: a job whose id is written down in one encoding and looked for in another.
    let scene = Scene::new();
    for (encoding, word) in [("LATIN1", "é"), ("SQL_ASCII", "é"), ("EUC_JP", "日")] {
        let mut client = database(&scene, encoding);
        let queue = format!("q{word}{encoding}");
        client
            .batch_execute(&format!(
                "SET pg_cache.queue_visibility_ms = 50;
                 SELECT redis_enqueue('{queue}', '\"{word}\"', id => '{word}')"
            ))
            .unwrap();
        let sql = format!("SELECT id, payload::text FROM redis_dequeue('{queue}', wait => 10)");
        let row = client.query_one(&sql, &[]).unwrap();
        assert_eq!(row.get::<_, String>(0), word, "{encoding}");
        assert_eq!(row.get::<_, String>(1), format!("\"{word}\""), "{encoding}");
        let lost = "SET pg_cache.fault_point = 'events.send:panic'";
        let ack = format!("SELECT redis_ack('{queue}', '{word}')");
        client.batch_execute(&format!("{lost}; {ack}; RESET pg_cache.fault_point")).unwrap();
        let sql = format!("SELECT id FROM redis_dequeue('{queue}', wait => 0.3)");
        assert_eq!(client.query(&sql, &[]).unwrap().len(), 0, "{encoding}: it is done");
        let sql = format!("SELECT in_flight FROM redis_queues WHERE queue = '{queue}'");
        assert_eq!(client.query_one(&sql, &[]).unwrap().get::<_, i64>(0), 0, "{encoding}");
    }
    let mut ascii = scene.connect_to("postgres", &format!("{}_sql_ascii", scene.database()));
    let sql = "SELECT redis_enqueue('q', '1', id => convert_from('\\xff', 'SQL_ASCII'))";
    let error = ascii.batch_execute(sql).unwrap_err();
    assert_eq!(pg_cache_e2e::outcome::sqlstate(&error), "22021");
}
