//! Privileges on a hit are those on a miss: what the caller may not read now is not read from the
//! cache either. The cases follow those of pgpool-II's test of its query cache.

use pg_cache_e2e::counters::counted;
use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::{Scene, cached, direct, same_as_direct};
use postgres::Client;

const DENIED: &str = "42501";

struct House {
    scene: Scene,
    alice: String,
    bob: String,
}

fn house() -> House {
    let scene = Scene::new();
    let (alice, bob) = (scene.create_role("alice"), scene.create_role("bob"));
    scene
        .connect()
        .batch_execute(
            "CREATE TABLE t (a int, b int, c text);
             INSERT INTO t VALUES (1, 10, 'x'), (2, 20, 'y');
             CREATE TABLE u (a int); INSERT INTO u VALUES (1)",
        )
        .unwrap();
    House { scene, alice, bob }
}

/// After each change the cached answer is PostgreSQL's own, under a key that has an entry.
#[track_caller]
fn follow(client: &mut Client, admin: &mut Client, query: &str, changes: &[(&str, bool)]) {
    for (change, allowed) in changes {
        admin.batch_execute(change).unwrap_or_else(|e| panic!("{change}: {e:?}"));
        // Another reader keeps the entry alive, so that a hit is there to be had.
        cached(admin, "p", query).unwrap();
        for _ in 0..2 {
            let answer = same_as_direct(client, "p", query);
            assert_eq!(answer.is_ok(), *allowed, "after {change}: {answer:?}");
        }
    }
}

#[test]
fn without_privilege_a_warm_entry_is_denied() {
    // Danger: whoever guesses key and query reads the table through another's entry.
    let House { scene, alice, .. } = house();
    let mut admin = scene.connect();
    let mut client = scene.connect_as(&alice);
    cached(&mut admin, "p", "SELECT a FROM t").unwrap();
    let (answer, counters) = counted(&mut client, |c| cached(c, "p", "SELECT a FROM t"));
    assert_eq!(answer, Err(DENIED.into()));
    assert_eq!(counters.hits, 0, "{counters:?}");
    let rows = "SELECT * FROM redis_cached_rows('p', 60, 'SELECT a FROM t') AS r(a int)";
    assert_eq!(sqlstate(&client.query(rows, &[]).unwrap_err()), DENIED);
    let explain = client.query_one("SELECT redis_explain('p', 'SELECT a FROM t')::text", &[]);
    assert_eq!(sqlstate(&explain.unwrap_err()), DENIED, "redis_explain tells about a table");
}

#[test]
fn revoke_on_the_table_takes_effect_on_the_next_call() {
    // Danger: the plan was checked once and is trusted since.
    let House { scene, alice, .. } = house();
    let (mut admin, mut client) = (scene.connect(), scene.connect_as(&alice));
    follow(
        &mut client,
        &mut admin,
        "SELECT a, b FROM t ORDER BY a",
        &[
            (&format!("GRANT SELECT ON t TO {alice}"), true),
            (&format!("REVOKE SELECT ON t FROM {alice}"), false),
            ("GRANT SELECT ON t TO PUBLIC", true),
            ("REVOKE SELECT ON t FROM PUBLIC", false),
            (&format!("GRANT UPDATE, INSERT, DELETE ON t TO {alice}"), false),
            ("GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC", true),
            ("REVOKE SELECT ON ALL TABLES IN SCHEMA public FROM PUBLIC", false),
        ],
    );
}

#[test]
fn column_privileges_count() {
    // Danger: only the table's privilege is looked at.
    let House { scene, alice, .. } = house();
    let (mut admin, mut client) = (scene.connect(), scene.connect_as(&alice));
    follow(
        &mut client,
        &mut admin,
        "SELECT a FROM t WHERE b > 0 ORDER BY a",
        &[
            (&format!("GRANT SELECT (a) ON t TO {alice}"), false),
            (&format!("GRANT SELECT (b) ON t TO {alice}"), true),
            (&format!("REVOKE SELECT (b) ON t FROM {alice}"), false),
            (&format!("GRANT SELECT (a, b) ON t TO {alice}"), true),
            (&format!("REVOKE SELECT ON t FROM {alice}"), false),
        ],
    );
    follow(
        &mut client,
        &mut admin,
        "SELECT count(*) FROM t",
        &[
            (&format!("GRANT SELECT (c) ON t TO {alice}"), true),
            (&format!("REVOKE SELECT (c) ON t FROM {alice}"), false),
        ],
    );
    follow(
        &mut client,
        &mut admin,
        "SELECT * FROM t ORDER BY a",
        &[
            (&format!("GRANT SELECT (a, b) ON t TO {alice}"), false),
            (&format!("GRANT SELECT (c) ON t TO {alice}"), true),
        ],
    );
}

