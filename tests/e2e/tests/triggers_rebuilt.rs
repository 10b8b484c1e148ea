//! What is read of a table's triggers while somebody else changes the table's entry.

use pg_cache_e2e::Scene;
use pg_cache_e2e::gate::Gate;
use pg_cache_e2e::outcome::sqlstate;

#[test]
fn a_grant_meanwhile_hides_no_trigger() {
    // Danger: somebody grants a right on the table, which needs no lock on it, while its triggers
    // are looked at: PostgreSQL throws away the list that is read, and what stands there then is
    // taken for triggers, and followed.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut other = scene.connect();
    let role = scene.create_role("reader");
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, a int, b int);
             DO $$ BEGIN FOR n IN 100..250 LOOP EXECUTE format(
                 'CREATE TRIGGER e%s AFTER INSERT ON t FOR EACH ROW
                      EXECUTE FUNCTION redis_publish(''c:{id}'')', n);
             END LOOP; END $$;
             CREATE TRIGGER last AFTER INSERT ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_publish('c:{a}')",
        )
        .unwrap();
    let gate = Gate::new();
    let fault = format!("SET pg_cache.fault_point = '{}'", gate.at("trigger.looking"));
    client.batch_execute(&fault).unwrap();
    let dropping = std::thread::spawn(move || client.batch_execute("ALTER TABLE t DROP COLUMN a"));
    gate.met();
    other.batch_execute(&format!("GRANT SELECT ON t TO {role}")).unwrap();
    gate.open();
    let dropped = dropping.join().unwrap();
    assert_eq!(dropped.map_err(|error| sqlstate(&error)), Err("2BP01".to_owned()));
}
