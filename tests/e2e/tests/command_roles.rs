//! Each function is granted alone, and gives what it says and no more.

use pg_cache_e2e::Scene;
use pg_cache_e2e::cached;
use pg_cache_e2e::outcome::{sqlstate, words};
use postgres::Client;

const CALLS: [(&str, &str); 9] = [
    ("redis_get(text)", "redis_get('k')"),
    ("redis_set(text, text)", "redis_set('k', '1')"),
    ("redis_set(text, text, \"any\")", "redis_set('k', '1', 60)"),
    ("redis_del(text[])", "redis_del('none')"),
    ("redis_incr(text, bigint)", "redis_incr('k')"),
    ("redis_expire(text, \"any\")", "redis_expire('k', 60)"),
    ("redis_ttl(text)", "redis_ttl('k')"),
    ("redis_command(text, text[])", "redis_command('GET', 'k')"),
    ("redis_at_commit(text, text[])", "redis_at_commit('INCR', 'k')"),
];

#[track_caller]
fn denied(client: &mut Client, expression: &str) {
    let sql = format!("SELECT {expression}");
    let error = client.batch_execute(&sql).expect_err(&sql);
    assert_eq!(sqlstate(&error), "42501", "{sql}: {}", words(&error));
}

#[test]
fn each_function_is_granted_alone() {
    // Danger: who may count can read all keys; or a grant is not enough and people grant all.
    let scene = Scene::new();
    let mut admin = scene.connect();
    let role = scene.create_role("app");
    let mut user = scene.connect_as(&role);
    for (_, call) in CALLS {
        denied(&mut user, call);
    }
    denied(&mut user, "redis_flush()");
    for (function, granted) in CALLS {
        let grant = format!("GRANT EXECUTE ON FUNCTION {function} TO {role}");
        admin.batch_execute(&grant).unwrap();
        for (_, call) in CALLS {
            if call == granted {
                let sql = format!("SELECT {call}");
                user.batch_execute(&sql).unwrap_or_else(|e| panic!("{sql}: {}", words(&e)));
            } else {
                denied(&mut user, call);
            }
        }
        denied(&mut user, "redis_flush()");
        let revoke = format!("REVOKE EXECUTE ON FUNCTION {function} FROM {role}");
        admin.batch_execute(&revoke).unwrap();
    }
    // What everybody may needs no grant.
    assert_eq!(cached(&mut user, "mine", "SELECT 1 AS one").unwrap(), r#"[{"one":1}]"#);
}

#[test]
fn a_wrapper_gives_what_its_owner_may_and_no_other_name() {
    // Danger: the wrapper that shows flags shows sessions, or works for a superuser alone.
    let scene = Scene::new();
    let mut admin = scene.connect();
    let (owner, role) = (scene.create_role("owner"), scene.create_role("app"));
    admin
        .batch_execute(&format!(
            "GRANT EXECUTE ON FUNCTION redis_get(text), redis_command(text, text[]) TO {owner};
             GRANT CREATE ON SCHEMA public TO {owner}; SET ROLE {owner};
             CREATE FUNCTION flag(name text) RETURNS text LANGUAGE sql SECURITY DEFINER
                 SET search_path = public, pg_temp AS $$ SELECT redis_get('flag:' || name) $$;
             CREATE FUNCTION empty() RETURNS jsonb LANGUAGE sql SECURITY DEFINER
                 SET search_path = public, pg_temp AS $$ SELECT redis_command('FLUSHDB') $$;
             RESET ROLE;
             SELECT redis_set('flag:dark', 'on'), redis_set('secret', 's')"
        ))
        .unwrap();
    let mut user = scene.connect_as(&role);
    let flag: Option<String> = user.query_one("SELECT flag('dark')", &[]).unwrap().get(0);
    assert_eq!(flag.as_deref(), Some("on"));
    let other: Option<String> = user.query_one("SELECT flag('secret')", &[]).unwrap().get(0);
    assert_eq!(other, None);
    denied(&mut user, "redis_get('flag:dark')");
    denied(&mut user, "empty()");
    // One of a superuser's sends what only superusers may.
    admin.batch_execute("ALTER FUNCTION empty() OWNER TO postgres").unwrap();
    user.batch_execute("SELECT empty()").unwrap();
    assert_eq!(scene.redis.cli(&["EXISTS", "secret"]), "0");
}

#[test]
fn a_redis_user_with_less_is_enough() {
    // Danger: the access control list in the documents keeps pg_cache from working, or keeps
    // nothing from anybody.
    let scene = Scene::new();
    let rules = ["+@all", "-@dangerous", "+info"];
    for (name, keys) in [("all", &["~*"][..]), ("few", &["~pgc:*", "~app1:*"])] {
        let head = ["ACL", "SETUSER", name, "on", ">secret", "&*"];
        assert_eq!(scene.redis.cli(&[&head[..], keys, &rules].concat()), "OK");
    }
    for name in ["all", "few"] {
        scene.move_to(&format!("{}?user={name}&password=secret", scene.redis.url()));
        let mut client = scene.connect();
        client.batch_execute("SELECT redis_register('app1:')").unwrap();
        scene.register();
        client
            .batch_execute(
                "DROP TABLE IF EXISTS t; CREATE TABLE t (v int); SELECT redis_track('t')",
            )
            .unwrap();
        for v in 1..3 {
            client.batch_execute(&format!("INSERT INTO t VALUES ({v})")).unwrap();
            let count = cached(&mut client, "q", "SELECT count(*) FROM t").unwrap();
            assert_eq!(count, format!("[{{\"count\":{v}}}]"), "as {name}");
        }
        let sql = "SELECT redis_set('k', 'v'), redis_get('k'), redis_del('k'), redis_incr('n'),
                       redis_expire('n', 60), redis_ttl('n'), redis_flush(), redis_flush('+n')";
        client.batch_execute(sql).unwrap_or_else(|e| panic!("{name}: {}", words(&e)));
        let ok: bool = client
            .query_one(
                "SELECT bool_and(ok) FROM redis_health() WHERE \"check\" <> 'preloaded'",
                &[],
            )
            .unwrap()
            .get(0);
        assert!(ok, "as {name}");
        denied(&mut client, "redis_command('FLUSHALL')");
        let error = client
            .batch_execute("SELECT redis_command('EVAL', 'redis.call(\"FLUSHALL\")', '0')")
            .expect_err("a script may not either");
        assert_eq!(sqlstate(&error), "42501", "{}", words(&error));
    }
}
