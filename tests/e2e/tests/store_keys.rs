//! `redis_store`: the key of a row that moves, and of rows that take each other's places.

use pg_cache_e2e::Scene;
use pg_cache_e2e::events::get;
use pg_cache_e2e::outbox::rows;
use pg_cache_e2e::registry::repair;
use pg_cache_testbed::eventually;
use postgres::Client;

const SOON: std::time::Duration = std::time::Duration::from_secs(20);

/// A table with such columns and such triggers of `redis_store`.
fn storing(scene: &Scene, columns: &str, triggers: &[&str]) -> Client {
    let mut client = scene.connect();
    client.batch_execute(&format!("CREATE TABLE t ({columns})")).unwrap();
    for (number, arguments) in triggers.iter().enumerate() {
        client
            .batch_execute(&format!(
                "CREATE TRIGGER e{number} AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW
                     EXECUTE FUNCTION redis_store({arguments})"
            ))
            .unwrap();
    }
    repair(&mut client);
    client
}

/// Runs it, and waits until all of it is sent.
#[track_caller]
fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    eventually(SOON, "all is sent", || rows(client) == 0);
}

/// The keys of a kind, and what stands there.
#[track_caller]
fn found(scene: &Scene, keys: &[&str]) -> Vec<String> {
    let found = keys.iter().map(|key| get(&scene.redis, key).unwrap_or_else(|| "absent".into()));
    found.collect()
}

