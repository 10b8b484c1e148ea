//! Settings, roles and places that change a result or its text: each reader gets its own.

use pg_cache_e2e::counters::counted;
use pg_cache_e2e::{Scene, cached, direct, same_as_direct};

#[test]
fn settings_that_change_the_text_of_values_tell_entries_apart() {
    // Danger: a client in Tokyo reads timestamps that were written for one in Berlin.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TABLE t AS SELECT timestamptz '2024-07-01 12:00:00+00' AS at,
               interval '1 year 2 months -3 days 04:05:06' AS span, date '2024-07-01' AS day,
               1.0::float8 / 3 AS third, 1.0::float4 / 3 AS small, bytea '\\x00ff5c' AS raw,
               12.34::money AS cost, array[timestamp '2024-07-01 12:00'] AS list,
               '2024-01-01 00:00+00'::timestamptz::text AS as_text,
               '<a>é</a>'::xml AS doc",
        )
        .unwrap();
    let query = "SELECT *, at::text AS at_text, span::text AS span_text, day::text AS day_text,
                 raw::text AS raw_text, third::text AS third_text, now() < at AS past,
                 to_char(at, 'TMMonth HH24') AS words FROM t";
    let stable = query.replace("now() < at", "at < '2024-07-01 13:00'");
    for _ in 0..2 {
        for setting in [
            "TimeZone = 'UTC'",
            "TimeZone = 'Asia/Tokyo'",
            "TimeZone = '<+01>-01'",
            "DateStyle = 'SQL, DMY'",
            "DateStyle = 'SQL, MDY'",
            "DateStyle = 'German'",
            "IntervalStyle = 'iso_8601'",
            "IntervalStyle = 'sql_standard'",
            "extra_float_digits = 0",
            "extra_float_digits = -5",
            "bytea_output = 'escape'",
            "lc_monetary = 'C'",
            "xmloption = 'document'",
            "quote_all_identifiers = on",
            "standard_conforming_strings = on",
        ] {
            client.batch_execute(&format!("SET {setting}")).unwrap();
            println!("{setting}");
            same_as_direct(&mut client, "texts", query).unwrap();
            same_as_direct(&mut client, "texts", &stable).unwrap();
            client.batch_execute("RESET ALL; SET statement_timeout = '60s'").unwrap();
            same_as_direct(&mut client, "texts", &stable).unwrap();
        }
    }
}

#[test]
fn settings_that_change_how_the_query_is_read_tell_entries_apart() {
    // Danger: one text means two queries and one key gives one answer for both.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS v, NULL::int AS n").unwrap();
    let cases = [
        ("backslash_quote, strings", r"SELECT 'a\n' AS v", "standard_conforming_strings"),
        ("transform", "SELECT n = NULL AS v FROM t", "transform_null_equals"),
        ("nulls in arrays", "SELECT ('{NULL}'::text[])[1] AS v", "array_nulls"),
    ];
    for (what, query, setting) in cases {
        for value in ["on", "off", "on"] {
            client.batch_execute(&format!("SET {setting} = {value}")).unwrap();
            println!("{what}: {setting} = {value}");
            same_as_direct(&mut client, what, query).unwrap();
        }
        client.batch_execute(&format!("RESET {setting}")).unwrap();
    }
}

#[test]
fn a_setting_that_the_query_reads_tells_entries_apart() {
    // Danger: the tenant stands in a setting of the application's own, the key does not name it.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TABLE t AS SELECT g AS tenant, 'secret of ' || g AS v
               FROM generate_series(1, 3) g;
             CREATE VIEW mine AS SELECT v FROM t
               WHERE tenant = nullif(current_setting('app.tenant', true), '')::int;
             CREATE FUNCTION tenant() RETURNS int STABLE LANGUAGE sql
               AS $$ SELECT nullif(current_setting('app.tenant', true), '')::int $$",
        )
        .unwrap();
    let queries = [
        "SELECT v FROM t WHERE tenant = nullif(current_setting('app.tenant', true), '')::int",
        "SELECT v FROM mine",
        "SELECT v FROM t WHERE tenant = tenant()",
        "SELECT current_setting('app.tenant', true) AS v",
        "SELECT current_setting('app.' || 'tenant', true) AS v",
        "SELECT current_setting(n, true) AS v FROM (VALUES ('app.tenant')) AS x(n)",
    ];
    for query in queries {
        for tenant in ["1", "2", "3", "1", ""] {
            client.batch_execute(&format!("SET app.tenant = '{tenant}'")).unwrap();
            println!("tenant {tenant:?}");
            same_as_direct(&mut client, "tenant", query).unwrap();
        }
        client.batch_execute("BEGIN; SET LOCAL app.tenant = '2'").unwrap();
        same_as_direct(&mut client, "tenant", query).unwrap();
        client.batch_execute("ROLLBACK").unwrap();
        same_as_direct(&mut client, "tenant", query).unwrap();
    }
}

