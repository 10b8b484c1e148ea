//! Transaction ids are 32 bits to PostgreSQL and 64 to us: after the first turn, what was listed a
//! long time ago looks to it as if it were yet to come.

use std::process::Command;

use pg_cache_e2e::counters::counted;
use pg_cache_e2e::registry::{count, repair, table_key};
use pg_cache_e2e::same_as_direct;
use pg_cache_testbed::process::run_well;
use pg_cache_testbed::{Pair, Postgres};
use postgres::Client;

const QUERY: &str = "SELECT v FROM t";

/// As if four thousand million transactions had been.
fn turn(postgres: &mut Postgres) {
    postgres.stop();
    let mut reset = Command::new(postgres.bin("pg_resetwal"));
    reset.args(["--epoch", "1"]).arg("--pgdata").arg(postgres.data_dir());
    run_well(reset, postgres.data_dir());
    postgres.start_again();
}

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

#[test]
fn a_change_of_the_schema_of_long_ago_is_over() {
    // Danger: nobody changes the schema for years; then every new session's first read fails, and
    // so does every change of the schema and every payment of a debt of one.
    let mut pair = Pair::start();
    run(&mut pair.postgres.connect(), "CREATE TABLE t AS SELECT 1 AS v; SELECT redis_track('t')");
    turn(&mut pair.postgres);
    let mut client = pair.postgres.connect();
    repair(&mut client);
    let next = count(&mut client, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint");
    assert!(next > 1 << 32, "{next}");
    // Between half a turn and a whole one.
    let ago = next - 3 * (1 << 30);
    let table = table_key(&mut client);
    let list = || pair.redis.cli(&["HSET", &table, "V", "9000", "C", &format!("9000:{ago}")]);
    let connect = || {
        let mut client = pair.postgres.connect();
        run(&mut client, "SET statement_timeout = '10s'");
        client
    };

    list();
    let mut reader = connect();
    same_as_direct(&mut reader, "k", QUERY).unwrap();
    let (_, counters) = counted(&mut reader, |c| same_as_direct(c, "k", QUERY).unwrap());
    assert_eq!(counters.hits, 1, "{counters:?}");

    run(&mut connect(), "CREATE TABLE another ()");
    assert_eq!(count(&mut client, "SELECT count(*) FROM redis_debt"), 0, "nothing is owed");
    list();
    run(&mut client, &format!("INSERT INTO redis_debt VALUES (-1, '{ago}', NULL)"));
    repair(&mut connect());
    assert_eq!(count(&mut client, "SELECT count(*) FROM redis_debt"), 0, "it is paid");
}
