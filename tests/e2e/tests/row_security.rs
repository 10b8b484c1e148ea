//! Row security: where a policy applies, an entry belongs to the role and the settings that the
//! policy reads; nobody receives what another's policy let through.

use pg_cache_e2e::counters::{counted, keys, value};
use pg_cache_e2e::outcome::{explained, status};
use pg_cache_e2e::{Scene, cached, direct, same_as_direct};
use postgres::Client;

const QUERY: &str = "SELECT owner, tenant, v FROM note ORDER BY v";

/// A table `note` with rows of alice, bob and nobody, and row security by `policy`.
fn notes(scene: &Scene, policy: &str) -> (String, String) {
    let (alice, bob) = (scene.create_role("alice"), scene.create_role("bob"));
    scene
        .connect()
        .batch_execute(&format!(
            "CREATE TABLE note (owner text, tenant int, v text);
             INSERT INTO note VALUES ('{alice}', 1, 'a1'), ('{alice}', 2, 'a2'), ('{bob}', 1, 'b1'),
               ('{bob}', 3, 'b3'), ('nobody', 1, 'n1');
             GRANT SELECT ON note TO {alice}, {bob};
             ALTER TABLE note ENABLE ROW LEVEL SECURITY;
             CREATE POLICY p ON note USING ({policy})"
        ))
        .unwrap();
    (alice, bob)
}

fn set_tenant(client: &mut Client, tenant: &str) {
    client.batch_execute(&format!("SET app.tenant = '{tenant}'")).unwrap();
}

#[test]
fn each_role_has_an_entry_of_its_own() {
    // Danger: the first role to ask decides what every role reads.
    let scene = Scene::new();
    let (alice, bob) = notes(&scene, "owner = current_user");
    let mut clients = [scene.connect(), scene.connect_as(&alice), scene.connect_as(&bob)];
    for round in 0..3 {
        for client in &mut clients {
            let expected = direct(client, QUERY);
            let (answer, counters) = counted(client, |c| cached(c, "notes", QUERY));
            assert_eq!(answer, expected);
            assert_eq!(counters.hits, i64::from(round > 0), "side by side: {counters:?}");
        }
    }
    assert_eq!(keys(&scene.redis, "notes#*").len(), 2, "alice's and bob's, not the superuser's");
    let open = value(&scene.redis, "notes").expect("the superuser's entry is not scoped");
    assert!(String::from_utf8(open).unwrap().contains("n1"));
    let key = explained(&mut clients[1], "notes", QUERY, "redis_key").unwrap();
    assert!(key.starts_with("notes#") && key.len() == "notes#".len() + 16, "{key}");
    assert_eq!(status(&mut clients[1], "notes", QUERY), "hit");
    assert!(value(&scene.redis, &key).is_some(), "redis_explain names the key that is used");
}

#[test]
fn each_value_of_a_setting_that_the_policy_reads_has_an_entry_of_its_own() {
    // Danger: tenant 2 reads tenant 1 through a pooled connection of one role.
    let scene = Scene::new();
    let (alice, _) = notes(&scene, "tenant = nullif(current_setting('app.tenant', true), '')::int");
    let mut client = scene.connect_as(&alice);
    same_as_direct(&mut client, "notes", QUERY).unwrap();
    for round in 0..3 {
        for tenant in ["1", "2", "3", ""] {
            set_tenant(&mut client, tenant);
            let expected = direct(&mut client, QUERY);
            let (answer, counters) = counted(&mut client, |c| cached(c, "notes", QUERY));
            assert_eq!(answer, expected, "tenant {tenant:?}");
            if round > 0 {
                assert_eq!(counters.hits, 1, "tenant {tenant:?}: {counters:?}");
            }
        }
        client.batch_execute("BEGIN; SET LOCAL app.tenant = '2'").unwrap();
        same_as_direct(&mut client, "notes", QUERY).unwrap();
        client.batch_execute("SAVEPOINT s; SET LOCAL app.tenant = '3'").unwrap();
        same_as_direct(&mut client, "notes", QUERY).unwrap();
        client.batch_execute("ROLLBACK TO s").unwrap();
        same_as_direct(&mut client, "notes", QUERY).unwrap();
        client.batch_execute("COMMIT").unwrap();
        same_as_direct(&mut client, "notes", QUERY).unwrap();
    }
    let scope = explained(&mut client, "notes", QUERY, "scope").unwrap();
    assert!(scope.contains("app.tenant"), "{scope}");
    assert_eq!(value(&scene.redis, "notes"), None, "nothing stands under the open key");
}

