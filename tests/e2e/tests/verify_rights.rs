//! `redis_verify` follows no recipe that this database did not write, and lends nobody the rights
//! of whoever runs it.

use pg_cache_core::key::EntryKeys;
use pg_cache_e2e::Scene;
use pg_cache_e2e::counters::value;

use crate::verify::{TABLE, filled, get, ready, set, told, verified};

#[test]
fn a_forged_recipe_is_not_followed() {
    // Danger: whoever can write Redis has the operator run a query of their choice, as any role.
    let scene = Scene::new();
    let (mut client, notices) = ready(&scene);
    let role = scene.create_role("alice");
    client.batch_execute(TABLE).unwrap();
    client.batch_execute(&format!("GRANT SELECT ON t TO {role}")).unwrap();
    let query = "SELECT v FROM t ORDER BY v";
    let mut alice = scene.connect_as(&role);
    for key in ["bit", "moved", "cut", "empty", "format", "stranger"] {
        filled(&mut alice, key, query);
    }
    filled(&mut client, "other", query);
    let of = |key: &str| EntryKeys::new(key.as_bytes()).recipe();
    let recipe = |key: &str| get(&scene, &of(key));
    let mut flipped = recipe("bit");
    // The role, behind format and generation.
    flipped[17] ^= 1;
    set(&scene, &of("bit"), &flipped);
    set(&scene, &of("moved"), &recipe("other"));
    set(&scene, &of("cut"), &recipe("cut")[..40]);
    set(&scene, &of("empty"), b"");
    let mut newer = recipe("format");
    newer[0] += 1;
    set(&scene, &of("format"), &newer);
    scene.create_database(&format!("{}_b", scene.database()));
    let mut stranger = scene.connect_to("postgres", &format!("{}_b", scene.database()));
    stranger.batch_execute("SELECT * FROM redis_repair()").unwrap();
    stranger.batch_execute(TABLE).unwrap();
    let mine = value(&scene.redis, "stranger").unwrap();
    let sidecar = get(&scene, EntryKeys::new(b"stranger").sidecar());
    scene.redis.cli(&["DEL", "stranger"]);
    filled(&mut stranger, "stranger", query);
    set(&scene, b"stranger", &mine);
    set(&scene, EntryKeys::new(b"stranger").sidecar(), &sidecar);
    assert_eq!(verified(&mut client), []);
    let (numbers, detail) = told(&notices);
    assert_eq!(numbers, [1, 0, 6], "{detail}");
    let forged = "5 with a recipe that this database did not write for them, \
                  1 with a recipe of another release";
    assert_eq!(detail, format!("Skipped: {forged}."));
}

#[test]
fn an_entry_is_recomputed_without_the_operators_rights() {
    // Danger: a user leaves a query whose function, run by the operator, does what only a
    // superuser may.
    let scene = Scene::new();
    let (mut client, notices) = ready(&scene);
    let mallory = scene.create_role("mallory");
    client
        .batch_execute(&format!(
            "CREATE SCHEMA m AUTHORIZATION {mallory}; CREATE TABLE secret AS SELECT 42 AS v"
        ))
        .unwrap();
    let mut user = scene.connect_as(&mallory);
    user.batch_execute(
        "CREATE FUNCTION m.try(sql text) RETURNS text VOLATILE LANGUAGE plpgsql AS $$
           BEGIN EXECUTE sql; RETURN 'done'; EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE; END $$;
         CREATE FUNCTION m.hide(sql text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
           $$ DECLARE r text; BEGIN SELECT m.try(sql) INTO r; RETURN r; END $$;
         CREATE TABLE m.log (who text)",
    )
    .unwrap();
    for (number, attack) in [
        "RESET SESSION AUTHORIZATION",
        "RESET ROLE",
        "SET ROLE postgres",
        "SELECT * FROM secret",
        "CREATE TEMP TABLE pg_class_like (v int)",
        "INSERT INTO m.log VALUES (current_user)",
    ]
    .iter()
    .enumerate()
    {
        let query = "SELECT m.hide($1) AS v, current_user AS who";
        let sql = format!("SELECT redis_cached('m:{number}', 60, $q${query}$q$, $1::text)::text");
        user.query_one(&sql, &[attack]).unwrap();
    }
    let rows = verified(&mut client);
    let (numbers, detail) = told(&notices);
    assert_eq!(numbers[0], 6, "all of them run: {numbers:?}, {detail}");
    // What must be undone has another result than it had for its author.
    assert!(rows.iter().all(|(key, _)| key.starts_with("m:")), "{rows:?}");
    let who = "SELECT current_user::text || session_user::text";
    assert_eq!(client.query_one(who, &[]).unwrap().get::<_, String>(0), "postgrespostgres");
    let rows = client.query("SELECT who FROM m.log WHERE who <> $1", &[&mallory]).unwrap();
    assert!(rows.is_empty(), "{detail}");
    let temporary = "SELECT count(*) FROM pg_class WHERE relname = 'pg_class_like'
                      AND relnamespace = pg_my_temp_schema()";
    assert_eq!(client.query_one(temporary, &[]).unwrap().get::<_, i64>(0), 0, "{detail}");
}

#[test]
fn a_setting_is_assumed_by_the_rights_of_its_role() {
    // Danger: a value that anybody may give to a name without meaning becomes a setting for
    // superusers in the operator's session, or the operator becomes somebody else.
    let scene = Scene::new();
    let (mut client, notices) = ready(&scene);
    let mallory = scene.create_role("mallory");
    client.batch_execute(&format!("{TABLE}; GRANT SELECT ON t TO {mallory}")).unwrap();
    let mut user = scene.connect_as(&mallory);
    user.batch_execute("SET auto_explain.log_min_duration = '1234'; SET app.v = 'x'").unwrap();
    for (key, name) in [
        ("library", "auto_explain.log_min_duration"),
        ("session", "session_authorization"),
        ("role", "role"),
        ("plain", "app.v"),
    ] {
        filled(&mut user, key, &format!("SELECT current_setting('{name}') AS v FROM t"));
    }
    client.batch_execute("LOAD 'auto_explain'").unwrap();
    assert_eq!(verified(&mut client), []);
    let (numbers, detail) = told(&notices);
    // The role is "none" on both sides, but only this session knows whose it is.
    assert_eq!(numbers, [1, 0, 3], "{detail}");
    assert!(detail.contains("2 that depend on a setting that this session"), "{detail}");
    let sql = "SELECT current_setting('auto_explain.log_min_duration') || session_user";
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, String>(0), "-1postgres");
}