#[test]
fn revoke_execute_on_a_function_takes_effect_on_the_next_call() {
    // Danger: a function's EXECUTE is checked when it runs, and on a hit nothing runs.
    let House { scene, alice, .. } = house();
    let (mut admin, mut client) = (scene.connect(), scene.connect_as(&alice));
    admin
        .batch_execute(
            "GRANT SELECT ON t, u TO PUBLIC;
             CREATE FUNCTION st(int) RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
             CREATE FUNCTION im(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
               AS 'BEGIN RETURN $1; END';
             CREATE FUNCTION il(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 1';
             CREATE FUNCTION rows(int) RETURNS SETOF int STABLE LANGUAGE sql AS 'SELECT a FROM t';
             CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
             CREATE OPERATOR ### (RIGHTARG = int, FUNCTION = st);
             CREATE VIEW v AS SELECT st(a) AS s FROM t; GRANT SELECT ON v TO PUBLIC",
        )
        .unwrap();
    let cases = [
        ("st(int)", "SELECT st(a) AS v FROM t ORDER BY a"),
        ("st(int)", "SELECT a FROM t WHERE st(a) = 1"),
        ("im(int)", "SELECT im(a) AS v FROM t ORDER BY a"),
        ("im(int)", "SELECT im(1) AS v"),
        ("im(int)", "SELECT a FROM t WHERE im(1) = 1 ORDER BY a"),
        ("il(int)", "SELECT il(a) AS v FROM t ORDER BY a"),
        ("rows(int)", "SELECT * FROM rows(1) AS r(x) ORDER BY x"),
        ("total(int)", "SELECT total(a) AS v FROM t"),
        ("st(int)", "SELECT ### a AS v FROM t ORDER BY a"),
        ("st(int)", "SELECT s FROM v ORDER BY s"),
        ("st(int)", "SELECT (SELECT st(a)) AS v FROM t ORDER BY a"),
        ("st(int)", "WITH w AS (SELECT st(a) AS s FROM t) SELECT s FROM w ORDER BY s"),
        ("st(int)", "VALUES (st(1)), (st(2))"),
        ("st(int)", "SELECT a FROM t ORDER BY st(a)"),
        ("st(int)", "SELECT a FROM t LIMIT st(1)"),
        ("st(int)", "SELECT sum(a) OVER (ORDER BY st(b)) AS v FROM t ORDER BY a"),
        ("st(int)", "SELECT a FROM t JOIN LATERAL (SELECT st(t.a) AS z) l ON true ORDER BY a"),
    ];
    for (function, query) in cases {
        for grant in ["REVOKE EXECUTE ON FUNCTION", "GRANT EXECUTE ON FUNCTION"] {
            let way = if grant.starts_with("REVOKE") { "FROM" } else { "TO" };
            same_as_direct(&mut client, "p", query).ok();
            admin.batch_execute(&format!("{grant} {function} {way} PUBLIC")).unwrap();
            cached(&mut admin, "p", query).unwrap();
            println!("{grant} {function}: {query}");
            for _ in 0..2 {
                // In a text of its own, so that nothing kept of an earlier parse answers.
                let expected = direct(&mut client, &format!("{query} -- {}", fastrand::u64(..)));
                assert_eq!(cached(&mut client, "p", query), expected, "{query}");
            }
        }
    }
}

#[test]
fn privileges_that_come_by_membership_go_with_it() {
    // Danger: REVOKE of a role touches no table and no plan.
    let House { scene, alice, bob } = house();
    let (mut admin, mut client) = (scene.connect(), scene.connect_as(&alice));
    admin.batch_execute(&format!("GRANT SELECT ON t TO {bob}")).unwrap();
    follow(
        &mut client,
        &mut admin,
        "SELECT a FROM t ORDER BY a",
        &[
            ("SELECT 1", false),
            (&format!("GRANT {bob} TO {alice}"), true),
            (&format!("REVOKE {bob} FROM {alice}"), false),
            (&format!("ALTER ROLE {alice} SUPERUSER"), true),
            (&format!("ALTER ROLE {alice} NOSUPERUSER"), false),
            (&format!("ALTER TABLE t OWNER TO {alice}"), true),
            ("ALTER TABLE t OWNER TO postgres", false),
        ],
    );
}

#[test]
fn schema_usage_counts() {
    // Danger: names are resolved once, and the schema's privilege is only looked at then.
    let House { scene, alice, .. } = house();
    let (mut admin, mut client) = (scene.connect(), scene.connect_as(&alice));
    admin
        .batch_execute(
            "CREATE SCHEMA s; CREATE TABLE s.t AS SELECT 1 AS a; GRANT SELECT ON s.t TO PUBLIC",
        )
        .unwrap();
    follow(
        &mut client,
        &mut admin,
        "SELECT a FROM s.t",
        &[
            ("SELECT 1", false),
            (&format!("GRANT USAGE ON SCHEMA s TO {alice}"), true),
            (&format!("REVOKE USAGE ON SCHEMA s FROM {alice}"), false),
        ],
    );
}

#[test]
fn set_role_changes_who_is_asked() {
    // Danger: the session's user is checked, not the one it acts as.
    let House { scene, alice, bob } = house();
    let mut client = scene.connect();
    client.batch_execute(&format!("GRANT SELECT ON t TO {alice}")).unwrap();
    let query = "SELECT a, current_user::text AS me FROM t ORDER BY a";
    for _ in 0..3 {
        for (change, allowed) in [
            (format!("SET ROLE {alice}"), true),
            (format!("SET ROLE {bob}"), false),
            ("RESET ROLE".into(), true),
            (format!("SET SESSION AUTHORIZATION {bob}"), false),
            (format!("SET SESSION AUTHORIZATION {alice}"), true),
            ("RESET SESSION AUTHORIZATION".into(), true),
        ] {
            client.batch_execute(&change).unwrap();
            let answer = same_as_direct(&mut client, "p", query);
            assert_eq!(answer.is_ok(), allowed, "{change}: {answer:?}");
        }
    }
}

#[test]
fn views_run_as_their_owner() {
    // Danger: the caller is asked for the table under the view, or the owner is not.
    let House { scene, alice, bob } = house();
    let (mut admin, mut client) = (scene.connect(), scene.connect_as(&alice));
    admin
        .batch_execute(&format!(
            "GRANT SELECT ON t TO {bob}; CREATE VIEW v AS SELECT a FROM t;
             ALTER VIEW v OWNER TO {bob}; CREATE VIEW w AS SELECT a FROM v;
             GRANT SELECT ON w TO {alice}"
        ))
        .unwrap();
    let query = "SELECT a FROM v ORDER BY a";
    let steps = [
        ("SELECT 1".to_owned(), false),
        (format!("GRANT SELECT ON v TO {alice}"), true),
        (format!("REVOKE SELECT ON t FROM {bob}"), false),
        (format!("GRANT SELECT ON t TO {bob}"), true),
        (format!("REVOKE SELECT ON v FROM {alice}"), false),
    ];
    for (change, allowed) in steps {
        admin.batch_execute(&change).unwrap();
        cached(&mut admin, "p", query).ok();
        for _ in 0..2 {
            let answer = same_as_direct(&mut client, "p", query);
            assert_eq!(answer.is_ok(), allowed, "after {change}: {answer:?}");
            same_as_direct(&mut client, "w", "SELECT a FROM w ORDER BY a").ok();
        }
    }
}

#[test]
fn security_invoker_views_run_as_the_caller() {
    // Danger: PostgreSQL 15's views that ask the caller are taken for those that ask the owner.
    let House { scene, alice, .. } = house();
    if scene.postgres().cluster().major() < 15 {
        return;
    }
    let (mut admin, mut client) = (scene.connect(), scene.connect_as(&alice));
    admin
        .batch_execute(
            "CREATE VIEW v WITH (security_invoker) AS SELECT a FROM t; GRANT SELECT ON v TO PUBLIC",
        )
        .unwrap();
    follow(
        &mut client,
        &mut admin,
        "SELECT a FROM v ORDER BY a",
        &[
            ("SELECT 1", false),
            (&format!("GRANT SELECT ON t TO {alice}"), true),
            (&format!("REVOKE SELECT ON t FROM {alice}"), false),
            ("ALTER VIEW v SET (security_invoker = false)", true),
            ("ALTER VIEW v SET (security_invoker = true)", false),
        ],
    );
}

#[test]
fn security_definer_functions_lend_their_owners_rights_and_not_their_entries() {
    // Danger: what the owner read inside the function is open to the caller outside of it.
    let House { scene, alice, .. } = house();
    let (mut admin, mut client) = (scene.connect(), scene.connect_as(&alice));
    admin
        .batch_execute(
            "CREATE FUNCTION open() RETURNS text SECURITY DEFINER STABLE LANGUAGE plpgsql AS $$
               BEGIN
                 RETURN redis_cached('p', 60, 'SELECT a, current_user::text AS me FROM t');
               END $$;
             CREATE FUNCTION secret() RETURNS bigint SECURITY DEFINER STABLE LANGUAGE sql
               AS 'SELECT count(*) FROM t'",
        )
        .unwrap();
    let query = "SELECT a, current_user::text AS me FROM t";
    let definer = direct(&mut admin, query).unwrap();
    for _ in 0..2 {
        let inside: String = client.query_one("SELECT open()", &[]).unwrap().get(0);
        assert_eq!(inside, definer);
        assert_eq!(cached(&mut client, "p", query), Err(DENIED.into()));
    }
    admin.batch_execute(&format!("GRANT SELECT ON t TO {alice}")).unwrap();
    for _ in 0..2 {
        same_as_direct(&mut client, "p", query).unwrap();
        let inside: String = client.query_one("SELECT open()", &[]).unwrap().get(0);
        assert_eq!(inside, definer);
        same_as_direct(&mut client, "s", "SELECT secret() AS v").unwrap();
    }
}

#[test]
fn alter_role_and_alter_database_settings_reach_new_sessions() {
    // Danger: a session that begins with other settings reads the text of one that began before.
    let House { scene, alice, .. } = house();
    let mut admin = scene.connect();
    admin
        .batch_execute(
            "CREATE SCHEMA other; CREATE TABLE other.t AS SELECT 99 AS a;
             GRANT USAGE ON SCHEMA other TO PUBLIC; GRANT SELECT ON t, other.t TO PUBLIC",
        )
        .unwrap();
    let query =
        "SELECT a, timestamptz '2024-07-01 00:00+00' AS at, current_setting('app.x', true) AS x
                 FROM t ORDER BY a";
    let database = scene.database();
    for change in [
        "SELECT 1".to_owned(),
        format!("ALTER ROLE {alice} SET TimeZone = 'Asia/Tokyo'"),
        format!("ALTER DATABASE {database} SET TimeZone = 'Europe/Paris'"),
        format!("ALTER ROLE {alice} IN DATABASE {database} SET search_path = other, public"),
        format!("ALTER ROLE {alice} RESET ALL"),
        format!("ALTER DATABASE {database} SET app.x = 'of the database'"),
        format!("ALTER ROLE {alice} SET app.x = 'of alice'"),
        format!("ALTER ROLE {alice} IN DATABASE {database} RESET search_path"),
        format!("ALTER DATABASE {database} SET DateStyle = 'SQL, DMY'"),
    ] {
        admin.batch_execute(&change).unwrap();
        println!("{change}");
        for role in [alice.as_str(), "postgres"] {
            let mut client = scene.connect_as(role);
            same_as_direct(&mut client, "p", query).unwrap();
            same_as_direct(&mut client, "p", query).unwrap();
        }
    }
}

#[test]
fn reading_is_for_everybody_and_flushing_is_not() {
    // Danger: an ordinary role empties the cache, or deletes the keys of other programs.
    let House { scene, alice, .. } = house();
    let mut client = scene.connect_as(&alice);
    for sql in [
        "SELECT redis_cached('k', 60, 'SELECT 1 AS v')::text",
        "SELECT redis_explain('k', 'SELECT 1 AS v')::text",
        "SELECT count(*)::text FROM redis_stat_cached",
    ] {
        client.query_one(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    for sql in ["SELECT redis_flush()", "SELECT redis_flush('k')", "SELECT redis_flush('+*')"] {
        assert_eq!(sqlstate(&client.query_one(sql, &[]).unwrap_err()), DENIED, "{sql}");
    }
    scene
        .connect()
        .batch_execute("REVOKE EXECUTE ON FUNCTION redis_cached(text, \"any\", text) FROM PUBLIC")
        .unwrap();
    assert_eq!(cached(&mut client, "k", "SELECT 1 AS v"), Err(DENIED.into()));
}

#[test]
fn a_prepared_statement_does_not_keep_a_privilege() {
    // Danger: the application's own prepared statement around redis_cached outlives a REVOKE.
    let House { scene, alice, .. } = house();
    let (mut admin, mut client) = (scene.connect(), scene.connect_as(&alice));
    admin.batch_execute(&format!("GRANT SELECT ON t TO {alice}")).unwrap();
    let sql = "SELECT redis_cached('p', 60, 'SELECT a FROM t ORDER BY a')::text";
    let statement = client.prepare(sql).unwrap();
    for _ in 0..8 {
        client.query_one(&statement, &[]).unwrap();
    }
    admin.batch_execute(&format!("REVOKE SELECT ON t FROM {alice}")).unwrap();
    let error = client.query_one(&statement, &[]).unwrap_err();
    assert_eq!(sqlstate(&error), DENIED);
}

#[test]
fn a_grant_or_revoke_that_is_rolled_back_leaves_no_trace() {
    // Danger: a check that was answered inside the transaction is remembered after its ROLLBACK.
    let House { scene, alice, bob } = house();
    let mut client = scene.connect();
    let query = "SELECT a FROM t ORDER BY a";
    cached(&mut client, "p", query).unwrap();
    client.batch_execute(&format!("GRANT SELECT ON t TO {bob}")).unwrap();
    for round in 0..2 {
        for (role, change, other, inside) in [
            (&alice, format!("GRANT SELECT ON t TO {alice}"), false, true),
            (&alice, format!("GRANT {bob} TO {alice}"), false, true),
            (&alice, format!("ALTER ROLE {alice} SUPERUSER"), false, true),
            (&bob, format!("REVOKE SELECT ON t FROM {bob}"), true, false),
        ] {
            let end = ["ROLLBACK", "ROLLBACK TO s; COMMIT"][round];
            let as_role = |client: &mut Client, allowed: bool, when: &str| {
                client.batch_execute(&format!("SAVEPOINT r; SET LOCAL ROLE {role}")).unwrap();
                let answer = cached(client, "p", query);
                assert_eq!(answer.is_ok(), allowed, "{when} {change}: {answer:?}");
                client.batch_execute("ROLLBACK TO r; RELEASE r").unwrap();
            };
            client.batch_execute("BEGIN").unwrap();
            as_role(&mut client, other, "before");
            client.batch_execute(&format!("COMMIT; BEGIN; SAVEPOINT s; {change}")).unwrap();
            as_role(&mut client, inside, "after");
            client.batch_execute(&format!("{end}; BEGIN")).unwrap();
            as_role(&mut client, other, "after the rollback of");
            client.batch_execute("COMMIT").unwrap();
        }
    }
}

#[test]
fn ways_to_a_privilege_that_no_table_shows_count() {
    // Danger: predefined roles, INHERIT and chains of membership change no table's privileges.
    let House { scene, alice, bob } = house();
    let team = scene.create_role("team");
    let (mut admin, mut client) = (scene.connect(), scene.connect_as(&alice));
    let query = "SELECT a FROM t ORDER BY a";
    for change in [
        format!("GRANT pg_read_all_data TO {alice}"),
        format!("REVOKE pg_read_all_data FROM {alice}"),
        format!("GRANT SELECT ON t TO {team}; GRANT {team} TO {bob}; GRANT {bob} TO {alice}"),
        format!("ALTER ROLE {alice} NOINHERIT"),
        format!("ALTER ROLE {alice} INHERIT"),
        format!("ALTER ROLE {bob} NOINHERIT"),
        format!("ALTER ROLE {bob} INHERIT"),
        format!("REVOKE {team} FROM {bob}"),
        format!("GRANT {team} TO {bob}"),
        format!("DROP OWNED BY {team}"),
        format!("GRANT SELECT ON t TO {team}"),
        format!("DROP OWNED BY {team}; DROP ROLE {team}"),
    ] {
        admin.batch_execute(&change).unwrap();
        cached(&mut admin, "p", query).unwrap();
        println!("{change}");
        for _ in 0..2 {
            let expected = direct(&mut client, &format!("{query} -- {}", fastrand::u64(..)));
            assert_eq!(cached(&mut client, "p", query), expected, "{change}");
        }
    }
}