#[test]
fn a_setting_without_which_the_policy_fails_fails_here_too() {
    // Danger: a session that never said who it is reads an entry instead of the error.
    let scene = Scene::new();
    let (alice, _) = notes(&scene, "tenant = current_setting('app.tenant')::int");
    let mut client = scene.connect_as(&alice);
    set_tenant(&mut client, "1");
    for _ in 0..2 {
        same_as_direct(&mut client, "notes", QUERY).unwrap();
    }
    let mut nobody = scene.connect_as(&alice);
    assert_eq!(same_as_direct(&mut nobody, "notes", QUERY), Err("42704".into()));
    set_tenant(&mut client, "x");
    assert_eq!(same_as_direct(&mut client, "notes", QUERY), Err("22P02".into()));
}

#[test]
fn set_role_and_session_authorization_change_what_is_read() {
    // Danger: one pooled connection that changes its role keeps the entry of the role before.
    let scene = Scene::new();
    let policies = [
        "owner = current_user",
        "owner = session_user",
        "owner IN (current_user, session_user)",
        "owner = current_setting('role')",
    ];
    let (alice, bob) = notes(&scene, "false");
    let mut client = scene.connect();
    client.batch_execute(&format!("GRANT {bob} TO {alice}")).unwrap();
    for policy in policies {
        client.batch_execute(&format!("ALTER POLICY p ON note USING ({policy})")).unwrap();
        println!("{policy}");
        for _ in 0..2 {
            for change in [
                format!("SET ROLE {alice}"),
                format!("SET ROLE {bob}"),
                "RESET ROLE".into(),
                format!("SET SESSION AUTHORIZATION {alice}"),
                format!("SET ROLE {bob}"),
                "SET ROLE NONE".into(),
                format!("SET SESSION AUTHORIZATION {bob}"),
                "RESET SESSION AUTHORIZATION".into(),
            ] {
                client.batch_execute(&change).unwrap();
                println!("{change}");
                same_as_direct(&mut client, "notes", QUERY).unwrap();
            }
        }
    }
}

#[test]
fn a_policy_whose_scope_cannot_be_known_is_never_cached() {
    // Danger: a function decides, from something we do not see, which rows the caller may read.
    let scene = Scene::new();
    let (alice, bob) = notes(&scene, "false");
    let mut admin = scene.connect();
    admin
        .batch_execute(&format!(
            "CREATE TABLE member (who text, tenant int);
             INSERT INTO member VALUES ('{alice}', 1), ('{bob}', 3);
             GRANT SELECT ON member TO PUBLIC;
             CREATE FUNCTION my_tenant() RETURNS int STABLE LANGUAGE plpgsql SECURITY DEFINER AS
               $$ BEGIN RETURN (SELECT m.tenant FROM member m WHERE who = session_user); END $$;
             CREATE FUNCTION said_tenant() RETURNS int STABLE LANGUAGE plpgsql AS
               $$ BEGIN RETURN nullif(current_setting('app.tenant', true), '')::int; END $$;
             CREATE FUNCTION setting_name() RETURNS text STABLE LANGUAGE plpgsql AS
               $$ BEGIN RETURN 'app.tenant'; END $$"
        ))
        .unwrap();
    for policy in [
        "tenant = my_tenant()",
        "tenant = said_tenant()",
        "tenant = nullif(current_setting(setting_name(), true), '')::int",
        "CASE WHEN tenant > 0 THEN tenant = said_tenant() ELSE true END",
        "EXISTS (SELECT FROM member m WHERE m.tenant = note.tenant AND m.tenant = said_tenant())",
    ] {
        admin.batch_execute(&format!("ALTER POLICY p ON note USING ({policy})")).unwrap();
        println!("{policy}");
        let mut clients = [scene.connect_as(&alice), scene.connect_as(&bob)];
        for tenant in ["1", "2", "3"] {
            for client in &mut clients {
                set_tenant(client, tenant);
                let expected = direct(client, QUERY);
                let (answer, counters) = counted(client, |c| cached(c, "notes", QUERY));
                assert_eq!(answer, expected, "{policy}, tenant {tenant}");
                assert_eq!((counters.hits, counters.fills), (0, 0), "{policy}: {counters:?}");
                assert_eq!(counters.reason("row_security"), 1, "{policy}: {counters:?}");
                assert_eq!(status(client, "notes", QUERY), "row_security");
                let cacheable = explained(client, "notes", QUERY, "cacheable");
                assert_eq!(cacheable.as_deref(), Some("false"));
                assert!(explained(client, "notes", QUERY, "reason").is_some());
            }
        }
    }
    assert_eq!(keys(&scene.redis, "notes*"), [""; 0]);
}

