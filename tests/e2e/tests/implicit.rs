//! Code that a query runs although it does not stand in its tree must not be shared between
//! settings.

use pg_cache_e2e::{Scene, same_as_direct};

/// What each defines, and a query that runs it unseen. Each hangs on the setting `app.x`.
const CASES: [(&str, &str, &str); 5] = [
    (
        "the default of an argument left out",
        "CREATE FUNCTION mine(t text, me text DEFAULT current_setting('app.x')) RETURNS bool
             IMMUTABLE LANGUAGE sql AS 'SELECT t = me'",
        "SELECT mine('1') AS v",
    ),
    (
        "the transition function of an aggregate",
        "CREATE FUNCTION step(text, int) RETURNS text STABLE LANGUAGE sql
             AS $$SELECT current_setting('app.x')$$;
         CREATE AGGREGATE last_x(int) (SFUNC = step, STYPE = text)",
        "SELECT last_x(1) AS v",
    ),
    (
        "the cast to json of a type",
        "CREATE TYPE mood AS ENUM ('a');
         CREATE FUNCTION mood_json(mood) RETURNS json STABLE LANGUAGE sql
             AS $$SELECT to_json(current_setting('app.x'))$$;
         CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood)",
        "SELECT 'a'::mood AS v",
    ),
    (
        "the operator class of a type",
        "CREATE TYPE num AS (v int);
         CREATE FUNCTION num_cmp(num, num) RETURNS int STABLE LANGUAGE sql AS $$SELECT
             (($1).v - ($2).v) * CASE current_setting('app.x') WHEN '1' THEN 1 ELSE -1 END$$;
         CREATE FUNCTION num_lt(num, num) RETURNS bool STABLE LANGUAGE sql
             AS 'SELECT num_cmp($1, $2) < 0';
         CREATE FUNCTION num_eq(num, num) RETURNS bool STABLE LANGUAGE sql
             AS 'SELECT num_cmp($1, $2) = 0';
         CREATE OPERATOR <<< (LEFTARG = num, RIGHTARG = num, FUNCTION = num_lt);
         CREATE OPERATOR === (LEFTARG = num, RIGHTARG = num, FUNCTION = num_eq);
         CREATE OPERATOR CLASS num_ops DEFAULT FOR TYPE num USING btree AS
             OPERATOR 1 <<<, OPERATOR 3 ===, FUNCTION 1 num_cmp(num, num)",
        "SELECT n FROM (VALUES (row(1)::num), (row(2)::num)) t(n) ORDER BY n",
    ),
    (
        "a function that is called in plain sight",
        "CREATE FUNCTION x() RETURNS text STABLE LANGUAGE sql
             AS $$SELECT current_setting('app.x')$$",
        "SELECT x() AS v",
    ),
];

#[test]
fn code_outside_the_tree_parts_entries_as_code_inside_does() {
    // Danger: one tenant's rows for another, because the function that told them apart was not
    // seen.
    let scene = Scene::new();
    let mut client = scene.connect();
    for (case, setup, query) in CASES {
        client.batch_execute(setup).unwrap();
        for x in ["1", "2", "1"] {
            client.batch_execute(&format!("SET app.x = '{x}'")).unwrap();
            let first = same_as_direct(&mut client, case, query);
            assert!(first.is_ok(), "{case}, app.x = {x}: {first:?}");
            assert_eq!(same_as_direct(&mut client, case, query), first, "{case}, app.x = {x}");
        }
    }
}
