//! Databases and clusters that share a Redis never read each other's entries.

use pg_cache_e2e::counters::{counted, value};
use pg_cache_e2e::{Scene, cached, same_as_direct};
use pg_cache_testbed::{Postgres, eventually};
use postgres::Client;

const QUERY: &str = "SELECT v FROM t";

fn answer(word: &str) -> Result<String, String> {
    Ok(format!(r#"[{{"v":"{word}"}}]"#))
}

fn fill(client: &mut Client, word: &str) {
    client.batch_execute(&format!("CREATE TABLE t AS SELECT '{word}' AS v")).unwrap();
}

#[test]
fn the_same_key_and_query_in_two_databases_are_two_things() {
    // Danger: staging reads production, or one customer's database another's.
    let scene = Scene::new();
    let second = format!("{}_b", scene.database());
    scene.create_database(&second);
    let mut first = scene.connect();
    let mut other = scene.connect_to("postgres", &second);
    fill(&mut first, "first");
    fill(&mut other, "second");
    for _ in 0..3 {
        assert_eq!(cached(&mut first, "k", QUERY), answer("first"));
        let (got, counters) = counted(&mut other, |c| cached(c, "k", QUERY));
        assert_eq!(got, answer("second"));
        assert_eq!(counters.reason("fingerprint"), 1, "they overwrite each other: {counters:?}");
        assert_eq!(cached(&mut other, "k", QUERY), answer("second"));
    }
}

#[test]
fn a_database_copied_from_another_is_not_the_other() {
    // Danger: CREATE DATABASE … TEMPLATE copies every oid; only the database's own differs.
    let scene = Scene::new();
    let mut first = scene.connect();
    fill(&mut first, "first");
    cached(&mut first, "k", QUERY).unwrap();
    drop(first);
    let copy = format!("{}_copy", scene.database());
    let mut admin = scene.postgres().connect();
    let sql = format!("CREATE DATABASE {copy} TEMPLATE {}", scene.database());
    // The closed session's backend may need a moment to be gone.
    eventually(std::time::Duration::from_secs(10), "the copy", || {
        admin.batch_execute(&sql).is_ok()
    });
    scene.prepare_database(&copy);
    let mut other = scene.connect_to("postgres", &copy);
    other.batch_execute("UPDATE t SET v = 'copied'").unwrap();
    assert_eq!(cached(&mut other, "k", QUERY), answer("copied"));
    let mut first = scene.connect();
    assert_eq!(cached(&mut first, "k", QUERY), answer("first"));
}

#[test]
fn a_database_dropped_and_made_again_does_not_read_what_it_left() {
    // Danger: the same name, the same oids of its tables, the old entries.
    let scene = Scene::new();
    let name = format!("{}_again", scene.database());
    for word in ["old", "new"] {
        scene.create_database(&name);
        let mut client = scene.connect_to("postgres", &name);
        fill(&mut client, word);
        assert_eq!(cached(&mut client, "k", QUERY), answer(word));
        drop(client);
        let mut admin = scene.postgres().connect();
        admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).unwrap();
    }
}

#[test]
fn two_clusters_on_one_redis_are_two_things() {
    // Danger: the oids of two clusters are the same, and so may be the names.
    let scene = Scene::new();
    let url = scene.redis.url();
    let second = Postgres::start_fresh(&[("pg_cache.url", &url)]);
    let third = Postgres::start_fresh(&[("pg_cache.url", &url)]);
    let mut clients = [second.connect(), third.connect()];
    for (client, word) in clients.iter_mut().zip(["second", "third"]) {
        fill(client, word);
    }
    let sql = "SELECT 't'::regclass::oid || ' ' || oid FROM pg_database WHERE datname = 'test'";
    let oids: Vec<String> =
        clients.iter_mut().map(|c| c.query_one(sql, &[]).unwrap().get(0)).collect();
    assert_eq!(oids[0], oids[1], "the test is about clusters that look alike");
    for _ in 0..2 {
        for (client, word) in clients.iter_mut().zip(["second", "third"]) {
            assert_eq!(cached(client, "k", QUERY), answer(word));
        }
    }
}

#[test]
fn flushing_one_database_leaves_the_other_its_entries() {
    // Danger: a developer flushes the cache of production.
    let scene = Scene::new();
    let second = format!("{}_b", scene.database());
    scene.create_database(&second);
    let mut first = scene.connect();
    let mut other = scene.connect_to("postgres", &second);
    fill(&mut first, "first");
    fill(&mut other, "second");
    for number in 0..20 {
        same_as_direct(&mut first, &format!("first:{number}"), QUERY).unwrap();
        same_as_direct(&mut other, &format!("second:{number}"), QUERY).unwrap();
    }
    let flushed: i64 = first.query_one("SELECT redis_flush()", &[]).unwrap().get(0);
    assert_eq!(flushed, 20);
    assert_eq!(value(&scene.redis, "first:0"), None);
    assert!(value(&scene.redis, "second:0").is_some());
    assert_eq!(counted(&mut other, |c| cached(c, "second:19", QUERY)).1.hits, 1);
}

#[test]
fn connections_say_whose_they_are() {
    // Danger: an administrator of Redis cannot tell whose connection eats it.
    let scene = Scene::new();
    let mut client = scene.connect();
    let list = || scene.redis.cli(&["CLIENT", "LIST"]);
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let name = format!("name=pg_cache:{}:{pid} ", scene.database());
    assert!(!list().contains(&name), "opened when it is first needed");
    for number in 0..20 {
        cached(&mut client, &format!("k:{number}"), "SELECT 1 AS v").unwrap();
    }
    assert_eq!(list().matches(&name).count(), 1, "{}", list());
    let line = list().lines().find(|line| line.contains(&name)).unwrap().to_owned();
    assert!(line.contains("resp=3"), "{line}");
    drop(client);
    eventually(std::time::Duration::from_secs(5), "it goes with its backend", || {
        !list().contains(&name)
    });
}