#[test]
fn who_and_where_the_caller_is_tells_entries_apart() {
    // Danger: "hello, alice" is shown to bob.
    let scene = Scene::new();
    let (alice, bob) = (scene.create_role("alice"), scene.create_role("bob"));
    let mut clients = [
        scene.connect(),
        scene.connect_as(&alice),
        scene.connect_as(&bob),
        scene.connect_as(&alice),
    ];
    let expressions = [
        "current_user::text",
        "session_user::text",
        "user::text",
        "current_role::text",
        "current_database()::text",
        "current_schema()::text",
        "current_schemas(true)::text",
        "current_setting('TimeZone')",
        "current_setting('application_name')",
        "pg_backend_pid()",
        "inet_client_addr()",
        "has_database_privilege(current_database(), 'CREATE')",
        "pg_has_role('pg_monitor', 'USAGE')",
        "current_query() IS NULL",
        "pg_my_temp_schema() > 0",
        "version()",
        "current_setting('role')",
        "getdatabaseencoding()::text",
    ];
    for expression in expressions {
        let query = format!("SELECT {expression} AS v");
        for _ in 0..2 {
            for client in &mut clients {
                println!("{expression}");
                if expression.starts_with("current_query") {
                    cached(client, "who", &query).ok();
                } else {
                    same_as_direct(client, "who", &query).ok();
                }
            }
        }
    }
}

#[test]
fn a_query_that_tells_the_time_tells_the_callers_own() {
    // Danger: within its transaction now() stands still; a cached now() is another transaction's.
    // Within the TTL an old time is what the caller asked for; a time of the future is not.
    let scene = Scene::new();
    let mut client = scene.connect();
    let query = "SELECT now() <= clock_timestamp() AS v";
    assert_eq!(cached(&mut client, "t", query), Err("42P17".into()), "clock_timestamp is volatile");
    let first = cached(&mut client, "t", "SELECT now()::text AS v").unwrap();
    let second = cached(&mut client, "t", "SELECT now()::text AS v").unwrap();
    assert_eq!(first, second, "stable for its TTL");
}

#[test]
fn scope_settings_give_entries_of_their_own_side_by_side() {
    // Danger: settings that a function reads unseen must be nameable by the administrator, and two
    // tenants must not push each other's entries out.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "SET pg_cache.scope_settings = 'app.tenant, app.region';
             CREATE FUNCTION region() RETURNS text STABLE LANGUAGE plpgsql
               AS $$ BEGIN RETURN current_setting('app.region', true); END $$",
        )
        .unwrap();
    let query = "SELECT region() AS v";
    for round in 0..2 {
        for region in ["eu", "us", "", "eu-us"] {
            client.batch_execute(&format!("SET app.region = '{region}'")).unwrap();
            let expected = direct(&mut client, query);
            let (answer, counters) = counted(&mut client, |c| cached(c, "scoped", query));
            assert_eq!(answer, expected);
            assert_eq!(counters.hits, round, "region {region:?}: {counters:?}");
        }
    }
    assert_eq!(pg_cache_e2e::counters::keys(&scene.redis, "scoped#*").len(), 4);
}

#[test]
fn encodings_of_the_client_do_not_reach_the_entry() {
    // Danger: one client's encoding is stored and served to another.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("CREATE TABLE t AS SELECT 'é€ö'::text AS v").unwrap();
    let hex = "SELECT encode(convert_to(redis_cached('enc', 60, 'SELECT v FROM t')::text, 'UTF8'),
               'hex')";
    let expected: String = client.query_one(hex, &[]).unwrap().get(0);
    client.batch_execute("SELECT redis_flush()").unwrap();
    client.simple_query("SET client_encoding = 'LATIN9'").unwrap();
    let messages = client.simple_query(hex).unwrap();
    let got = messages.iter().find_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    assert_eq!(got, Some(expected));
}