#[test]
fn a_policy_over_another_table_answers_by_the_caller() {
    // Danger: the membership table stands in the policy only, not in the query's text.
    let scene = Scene::new();
    let (alice, bob) = notes(&scene, "false");
    scene
        .connect()
        .batch_execute(&format!(
            "CREATE TABLE member (who text, tenant int);
             INSERT INTO member VALUES ('{alice}', 1), ('{alice}', 2), ('{bob}', 3);
             GRANT SELECT ON member TO PUBLIC;
             ALTER POLICY p ON note USING (EXISTS (SELECT FROM member m
               WHERE m.who = current_user AND m.tenant = note.tenant))"
        ))
        .unwrap();
    let mut clients = [scene.connect_as(&alice), scene.connect_as(&bob), scene.connect()];
    for _ in 0..3 {
        for client in &mut clients {
            same_as_direct(client, "notes", QUERY).unwrap();
        }
    }
}

#[test]
fn alter_role_bypassrls_takes_effect_on_the_next_call() {
    // Danger: PostgreSQL does not invalidate a saved plan when a role gains or loses BYPASSRLS.
    let scene = Scene::new();
    let (alice, bob) = notes(&scene, "owner = current_user");
    let mut admin = scene.connect();
    let mut clients = [scene.connect_as(&alice), scene.connect_as(&bob)];
    for attribute in ["NOBYPASSRLS", "BYPASSRLS", "NOBYPASSRLS", "SUPERUSER", "NOSUPERUSER"] {
        admin.batch_execute(&format!("ALTER ROLE {alice} {attribute}")).unwrap();
        println!("{attribute}");
        let all = attribute == "BYPASSRLS" || attribute == "SUPERUSER";
        for round in 0..2 {
            for (number, client) in clients.iter_mut().enumerate() {
                // The statement is new to the server in each round: a fresh parse, a fresh plan.
                let fresh = format!("{QUERY} LIMIT {}", 1000 + fastrand::u32(0..1_000_000));
                let expected = direct(client, &fresh);
                let answer = cached(client, "notes", QUERY);
                assert_eq!(answer, expected, "{attribute}, client {number}, round {round}");
                if number == 0 {
                    assert_eq!(answer.unwrap().contains("n1"), all, "{attribute}");
                }
            }
        }
    }
}

#[test]
fn membership_decides_which_policies_apply_on_the_next_call() {
    // Danger: policies `TO team` stay in the kept plan after the role left the team.
    let scene = Scene::new();
    let (alice, _) = notes(&scene, "owner = current_user");
    let team = scene.create_role("team");
    let mut admin = scene.connect();
    admin.batch_execute(&format!("CREATE POLICY q ON note TO {team} USING (true)")).unwrap();
    let mut client = scene.connect_as(&alice);
    for change in [
        "SELECT 1".into(),
        format!("GRANT {team} TO {alice}"),
        format!("REVOKE {team} FROM {alice}"),
    ] {
        admin.batch_execute(&change).unwrap();
        println!("{change}");
        for _ in 0..2 {
            let fresh = format!("{QUERY} LIMIT {}", 1000 + fastrand::u32(0..1_000_000));
            let expected = direct(&mut client, &fresh);
            assert_eq!(cached(&mut client, "notes", QUERY), expected, "{change}");
        }
    }
}