#[test]
fn a_key_that_changes_counts_whatever_columns_are_sent() {
    // Danger: the key has columns that are not sent or watched; it changes, and the old one stays
    // readable for ever.
    for option in ["columns=name", "when=name", "columns=name', 'durable"] {
        let scene = Scene::new();
        let mut client =
            storing(&scene, "id int, org int, name text", &[&format!("'u:{{id}}', '{option}'")]);
        run(&mut client, "INSERT INTO t VALUES (1, 7, 'x')");
        assert_ne!(found(&scene, &["u:1"]), ["absent"], "{option}");
        run(&mut client, "UPDATE t SET id = 2");
        assert_eq!(found(&scene, &["u:1"]), ["absent"], "{option}");
        assert!(found(&scene, &["u:2"])[0].contains(r#""name":"x""#), "{option}");
        run(&mut client, "UPDATE t SET org = 8");
        run(&mut client, "DELETE FROM t");
        assert_eq!(found(&scene, &["u:1", "u:2"]), ["absent", "absent"], "{option}");
    }
}

#[test]
fn what_is_not_watched_counts_for_nothing_while_the_key_stays() {
    // Danger: a column that nobody asked for sets the key again, with each of its changes.
    let scene = Scene::new();
    let mut client = storing(&scene, "id int, name text, n int", &["'u:{id}', 'when=name'"]);
    run(&mut client, "INSERT INTO t VALUES (1, 'x', 1); UPDATE t SET n = 2");
    run(&mut client, "BEGIN; UPDATE t SET n = 3; UPDATE t SET n = 4; COMMIT");
    assert_eq!(found(&scene, &["u:1"]), [r#"{"id":1,"name":"x","n":1}"#]);
    // Of a row that was stored and then changed in what does not count, the last image is gone too.
    run(
        &mut client,
        "BEGIN; UPDATE t SET name = 'y'; UPDATE t SET n = 5; UPDATE t SET n = 6;
         DELETE FROM t; COMMIT",
    );
    assert_eq!(found(&scene, &["u:1"]), ["absent"]);
}

#[test]
fn rows_that_take_each_others_places_are_all_stored() {
    // Danger: one statement moves every row to the next one's key, and each deletes what the one
    // before it stored.
    for options in ["", ", 'durable'", ", 'columns=name'"] {
        let scene = Scene::new();
        let columns = "name text PRIMARY KEY, pos int UNIQUE DEFERRABLE";
        let mut client = storing(&scene, columns, &[&format!("'slot:{{pos}}'{options}")]);
        let slots = ["slot:1", "slot:2", "slot:3", "slot:4"];
        let holders = || {
            let found = found(&scene, &slots);
            found.iter().map(|row| row.get(9..10).unwrap_or("-").to_owned()).collect::<String>()
        };
        run(&mut client, "INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3)");
        assert_eq!(holders(), "abc-", "{options}");
        run(&mut client, "UPDATE t SET pos = pos + 1");
        assert_eq!(holders(), "-abc", "{options}");
        run(&mut client, "UPDATE t SET pos = pos - 1");
        assert_eq!(holders(), "abc-", "{options}");
        run(&mut client, "UPDATE t SET pos = 3 - pos WHERE pos < 3");
        assert_eq!(holders(), "bac-", "{options}");
        // By way of rows that this very transaction has changed before.
        run(
            &mut client,
            "BEGIN; UPDATE t SET name = upper(name); UPDATE t SET pos = pos + 1; COMMIT",
        );
        assert_eq!(holders(), "-BAC", "{options}");
        // A row that comes and goes in one transaction leaves nothing.
        run(
            &mut client,
            "BEGIN; INSERT INTO t VALUES ('d', 1); UPDATE t SET name = 'e' WHERE pos = 1;
             DELETE FROM t WHERE pos = 1; COMMIT",
        );
        assert_eq!(holders(), "-BAC", "{options}");
        run(
            &mut client,
            "BEGIN; UPDATE t SET pos = pos - 1 WHERE pos = 2; SAVEPOINT s;
             UPDATE t SET pos = 9 WHERE pos = 1; ROLLBACK TO s; COMMIT",
        );
        assert_eq!(holders(), "B-AC", "{options}");
        // To a key and away again, with another row behind it.
        run(
            &mut client,
            "BEGIN; UPDATE t SET pos = 2 WHERE pos = 1; UPDATE t SET pos = 1 WHERE pos = 3;
             UPDATE t SET pos = 3 WHERE pos = 2; DELETE FROM t WHERE pos = 4; COMMIT",
        );
        assert_eq!(holders(), "A-B-", "{options}");
    }
}

#[test]
fn a_row_goes_whatever_was_stored_beside_it() {
    // Danger: a row that was stored, changed in a column that does not count, and deleted in one
    // transaction passes for another one, and stays.
    let scene = Scene::new();
    let triggers = ["'u:{id}', 'when=name'", "'v:{id}', 'durable', 'columns=name', 'as=hash'"];
    let mut client = storing(&scene, "id int, name text, n int", &triggers);
    let all = ["u:1", "u:2", "v:1", "v:2"];
    run(
        &mut client,
        "BEGIN; INSERT INTO t VALUES (1, 'x', 1); UPDATE t SET n = 2; SAVEPOINT s;
         UPDATE t SET n = 3; RELEASE s; UPDATE t SET id = 2; UPDATE t SET n = 4; DELETE FROM t;
         COMMIT",
    );
    let exists = |key: &&str| scene.redis.cli(&["EXISTS", key]) == "1";
    assert_eq!(all.iter().filter(|key| exists(key)).count(), 0);
}

#[test]
fn a_hash_without_fields_is_no_key() {
    // Danger: the fields of the row as it was stay when all that is sent of it becomes NULL.
    let scene = Scene::new();
    let triggers = ["'u:{id}', 'columns=name,n', 'as=hash'"];
    let mut client = storing(&scene, "id int, name text, n int", &triggers);
    run(&mut client, "INSERT INTO t VALUES (1, 'x', 1)");
    assert_eq!(scene.redis.cli(&["HLEN", "u:1"]), "2");
    run(&mut client, "UPDATE t SET name = NULL, n = NULL");
    assert_eq!(scene.redis.cli(&["EXISTS", "u:1"]), "0");
    run(&mut client, "UPDATE t SET n = 3");
    assert_eq!(scene.redis.cli(&["HGET", "u:1", "n"]), "3");
}

#[test]
fn a_row_goes_although_its_table_was_written_anew() {
    // Danger: a command that rewrites the table moves its rows, and one that is deleted behind it
    // passes for another row: its image stays for good.
    for option in ["when=name", "durable"] {
        let scene = Scene::new();
        let triggers = [format!("'u:{{id}}', '{option}'")];
        let mut client = storing(&scene, "id int, name text", &[&triggers[0]]);
        client.batch_execute("CREATE INDEX i ON t (id)").unwrap();
        let rewrites = [
            "ALTER TABLE t DROP IF EXISTS c, ADD c float DEFAULT random()",
            "ALTER TABLE t ALTER name TYPE varchar USING name || ''",
            "CLUSTER t USING i",
        ];
        for rewrite in rewrites {
            run(&mut client, "TRUNCATE t; INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')");
            let changed = format!("BEGIN; UPDATE t SET name = 'x' WHERE id = 1; {rewrite};");
            run(&mut client, &format!("{changed} DELETE FROM t WHERE id = 1; COMMIT"));
            assert_eq!(found(&scene, &["u:1"]), ["absent"], "{option}, {rewrite}");
            run(&mut client, "INSERT INTO t VALUES (1, 'a')");
            run(&mut client, &format!("{changed} UPDATE t SET id = 4 WHERE id = 1; COMMIT"));
            assert_eq!(found(&scene, &["u:1"]), ["absent"], "{option}, {rewrite}");
            assert!(found(&scene, &["u:4"])[0].contains(r#""name":"x""#), "{option}, {rewrite}");
        }
    }
}
