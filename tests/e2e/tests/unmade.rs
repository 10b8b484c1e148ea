//! While a generation is registered and not yet made, nobody tells Redis of changes: then nobody
//! may be served from the one before either, however old its snapshot.

use pg_cache_e2e::gate::Gate;
use pg_cache_e2e::guarded::{KEY, OLD, QUERY, Stage, served};
use pg_cache_e2e::{cached, direct};

#[test]
fn what_was_truncated_before_a_generation_is_made_is_not_served() {
    // Danger: TRUNCATE shows in snapshots from before it too, and one that sees the former
    // generation is served what nobody told to be gone.
    let mut stage = Stage::new();
    assert_eq!(stage.served(), OLD);
    let registering = Gate::new();
    stage.replace_worker(&registering.at("worker.looked"));
    let mut readers = [stage.connect("nothing:skip"), stage.connect("nothing:skip")];
    // With a plan they need not lock the table to make one.
    let fetch = format!("SELECT redis_cached('{KEY}', '5 minutes', '{QUERY}')::text");
    readers.iter_mut().for_each(|reader| assert_eq!(served(reader), OLD));
    let [keeper, fetcher] = &mut readers;
    keeper.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    fetcher.batch_execute(&format!("BEGIN; DECLARE c CURSOR FOR {fetch}")).unwrap();
    stage.admin.batch_execute("SELECT redis_register()").unwrap();
    registering.met();
    stage.admin.batch_execute("TRUNCATE users").unwrap();
    let found = cached(keeper, KEY, QUERY).unwrap();
    assert_eq!(found, direct(keeper, QUERY).unwrap(), "in REPEATABLE READ");
    assert_ne!(found, OLD);
    let fetched: String = fetcher.query_one("FETCH c", &[]).unwrap().get(0);
    assert_eq!(fetched, found, "by a cursor");
}
