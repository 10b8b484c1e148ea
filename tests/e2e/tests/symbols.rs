//! The library and its SQL: every function that one declares, the other has.

use std::collections::BTreeSet;

use pg_cache_e2e::Scene;

/// The names that follow `pg_finfo_` in the library's string tables.
fn exported(library: &[u8]) -> BTreeSet<String> {
    library
        .split(|byte| *byte == 0)
        .filter_map(|word| word.strip_prefix(b"pg_finfo_"))
        .map(|name| String::from_utf8(name.to_vec()).unwrap())
        .collect()
}

/// The link names that the script gives: `AS 'MODULE_PATHNAME', 'name'`.
fn declared(script: &str) -> BTreeSet<String> {
    script
        .split("'MODULE_PATHNAME'")
        .skip(1)
        .map(|rest| {
            let rest =
                rest.trim_start().strip_prefix(',').expect("a link name is given").trim_start();
            rest.split('\'').nth(1).expect("a quoted link name").to_owned()
        })
        .collect()
}

#[test]
fn every_function_of_the_library_is_declared_and_every_declared_one_is_there() {
    // Danger: the SQL is written by hand; a function that only one side has fails when called.
    let scene = Scene::new();
    let cluster = scene.postgres().cluster();
    let library = exported(&std::fs::read(cluster.library()).unwrap());
    let script = declared(&std::fs::read_to_string(cluster.script()).unwrap());
    assert!(script.len() >= 10, "{script:?}");
    assert_eq!(library, script);
    let sql = "SELECT prosrc FROM pg_proc JOIN pg_depend d ON d.objid = pg_proc.oid
               JOIN pg_extension e ON e.oid = d.refobjid AND d.deptype = 'e'
               JOIN pg_language l ON l.oid = prolang WHERE extname = 'pg_cache' AND lanname = 'c'";
    let rows = scene.connect().query(sql, &[]).unwrap();
    let installed: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(installed, script);
}

#[test]
fn it_installs_into_any_schema_and_leaves_nothing_behind() {
    // Danger: a script that names `public`, or a DROP EXTENSION that leaves objects.
    let scene = Scene::new();
    let mut client = scene.connect();
    let count = "SELECT (SELECT count(*) FROM pg_proc WHERE proname LIKE 'redis%')
                 + (SELECT count(*) FROM pg_class WHERE relname LIKE 'redis%')";
    client.batch_execute("DROP EXTENSION pg_cache").unwrap();
    assert_eq!(client.query_one(count, &[]).unwrap().get::<_, i64>(0), 0);
    client
        .batch_execute(
            "CREATE SCHEMA \"My Cache\"; CREATE EXTENSION pg_cache SCHEMA \"My Cache\";
             CREATE TABLE t AS SELECT 1 AS v",
        )
        .unwrap();
    let sql = "SELECT \"My Cache\".redis_cached('k', 60, 'SELECT v FROM t')::text";
    for _ in 0..2 {
        assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, String>(0), r#"[{"v":1}]"#);
    }
    client
        .batch_execute(
            "SELECT * FROM \"My Cache\".redis_health();
             SELECT * FROM \"My Cache\".redis_stat_cached;
             SELECT \"My Cache\".redis_cached_view('seen', 60, 'SELECT v FROM t'); TABLE seen",
        )
        .unwrap();
}

#[test]
fn the_functions_are_marked_as_they_behave() {
    // Danger: the planner folds an IMMUTABLE one, or runs a PARALLEL SAFE one in workers.
    let scene = Scene::new();
    let sql =
        "SELECT proname, provolatile::text, proparallel::text, proleakproof, prosecdef FROM pg_proc
               WHERE proname IN ('redis_cached', 'redis_cached_rows', 'redis_explain')";
    let rows = scene.connect().query(sql, &[]).unwrap();
    assert_eq!(rows.len(), 9);
    for row in rows {
        let name: String = row.get(0);
        assert_ne!(row.get::<_, String>(2), "s", "{name}");
        if name != "redis_explain" {
            assert_eq!(
                (row.get::<_, String>(1).as_str(), row.get::<_, String>(2).as_str()),
                ("s", "r"),
                "{name}"
            );
        }
        assert!(!row.get::<_, bool>(3) && !row.get::<_, bool>(4), "{name}");
    }
}