#[test]
fn functions_of_the_users_own_do_not_stand_in_for_the_servers() {
    // Danger: a schema early in the search_path has a row_to_json or a json_agg.
    let scene = Scene::new();
    let mut client = scene.connect();
    let query = "SELECT g AS v, 'x' AS t FROM generate_series(1, 2) g";
    let expected = direct(&mut client, query);
    client
        .batch_execute(
            "CREATE SCHEMA evil;
             CREATE FUNCTION evil.row_to_json(record) RETURNS json IMMUTABLE LANGUAGE plpgsql AS
               $$ BEGIN RETURN to_json(666); END $$;
             CREATE FUNCTION evil.state(text, json) RETURNS text IMMUTABLE LANGUAGE sql AS
               $$ SELECT 'evil' $$;
             CREATE AGGREGATE evil.json_agg(json) (SFUNC = evil.state, STYPE = text);
             CREATE FUNCTION evil.json_to_recordset(json) RETURNS SETOF record LANGUAGE sql AS
               $$ SELECT 666, 'evil'::text $$;
             CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text STABLE LANGUAGE sql AS
               $$ SELECT 'evil' $$;
             CREATE FUNCTION evil.eq(text, text) RETURNS bool IMMUTABLE LANGUAGE sql AS
               $$ SELECT true $$;
             CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq)",
        )
        .unwrap();
    client.batch_execute("SET search_path = evil, pg_catalog, public").unwrap();
    for key in ["k", "k"] {
        assert_eq!(cached(&mut client, key, query), expected);
        let sql = "SELECT string_agg(v || t, ',')
                   FROM public.redis_cached_rows('k', 60, $1) AS r(v int, t text)";
        let rows: String = client.query_one(sql, &[&query]).unwrap().get(0);
        assert_eq!(rows, "1x,2x");
    }
    for sql in [
        "SELECT public.redis_explain('k', $1)::text",
        "SELECT public.redis_cached_view('public.seen', 60, $1)::text",
    ] {
        client.query_one(sql, &[&query]).unwrap();
    }
    client
        .batch_execute("TABLE public.redis_stat_cached; SELECT * FROM public.redis_health()")
        .unwrap();
    let rows: i64 =
        client.query_one("SELECT count(*) FROM public.seen WHERE v < 3", &[]).unwrap().get(0);
    assert_eq!(rows, 2);
}

#[test]
fn settings_of_a_function_hold_within_it_and_end_with_it() {
    // Danger: what a SET clause, a savepoint or a rollback changes is not noticed.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE SCHEMA other; CREATE TABLE t AS SELECT 'public' AS v, now() - now() AS z;
             CREATE TABLE other.t AS SELECT 'other' AS v, interval '1 day' AS z;
             CREATE FUNCTION plain() RETURNS text STABLE LANGUAGE plpgsql AS $$
               BEGIN RETURN redis_cached('k', 60,
                 'SELECT v, z, timestamptz ''2024-07-01 00:00+00'' AS at,
                 current_setting(''app.x'', true) AS x FROM t'); END $$;
             CREATE FUNCTION elsewhere() RETURNS text STABLE LANGUAGE plpgsql
               SET search_path = other, public SET TimeZone = 'Asia/Tokyo' SET app.x = 'within'
               SET IntervalStyle = 'iso_8601' AS $$ BEGIN RETURN plain(); END $$;
             SET app.x = 'outside'",
        )
        .unwrap();
    let mut ask = |sql: &str| -> String { client.query_one(sql, &[]).unwrap().get(0) };
    let row = |v: &str, z: &str, at: &str, x: &str| {
        format!(r#"[{{"v":"{v}","z":"{z}","at":"2024-07-01T{at}","x":"{x}"}}]"#)
    };
    let outside = row("public", "00:00:00", "00:00:00+00:00", "outside");
    let within = row("other", "P1D", "09:00:00+09:00", "within");
    for _ in 0..3 {
        assert_eq!(ask("SELECT plain()"), outside);
        assert_eq!(ask("SELECT elsewhere()"), within);
        assert_eq!(
            ask("SELECT elsewhere() || plain() || elsewhere()"),
            [&*within, &outside, &within].concat()
        );
    }
    client
        .batch_execute("BEGIN; SAVEPOINT s; SET LOCAL app.x = 'local'; SET TimeZone = 'Asia/Tokyo'")
        .unwrap();
    let mut ask = |sql: &str| -> String { client.query_one(sql, &[]).unwrap().get(0) };
    assert_eq!(ask("SELECT plain()"), row("public", "00:00:00", "09:00:00+09:00", "local"));
    client.batch_execute("ROLLBACK TO s").unwrap();
    let mut ask = |sql: &str| -> String { client.query_one(sql, &[]).unwrap().get(0) };
    assert_eq!(ask("SELECT plain()"), outside);
    client.batch_execute("SET TimeZone = 'Asia/Tokyo'; COMMIT").unwrap();
    let mut ask = |sql: &str| -> String { client.query_one(sql, &[]).unwrap().get(0) };
    assert_eq!(ask("SELECT plain()"), row("public", "00:00:00", "09:00:00+09:00", "outside"));
}
