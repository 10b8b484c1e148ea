//! Row groups: which tags a query depends on, as `redis_explain` tells them.

use pg_cache_e2e::Scene;
use pg_cache_e2e::tracking::{create_collation, track};
use postgres::Client;

/// Tables tracked by a column each, of every kind of type that compares by more than its bytes.
const SCHEMA: &str = "
CREATE DOMAIN code AS text CHECK (value <> '');
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE orders (id int, customer_id int, region text, total numeric, note text);
CREATE TABLE customers (id int, region text, big bigint, name varchar(20), flag bool);
CREATE TABLE lines (order_id int, price numeric, tag text COLLATE \"C\");
CREATE TABLE odd (n numeric, b char(4), v varchar(4), d code, m mood, c text COLLATE ci, f float8,
                  t timestamptz, u uuid, a int[], s smallint, o oid, day date);
CREATE TABLE plain (id int, customer_id int);
CREATE TABLE pairs (a int, b int, c int);
";

/// Returns whether the collation `ci` is not deterministic.
fn prepare(client: &mut Client) -> bool {
    let has_icu = create_collation(client);
    client.batch_execute(SCHEMA).unwrap();
    let tracked = [
        ("orders", "{customer_id}"),
        ("customers", "{id}"),
        ("lines", "{order_id}"),
        ("pairs", "{a,b}"),
    ];
    for (table, by) in tracked {
        track(client, table, by);
    }
    client.batch_execute("SELECT redis_track('plain')").unwrap();
    has_icu
}

/// What `redis_explain` says of a query, and of one of its tables.
#[derive(Debug)]
struct Explained {
    exact: String,
    why: String,
    /// None if it does not name the table.
    groups: Option<Vec<String>>,
}

fn explain(client: &mut Client, table: &str, query: &str, arguments: &str) -> Explained {
    let comma = if arguments.is_empty() { "" } else { ", " };
    let sql = format!(
        "SELECT e->>'exact', e->>'ttl_only_because',
           (SELECT array(SELECT jsonb_array_elements_text(t->'groups'))
              FROM jsonb_array_elements(e->'tables') t WHERE t->>'name' = 'public.{table}')
         FROM (SELECT redis_explain('k', $1{comma}{arguments})::jsonb) x(e)"
    );
    let row = client.query_one(&sql, &[&query]);
    let row = row.unwrap_or_else(|error| panic!("{query}: {error:?}"));
    Explained { exact: row.get(0), why: row.get(1), groups: row.get(2) }
}

#[track_caller]
fn groups(client: &mut Client, table: &str, query: &str) -> Vec<String> {
    let explained = explain(client, table, query, "");
    explained.groups.unwrap_or_else(|| panic!("{table} is not read: {query}"))
}

#[track_caller]
fn expect(client: &mut Client, table: &str, query: &str, arguments: &str, wanted: &[&str]) {
    let explained = explain(client, table, query, arguments);
    let found: Vec<_> = explained.groups.iter().flatten().map(String::as_str).collect();
    assert_eq!(found, wanted, "{table} in {query}");
    assert_eq!(explained.exact, "exact", "{query}: {}", explained.why);
}

#[test]
fn conditions_that_hold_for_every_row_pin_a_group() {
    // Danger: the whole table is depended on, so that every order placed empties every page.
    let scene = Scene::new();
    let mut client = scene.connect();
    prepare(&mut client);
    let five = &["customer_id = 5"][..];
    let cases = [
        ("SELECT * FROM orders WHERE customer_id = 5", five),
        ("SELECT * FROM orders o WHERE 5 = o.customer_id AND total > 3", five),
        ("SELECT * FROM orders WHERE (customer_id = 5 AND note = 'a') AND id > 1", five),
        (
            "SELECT count(*) FROM orders WHERE customer_id = 5 GROUP BY id HAVING sum(total) > 1",
            five,
        ),
        ("SELECT DISTINCT id FROM orders WHERE customer_id = 5 ORDER BY id LIMIT 3", five),
        ("SELECT *, row_number() OVER (ORDER BY id) FROM orders WHERE customer_id = 5", five),
        ("SELECT * FROM orders WHERE customer_id = 5::bigint", five),
        ("SELECT * FROM orders WHERE customer_id = '5'", five),
        ("SELECT * FROM orders WHERE (customer_id, id) = (5, 6)", five),
        ("SELECT * FROM orders WHERE customer_id = 5 AND customer_id = 6", five),
        ("SELECT * FROM (SELECT * FROM orders WHERE customer_id = 5) s WHERE s.id = 4", five),
        ("WITH w AS (SELECT * FROM orders WHERE customer_id = 5) SELECT * FROM w, w v", five),
        ("SELECT (SELECT max(total) FROM orders WHERE customer_id = 5) AS m", five),
        ("SELECT * FROM orders WHERE customer_id = NULL", &["customer_id = NULL"]),
        ("SELECT * FROM orders WHERE customer_id IN (5)", five),
        ("SELECT * FROM orders WHERE customer_id IN (5, 6)", &["customer_id = ANY (5, 6)"]),
        ("SELECT * FROM orders WHERE customer_id IN (5, NULL)", &["customer_id = ANY (5, NULL)"]),
        (
            "SELECT * FROM orders WHERE customer_id = ANY ('{5,6}')",
            &["customer_id = ANY ('{5,6}')"],
        ),
        (
            "SELECT * FROM orders WHERE customer_id = ANY ('{5,6}'::bigint[])",
            &["customer_id = ANY ('{5,6}')"],
        ),
        (
            "SELECT * FROM orders WHERE customer_id = 5 UNION SELECT * FROM orders
              WHERE customer_id = 6",
            &["customer_id = 5", "customer_id = 6"],
        ),
        (
            "SELECT * FROM orders a, orders b WHERE a.customer_id = 5 AND b.customer_id = 6",
            &["customer_id = 5", "customer_id = 6"],
        ),
        (
            "SELECT * FROM orders a, orders b
              WHERE a.customer_id = 5 AND b.customer_id = a.customer_id",
            five,
        ),
    ];
    for (query, wanted) in cases {
        expect(&mut client, "orders", query, "", wanted);
    }
}

#[test]
fn anything_less_certain_depends_on_the_table() {
    // Danger: a row outside the group shows in the result and its change leaves the entry a hit.
    let scene = Scene::new();
    let mut client = scene.connect();
    prepare(&mut client);
    let numbers: Vec<_> = (1..=65).map(|n| n.to_string()).collect();
    let many = format!("SELECT * FROM orders WHERE customer_id IN ({})", numbers.join(", "));
    let cases = [
        "SELECT * FROM orders",
        "SELECT * FROM orders WHERE customer_id > 5",
        "SELECT * FROM orders WHERE customer_id <> 5",
        "SELECT * FROM orders WHERE customer_id = 5 OR id = 1",
        "SELECT * FROM orders WHERE NOT customer_id = 5",
        "SELECT * FROM orders WHERE customer_id = 5 IS NOT FALSE",
        "SELECT * FROM orders WHERE NOT (customer_id <> 5)",
        "SELECT * FROM orders WHERE coalesce(customer_id = 5, true)",
        "SELECT * FROM orders WHERE customer_id IS NOT DISTINCT FROM 5",
        "SELECT * FROM orders WHERE customer_id + 0 = 5",
        "SELECT * FROM orders WHERE customer_id = 2 + 3",
        "SELECT * FROM orders WHERE customer_id = 5.0",
        "SELECT * FROM orders WHERE customer_id::text = '5'",
        "SELECT * FROM orders WHERE customer_id <> ANY ('{5,6}')",
        "SELECT * FROM orders WHERE customer_id = ALL ('{5}')",
        "SELECT * FROM orders WHERE customer_id IN (5, id)",
        "SELECT * FROM orders WHERE customer_id IN (SELECT id FROM customers WHERE id = 5)",
        "SELECT * FROM orders WHERE customer_id = (SELECT 5)",
        "SELECT customer_id FROM orders GROUP BY customer_id HAVING customer_id = 5",
        "SELECT sum(total) FILTER (WHERE customer_id = 5) FROM orders",
        "SELECT CASE WHEN customer_id = 5 THEN 1 END FROM orders",
        "SELECT * FROM (SELECT * FROM orders) s WHERE customer_id = 5",
        "WITH w AS (SELECT * FROM orders) SELECT * FROM w WHERE customer_id = 5",
        "SELECT * FROM customers c WHERE c.id = 5 AND EXISTS
           (SELECT 1 FROM orders o WHERE o.customer_id = c.id)",
        "SELECT * FROM orders o, orders p WHERE o.customer_id = 5",
        "SELECT * FROM orders WHERE customer_id = 5 UNION SELECT * FROM orders",
        "SELECT * FROM orders o LEFT JOIN customers c ON o.customer_id = 5",
        "SELECT * FROM customers c RIGHT JOIN orders o ON o.customer_id = 5",
        "SELECT * FROM orders o FULL JOIN customers c ON o.customer_id = 5",
        "SELECT * FROM orders o FULL JOIN (SELECT 5 AS customer_id) s USING (customer_id)
          WHERE customer_id = 5",
        "SELECT * FROM orders o LEFT JOIN customers c ON o.customer_id = c.id AND c.id = 5",
        "SELECT * FROM orders o LEFT JOIN customers c ON o.customer_id = c.id WHERE c.big = 5",
        &many,
    ];
    for query in cases {
        expect(&mut client, "orders", query, "", &[]);
    }
}

#[test]
fn joins_carry_a_value_where_the_rows_must_have_it() {
    // Danger: ON is not WHERE: for the preserved side of an outer join it filters nothing.
    let scene = Scene::new();
    let mut client = scene.connect();
    prepare(&mut client);
    let cases = [
        ("SELECT * FROM customers c JOIN orders o ON o.customer_id = c.id WHERE c.id = 5", true),
        ("SELECT * FROM customers c JOIN orders o ON o.customer_id = c.id AND c.id = 5", true),
        ("SELECT * FROM customers c LEFT JOIN orders o ON o.customer_id = c.id
          WHERE c.id = 5", true),
        ("SELECT * FROM customers c LEFT JOIN orders o ON o.customer_id = 5", true),
        ("SELECT * FROM customers c LEFT JOIN orders o ON o.customer_id = c.id AND c.id = 5", true),
        ("SELECT * FROM orders o RIGHT JOIN customers c ON o.customer_id = 5", true),
        ("SELECT * FROM orders o LEFT JOIN customers c ON true WHERE o.customer_id = 5", true),
        ("SELECT * FROM customers c LEFT JOIN orders o ON true WHERE o.customer_id = 5", true),
        ("SELECT * FROM customers c FULL JOIN orders o ON true WHERE o.customer_id = 5", true),
        ("SELECT * FROM customers c JOIN plain p ON p.id = c.id JOIN orders o ON
          o.customer_id = p.id WHERE c.id = 5", true),
        ("SELECT * FROM customers c, orders o, plain p WHERE p.customer_id = o.customer_id AND
          c.id = p.customer_id AND 5 = c.id", true),
        ("SELECT * FROM orders o JOIN (SELECT 5 AS id) s ON s.id = o.customer_id
          WHERE s.id = 5", true),
        ("SELECT * FROM orders o JOIN plain p USING (customer_id) WHERE customer_id = 5", true),
        ("SELECT * FROM (orders o JOIN plain p USING (customer_id)) j
          WHERE j.customer_id = 5", true),
        ("SELECT * FROM plain p LEFT JOIN orders o USING (customer_id)
          WHERE customer_id = 5", true),
        ("SELECT * FROM customers c JOIN LATERAL (SELECT * FROM orders o WHERE o.customer_id = 5
          AND o.id = c.id) l ON true", true),
        ("SELECT * FROM customers c JOIN orders o ON o.customer_id = c.big WHERE c.big = 5", true),
        ("SELECT * FROM orders o JOIN customers c ON o.customer_id = c.id JOIN plain p ON
          p.id = 5 AND p.id = c.id", true),
        ("SELECT * FROM plain p LEFT JOIN (orders o JOIN customers c ON c.id = o.customer_id) ON
          c.id = 5", true),
        // Not: the value is tied to another column, or by a condition that binds one side only.
        ("SELECT * FROM customers c JOIN orders o ON o.id = c.id WHERE c.id = 5", false),
        ("SELECT * FROM orders o LEFT JOIN customers c ON c.id = o.customer_id AND c.id =
          5", false),
        ("SELECT * FROM plain p RIGHT JOIN orders o USING (customer_id) LEFT JOIN customers c
          ON c.id = customer_id AND c.id = 5", false),
        ("SELECT * FROM customers c FULL JOIN orders o ON o.customer_id = c.id
          WHERE c.id = 5", false),
        ("SELECT * FROM customers c JOIN orders o ON o.customer_id < c.id WHERE c.id = 5", false),
        ("SELECT * FROM orders o LEFT JOIN plain p ON p.id = o.customer_id LEFT JOIN customers c
          ON c.id = p.id WHERE c.id = 5", false),
        ("SELECT * FROM customers c JOIN LATERAL (SELECT * FROM orders o WHERE o.customer_id = c.id)
          l ON true WHERE c.id = 5", false),
    ];
    for (query, pinned) in cases {
        let found = groups(&mut client, "orders", query);
        assert_eq!(found.len(), usize::from(pinned), "{found:?} in {query}");
    }
}

#[test]
fn arguments_pin_as_constants_do() {
    // Danger: prepared statements, which is what applications send, get no row groups.
    let scene = Scene::new();
    let mut client = scene.connect();
    prepare(&mut client);
    let cases = [
        ("SELECT * FROM orders WHERE customer_id = $1", "5", &["customer_id = $1"][..]),
        ("SELECT * FROM orders WHERE customer_id = $1", "5::bigint", &["customer_id = $1"]),
        ("SELECT * FROM orders WHERE customer_id = $1", "'5'", &["customer_id = $1"]),
        (
            "SELECT * FROM orders WHERE customer_id = $1",
            "VARIADIC ARRAY['5']",
            &["customer_id = $1"],
        ),
        ("SELECT * FROM orders WHERE customer_id = $1", "5.0", &[]),
        ("SELECT * FROM orders WHERE customer_id = $1", "NULL::int", &["customer_id = $1"]),
        (
            "SELECT * FROM orders WHERE customer_id IN ($1, 7, $2)",
            "5, 6",
            &["customer_id = ANY ($1, 7, $2)"],
        ),
        (
            "SELECT * FROM orders WHERE customer_id = ANY ($1)",
            "'{5,6}'::int[]",
            &["customer_id = ANY ($1)"],
        ),
        (
            "SELECT * FROM orders WHERE customer_id = ANY ($1)",
            "'{5,6}'::bigint[]",
            &["customer_id = ANY ($1)"],
        ),
        (
            "SELECT * FROM orders WHERE customer_id = ANY ($1)",
            "NULL::int[]",
            &["customer_id = ANY ($1)"],
        ),
        ("SELECT * FROM orders WHERE customer_id = $1 + 1", "5", &[]),
        ("SELECT * FROM orders WHERE customer_id = abs($1)", "5", &[]),
        ("SELECT * FROM orders WHERE $2 = customer_id AND id = $1", "5, 6", &["customer_id = $2"]),
    ];
    for (query, arguments, wanted) in cases {
        expect(&mut client, "orders", query, arguments, wanted);
    }
    track(&mut client, "odd", "{v}");
    let cases = [
        ("v = $1", "'a'::varchar", "v = $1"),
        ("v IN ($1, $2)", "'a'::varchar, 'b'::varchar", "v = ANY ($1, $2)"),
        ("v IN ($1, $2)", "'a', 'b'", "v = ANY ($1, $2)"),
        ("v = ANY ($1)", "'{a,b}'::varchar[]", "v = ANY ($1)"),
        ("v = ANY ($1)", "'{a,b}'::text[]", "v = ANY ($1)"),
        ("v = ANY ($1::varchar[])", "'{a,b}'", "v = ANY ($1)"),
    ];
    for (condition, arguments, wanted) in cases {
        let query = format!("SELECT 1 AS one FROM odd WHERE {condition}");
        expect(&mut client, "odd", &query, arguments, &[wanted]);
    }
}

#[test]
fn groups_follow_the_types_own_equality() {
    // Danger: text equality is not value equality: 1.0 = 1.00, 'a' = 'a  ', 'A' = 'a' where the
    // collation says so. A group by another equality than the query's misses rows.
    let scene = Scene::new();
    let mut client = scene.connect();
    let has_icu = prepare(&mut client);
    let cases = [
        ("n", "n = 1.00", true),
        ("n", "n = 1", true),
        ("n", "n = 1::bigint", true),
        ("n", "n = 1::float8", false),
        ("n", "n = ANY ('{1}'::int[])", false),
        ("b", "b = 'a'", true),
        ("b", "b = 'a  '::char(4)", false),
        ("b", "b = 'a'::text", false),
        ("v", "v = 'a'", true),
        ("v", "v = 'a'::text", true),
        ("v", "v::text = 'a'", true),
        ("v", "v = 'a' COLLATE \"C\"", true),
        ("v", "v = 'a' COLLATE ci", false),
        ("v", "v IN ('a', 'b')", true),
        ("v", "v = ANY (ARRAY['a', 'b']::varchar[])", true),
        ("v", "v = ANY ('{a,b}'::varchar[])", true),
        ("v", "v = ANY ('{a,b}'::varchar[]::text[])", true),
        ("v", "v = ANY ('{abc,b}'::varchar(2)[])", false),
        ("v", "v = ANY ('{a,b}'::name[])", false),
        ("v", "v IN ('a', 'b' COLLATE ci)", false),
        ("d", "d = 'a'", true),
        ("d", "d = 'a'::code", false),
        ("d", "d = ANY ('{a}'::code[])", true),
        ("m", "m = 'sad'", true),
        ("c", "c = 'a'", true),
        ("c", "c = 'a' COLLATE ci", true),
        ("c", "c = 'a' COLLATE \"C\"", true),
        ("c", "c = ANY ('{a,B}')", true),
        ("c", "c LIKE 'a'", false),
        ("f", "f = 1", true),
        ("f", "f = '1'::float4", true),
        ("f", "f = 1.5", false),
        ("t", "t = '2024-01-01 00:00+00'", true),
        ("t", "t = '2024-01-01'::date", false),
        ("u", "u = '00000000-0000-0000-0000-000000000001'", true),
        ("a", "a = '{1,2}'", true),
        ("s", "s = 1", true),
        ("s", "s = 1::bigint", true),
        ("s", "s = '1'", true),
        ("o", "o = 1", true),
        ("o", "o = '1'", true),
        ("o", "o::int = 1", false),
        ("o", "o = ANY ('{1}'::int[])", true),
        ("day", "day = '2024-01-01'", true),
        ("day", "day = '2024-01-01'::timestamp", false),
    ];
    for (column, condition, pinned) in cases {
        if !has_icu && condition.contains("ci") {
            continue;
        }
        track(&mut client, "odd", &format!("{{{column}}}"));
        let query = format!("SELECT 1 AS one FROM odd WHERE {condition}");
        let found = groups(&mut client, "odd", &query);
        assert_eq!(found.len(), usize::from(pinned), "{found:?} for {condition}");
    }
}

#[test]
fn several_columns_pin_together_or_one_alone() {
    // Danger: the query depends on a pair that no change notes.
    let scene = Scene::new();
    let mut client = scene.connect();
    prepare(&mut client);
    let cases = [
        ("a = 1 AND b = 2", &["a = 1 AND b = 2"][..]),
        ("b = 2 AND a = 1", &["a = 1 AND b = 2"]),
        ("a = 1", &["a = 1"]),
        ("b = 2 AND c = 3", &["b = 2"]),
        ("c = 3", &[]),
    ];
    for (condition, wanted) in cases {
        let query = format!("SELECT * FROM pairs WHERE {condition}");
        expect(&mut client, "pairs", &query, "", wanted);
    }
}

#[test]
fn views_and_policies_bring_their_own_conditions() {
    // Danger: what a view pins inside is lost, or a policy's tables are not depended on.
    let scene = Scene::new();
    let mut client = scene.connect();
    prepare(&mut client);
    client
        .batch_execute(
            "CREATE VIEW five AS SELECT * FROM orders WHERE customer_id = 5;
             CREATE VIEW per_customer AS SELECT customer_id, sum(total) FROM orders GROUP BY 1;
             ALTER TABLE lines ENABLE ROW LEVEL SECURITY;
             ALTER TABLE lines FORCE ROW LEVEL SECURITY;
             CREATE POLICY p ON lines USING (EXISTS (SELECT 1 FROM orders WHERE id = order_id));
             CREATE FUNCTION bare() RETURNS TABLE (n int) LANGUAGE sql IMMUTABLE AS 'SELECT 1';",
        )
        .unwrap();
    expect(&mut client, "orders", "SELECT * FROM five WHERE id = 1", "", &["customer_id = 5"]);
    expect(&mut client, "orders", "SELECT * FROM per_customer WHERE customer_id = 5", "", &[]);
    let role = scene.create_role("reader");
    client.batch_execute(&format!("GRANT SELECT ON lines, orders TO {role}")).unwrap();
    let mut reader = scene.connect_as(&role);
    let query = "SELECT * FROM lines WHERE order_id = 3";
    expect(&mut reader, "lines", query, "", &["order_id = 3"]);
    expect(&mut reader, "orders", query, "", &[]);
}
