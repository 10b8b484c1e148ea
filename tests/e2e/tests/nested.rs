//! Savepoints and EXCEPTION blocks, thousands deep: what is rolled back is told to nobody, and all
//! else is.

use std::collections::BTreeSet;

use pg_cache_e2e::counters::counted;
use pg_cache_e2e::registry::{count, repair};
use pg_cache_e2e::{Scene, same_as_direct};
use postgres::Client;

const QUERY: &str = "SELECT count(*), sum(id) FROM t";

fn prepared(scene: &Scene) -> Client {
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TABLE t (id int);
             SELECT redis_track('t', '{id}');
             CREATE TRIGGER k AFTER INSERT ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_invalidate('n:{id}')",
        )
        .unwrap();
    repair(&mut client);
    client
}

/// Puts a key there for each number below `end`, runs the SQL, and asserts that those are gone of
/// which there is a row, and, unless some were settled before the end, no others.
#[track_caller]
fn deletes_what_is_committed(scene: &Scene, client: &mut Client, end: i32, sql: &str) {
    let early = "SELECT early FROM redis_stat_commit";
    let before = count(client, early);
    let mut redis = scene.redis.client();
    let mut set = redis::cmd("MSET");
    for number in 0..end {
        set.arg(format!("n:{number}")).arg("old");
    }
    set.exec(&mut redis).unwrap();
    let mut reader = scene.connect();
    same_as_direct(&mut reader, "k", QUERY).unwrap();
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{error:?}"));
    let kept: Vec<String> = redis::cmd("KEYS").arg("n:*").query(&mut redis).unwrap();
    let kept: BTreeSet<i32> = kept.iter().map(|key| key[2..].parse().unwrap()).collect();
    let rows: Vec<i32> =
        client.query("SELECT id FROM t", &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let rows: BTreeSet<i32> = rows.into_iter().collect();
    assert_eq!(rows.len(), end as usize / 2, "half of them");
    assert!(kept.is_disjoint(&rows), "a row was committed and its key stands there");
    if count(client, early) == before {
        assert_eq!(kept.len() + rows.len(), end as usize, "a key of a row that is not there");
    }
    let (_, counters) = counted(&mut reader, |c| same_as_direct(c, "k", QUERY).unwrap());
    assert_eq!(counters.hits, 0);
    assert_eq!(count(client, "SELECT owed FROM redis_stat_commit"), 0);
    client.batch_execute("TRUNCATE t").unwrap();
}

#[test]
fn what_a_deep_savepoint_noted_goes_with_it() {
    // Danger: the stack of notes and the stack of savepoints are one level apart somewhere, and
    // what was committed is not told, or what was rolled back is.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    // 4,000 deep, and the upper half is rolled back in one step; then a thousand side by side upon
    // what is left.
    let mut sql = String::from("BEGIN;");
    for number in 0..4000 {
        sql += &format!("SAVEPOINT s{number}; INSERT INTO t VALUES ({number});");
    }
    sql += "ROLLBACK TO s2000;";
    for number in 4000..5000 {
        sql += &format!("SAVEPOINT a; INSERT INTO t VALUES ({number});");
        sql += if number % 2 == 0 { "RELEASE a;" } else { "ROLLBACK TO a;" };
    }
    sql += "RELEASE s1000; COMMIT";
    for keys_max in ["10000", "100"] {
        client.batch_execute(&format!("SET pg_cache.pending_keys_max = {keys_max}")).unwrap();
        deletes_what_is_committed(&scene, &mut client, 5000, &sql);
    }
}

#[test]
fn what_a_deep_exception_block_noted_goes_with_it() {
    // Danger: as above, of blocks that PL/pgSQL opens and closes.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    client
        .batch_execute(
            "CREATE FUNCTION nest(n int) RETURNS void LANGUAGE plpgsql AS $$
             BEGIN
               IF n > 0 THEN PERFORM nest(n - 1); END IF;
               BEGIN
                 INSERT INTO t VALUES (n);
                 IF n % 2 = 1 THEN RAISE 'undone'; END IF;
               EXCEPTION WHEN raise_exception THEN NULL;
               END;
             EXCEPTION WHEN division_by_zero THEN NULL;
             END $$;
             SET max_stack_depth = '6MB'",
        )
        .unwrap();
    deletes_what_is_committed(&scene, &mut client, 600, "SELECT nest(599)");
}