#[test]
fn changes_of_policies_take_effect_on_the_next_call() {
    // Danger: a policy that was tightened a minute ago does not protect what is in the cache.
    let scene = Scene::new();
    let (alice, bob) = notes(&scene, "owner = current_user");
    let mut admin = scene.connect();
    admin.batch_execute(&format!("GRANT CREATE ON SCHEMA public TO {alice}")).unwrap();
    let mut clients = [scene.connect_as(&alice), scene.connect_as(&bob), scene.connect()];
    for change in [
        "ALTER POLICY p ON note USING (tenant = 1)",
        "CREATE POLICY q ON note AS RESTRICTIVE USING (owner <> 'nobody')",
        "DROP POLICY q ON note",
        "ALTER TABLE note DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE note ENABLE ROW LEVEL SECURITY",
        "DROP POLICY p ON note",
        "CREATE POLICY p ON note FOR SELECT USING (v LIKE 'b%')",
        "ALTER POLICY p ON note USING (owner = current_user)",
        &format!("ALTER TABLE note OWNER TO {alice}"),
        "ALTER TABLE note FORCE ROW LEVEL SECURITY",
        "ALTER TABLE note NO FORCE ROW LEVEL SECURITY",
    ] {
        admin.batch_execute(change).unwrap();
        println!("{change}");
        for _ in 0..2 {
            for client in &mut clients {
                same_as_direct(client, "notes", QUERY).unwrap();
            }
        }
    }
}

#[test]
fn row_security_off_is_an_error_on_a_hit_as_on_a_miss() {
    // Danger: a dump that must fail rather than be incomplete is served the incomplete rows.
    let scene = Scene::new();
    let (alice, _) = notes(&scene, "owner = current_user");
    let mut client = scene.connect_as(&alice);
    for _ in 0..2 {
        client.batch_execute("SET row_security = on").unwrap();
        same_as_direct(&mut client, "notes", QUERY).unwrap();
        client.batch_execute("SET row_security = off").unwrap();
        assert_eq!(same_as_direct(&mut client, "notes", QUERY), Err("42501".into()));
    }
}

#[test]
fn row_security_behind_views_is_the_view_owners() {
    // Danger: the policy applies to the view's owner, or with security_invoker to the caller, and
    // the entry is scoped to the wrong one.
    let scene = Scene::new();
    let (alice, bob) = notes(&scene, "owner = current_user");
    let mut admin = scene.connect();
    admin
        .batch_execute(&format!(
            "CREATE VIEW of_super AS SELECT * FROM note;
             CREATE VIEW of_alice AS SELECT * FROM note; ALTER VIEW of_alice OWNER TO {alice};
             GRANT SELECT ON of_super, of_alice TO {alice}, {bob}"
        ))
        .unwrap();
    let mut views = vec!["of_super", "of_alice"];
    if scene.postgres().cluster().major() >= 15 {
        admin
            .batch_execute(&format!(
                "CREATE VIEW of_caller WITH (security_invoker) AS SELECT * FROM note;
                 GRANT SELECT ON of_caller TO {alice}, {bob}"
            ))
            .unwrap();
        views.push("of_caller");
    }
    let mut clients = [scene.connect(), scene.connect_as(&alice), scene.connect_as(&bob)];
    for view in views {
        let query = format!("SELECT owner, v FROM {view} ORDER BY v");
        for _ in 0..3 {
            for client in &mut clients {
                println!("{view}");
                same_as_direct(client, view, &query).unwrap();
            }
        }
    }
}

#[test]
fn nobody_reaches_anothers_entry_by_its_redis_key() {
    // Danger: a key that is chosen to be that of another's scoped entry.
    let scene = Scene::new();
    let (alice, bob) = notes(&scene, "owner = current_user");
    let (mut a, mut b) = (scene.connect_as(&alice), scene.connect_as(&bob));
    let mut admin = scene.connect();
    same_as_direct(&mut a, "notes", QUERY).unwrap();
    let key = explained(&mut a, "notes", QUERY, "redis_key").unwrap();
    for _ in 0..2 {
        same_as_direct(&mut b, &key, QUERY).unwrap();
        same_as_direct(&mut admin, &key, QUERY).unwrap();
        same_as_direct(&mut a, "notes", QUERY).unwrap();
    }
}
