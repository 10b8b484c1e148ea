//! Nothing that was cached before is served in a database that only looks like the one that cached
//! it: a new extension, a copied database, a new cluster, a restored data directory.

use std::time::Duration;

use pg_cache_e2e::counters::counted;
use pg_cache_e2e::outcome::explained;
use pg_cache_e2e::registry::repair;
use pg_cache_e2e::{cached, direct, same_as_direct};
use pg_cache_testbed::{Pair, Postgres, eventually};
use postgres::Client;

const QUERY: &str = "SELECT v FROM t";
const OLD: &str = r#"[{"v":"old"}]"#;
const NEW: &str = r#"[{"v":"new"}]"#;

/// What happens to the database in which `t` says 'old', and the one that comes after it, where `t`
/// says 'new' and nobody has told Redis so. The server, if it is another one, must outlive it.
type Event = fn(&mut Pair, Client) -> (Client, Option<Postgres>);

/// In this order on one pair of servers: the last one is one cluster too many for them.
const EVENTS: [(&str, Event); 4] = [
    ("CREATE DATABASE … TEMPLATE", copied_database),
    ("a new cluster of the same schema", new_cluster),
    ("DROP and CREATE EXTENSION", new_extension),
    ("a restored copy of the data directory", restored_directory),
];

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

fn create(client: &mut Client, v: &str) {
    run(client, &format!("CREATE TABLE t AS SELECT '{v}' AS v; SELECT redis_track('t')"));
}

/// Changes `t` so that no trigger notes it, and no event trigger that none did.
fn change_untold(client: &mut Client) {
    let switch = |client: &mut Client, state: &str| {
        for trigger in ["pg_cache_ddl_start", "pg_cache_ddl_end", "pg_cache_sql_drop"] {
            run(client, &format!("ALTER EVENT TRIGGER {trigger} {state}"));
        }
    };
    switch(client, "DISABLE");
    run(client, "ALTER TABLE t DISABLE TRIGGER ALL");
    run(client, "UPDATE t SET v = 'new'");
    for trigger in ["redis_track_row", "redis_track_truncate"] {
        run(client, &format!("ALTER TABLE t ENABLE ALWAYS TRIGGER {trigger}"));
    }
    switch(client, "ENABLE ALWAYS");
}

fn new_extension(pair: &mut Pair, mut client: Client) -> (Client, Option<Postgres>) {
    run(&mut client, "DROP EXTENSION pg_cache CASCADE");
    run(&mut client, "UPDATE t SET v = 'new'");
    run(&mut client, "CREATE EXTENSION pg_cache");
    run(&mut client, "SELECT redis_track('t')");
    (pair.postgres.connect(), None)
}

fn copied_database(pair: &mut Pair, client: Client) -> (Client, Option<Postgres>) {
    drop(client);
    let mut admin = pair.postgres.connect_as("postgres", "postgres");
    // The closed session's backend may need a moment to be gone.
    eventually(Duration::from_secs(20), "the copy", || {
        admin.batch_execute("CREATE DATABASE copy TEMPLATE test").is_ok()
    });
    change_untold(&mut pair.postgres.connect_as("postgres", "copy"));
    (pair.postgres.connect_as("postgres", "copy"), None)
}

fn new_cluster(pair: &mut Pair, _: Client) -> (Client, Option<Postgres>) {
    let other = Postgres::start_fresh(&[("pg_cache.url", &pair.redis.url())]);
    create(&mut other.connect(), "new");
    (other.connect(), Some(other))
}

fn restored_directory(pair: &mut Pair, client: Client) -> (Client, Option<Postgres>) {
    drop(client);
    let url = pair.redis.url();
    let copy = pair.postgres.copy(&[("pg_cache.url", &url)]);
    change_untold(&mut copy.connect());
    (copy.connect(), Some(copy))
}

#[test]
fn nothing_cached_before_is_served() {
    // Danger: the same key, the same query, the same oids, and the old value; the change between
    // them is one of which Redis was never told.
    let mut pair = Pair::start_with(&[("max_worker_processes", "16")], &[]);
    create(&mut pair.postgres.connect(), "old");
    for (what, event) in EVENTS {
        let mut client = pair.postgres.connect();
        run(&mut client, "UPDATE t SET v = 'old'");
        repair(&mut client);
        cached(&mut client, "k", QUERY).unwrap();
        assert_eq!(explained(&mut client, "k", QUERY, "exact").as_deref(), Some("exact"));
        let (answer, counters) = counted(&mut client, |c| cached(c, "k", QUERY).unwrap());
        assert_eq!((answer.as_str(), counters.hits), (OLD, 1), "{what}");

        let (mut reader, other) = event(&mut pair, client);
        let (answer, counters) = counted(&mut reader, |c| cached(c, "k", QUERY).unwrap());
        assert_eq!((answer.as_str(), counters.hits), (NEW, 0), "{what}: {counters:?}");
        repair(&mut reader);
        assert_eq!(explained(&mut reader, "k", QUERY, "exact").as_deref(), Some("exact"));
        let answer = cached(&mut reader, "k", QUERY);
        assert_eq!(answer.as_deref(), Ok(NEW), "{what}: once it is registered");
        let (answer, counters) = counted(&mut reader, |c| cached(c, "k", QUERY).unwrap());
        assert_eq!((answer.as_str(), counters.hits), (NEW, 1), "{what}: {counters:?}");
        // Nor is the new value served where the old one still holds.
        let mut first = pair.postgres.connect();
        let expected = direct(&mut first, QUERY);
        assert_eq!(expected.as_deref() == Ok(OLD), !what.starts_with("DROP"), "{what}");
        same_as_direct(&mut first, "k", QUERY).unwrap();
        drop((first, reader, other));
    }
}
