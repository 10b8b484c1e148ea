//! Row groups at work: a change of another group leaves the entry a hit, one of its own does not.

use pg_cache_e2e::counters::counted;
use pg_cache_e2e::registry::repair;
use pg_cache_e2e::tracking::{create_collation, track};
use pg_cache_e2e::{Scene, cached, direct, same_as_direct};
use postgres::Client;

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// Reads twice: what was not there is, and the second time it is a hit.
#[track_caller]
fn fill(reader: &mut Client, key: &str, query: &str) {
    same_as_direct(reader, key, query).unwrap();
    assert!(is_hit(reader, key, query), "{query} is not kept");
}

#[track_caller]
fn is_hit(reader: &mut Client, key: &str, query: &str) -> bool {
    let (_, counters) = counted(reader, |reader| same_as_direct(reader, key, query).unwrap());
    counters.hits == 1
}

fn scene_with(schema: &str) -> (Scene, Client, Client) {
    let scene = Scene::new();
    let (mut reader, mut writer) = (scene.connect(), scene.connect());
    run(&mut writer, schema);
    run(&mut reader, "SELECT * FROM redis_repair()");
    // Hits are counted: a machine that stands still for a moment is no miss.
    run(&mut reader, "SET pg_cache.timeout_ms = '5s'");
    (scene, reader, writer)
}

const ORDERS: &str = "
CREATE TABLE orders (id int PRIMARY KEY, customer_id int, total numeric);
INSERT INTO orders SELECT g, g % 10, g FROM generate_series(1, 100) g;
CREATE TABLE customers (id int PRIMARY KEY, name text);
INSERT INTO customers SELECT g, 'c' || g FROM generate_series(0, 9) g;
";

#[test]
fn a_change_of_another_group_leaves_the_entry_a_hit() {
    // Danger: every order of anybody empties everybody's page; or, worse, one's own does not.
    let (_scene, mut reader, mut writer) = scene_with(ORDERS);
    track(&mut writer, "orders", "{customer_id}");
    track(&mut writer, "customers", "{id}");
    let queries = [
        "SELECT id, total FROM orders WHERE customer_id = 5 ORDER BY id",
        "SELECT c.name, sum(o.total) FROM customers c LEFT JOIN orders o ON o.customer_id = c.id
          WHERE c.id = 5 GROUP BY 1",
        "SELECT max(total) FROM orders WHERE customer_id = ANY ('{5}')",
    ];
    let others = [
        "UPDATE orders SET total = total + 1 WHERE customer_id = 6",
        "INSERT INTO orders VALUES (106, 6, 1), (107, 7, 2)",
        "UPDATE orders SET customer_id = 7 WHERE id = 106",
        "DELETE FROM orders WHERE id IN (106, 107)",
        "UPDATE customers SET name = name || '!' WHERE id = 6",
        "BEGIN; UPDATE orders SET total = 0; ROLLBACK",
        "BEGIN; SAVEPOINT s; DELETE FROM orders WHERE customer_id = 5; ROLLBACK TO s;
         UPDATE orders SET total = 1 WHERE customer_id = 4; COMMIT",
        "INSERT INTO orders VALUES (108, NULL, 8)",
    ];
    let own = [
        "UPDATE orders SET total = total + 1 WHERE id = 5",
        "INSERT INTO orders VALUES (205, 5, 50)",
        "UPDATE orders SET customer_id = 6 WHERE id = 205",
        "UPDATE orders SET customer_id = 5 WHERE id = 205",
        "UPDATE orders SET customer_id = NULL WHERE id = 205",
        "UPDATE orders SET customer_id = 5 WHERE id = 205",
        "DELETE FROM orders WHERE id = 205",
        "INSERT INTO orders VALUES (5, 5, 1) ON CONFLICT (id) DO UPDATE SET total = 77",
        "UPDATE orders SET total = 0",
        "TRUNCATE orders",
    ];
    for (place, query) in queries.iter().enumerate() {
        fill(&mut reader, &format!("q:{place}"), query);
    }
    for (changes, hit) in [(&others[..], true), (&own[..], false)] {
        for change in changes {
            run(&mut writer, change);
            for (place, query) in queries.iter().enumerate() {
                let key = format!("q:{place}");
                assert_eq!(is_hit(&mut reader, &key, query), hit, "{query} after {change}");
                fill(&mut reader, &key, query);
            }
        }
    }
}

#[test]
fn more_than_a_thousand_groups_are_the_whole_table() {
    // Danger: the groups that do not fit are told to nobody; or a large change empties everybody's
    // page although it could be told group by group.
    let (_scene, mut reader, mut writer) = scene_with(
        "CREATE TABLE orders (id int PRIMARY KEY, total int);
         INSERT INTO orders SELECT g, 0 FROM generate_series(1, 2010) g",
    );
    track(&mut writer, "orders", "{id}");
    // With fewer, one of so many groups may well share its bucket with what the entry depends on.
    run(&mut writer, "SELECT redis_register(buckets => 1048576)");
    repair(&mut writer);
    let query = "SELECT total FROM orders WHERE id = 5";
    let because = |reader: &mut Client| -> Vec<String> {
        let sql = "SELECT array(SELECT jsonb_array_elements_text(
                     redis_explain('k', $1)::jsonb->'status_because'))";
        reader.query_one(sql, &[&query]).unwrap().get(0)
    };
    let (group, whole) =
        ("a row group of table public.orders", "table public.orders as a whole, as by TRUNCATE");
    for (from, to, blamed) in [
        (6, 1005, None),
        (5, 1004, Some(group)),
        (6, 1006, Some(whole)),
        (5, 1005, Some(whole)),
        (6, 2010, Some(whole)),
    ] {
        fill(&mut reader, "k", query);
        let change =
            format!("UPDATE orders SET total = total + 1 WHERE id BETWEEN {from} AND {to}");
        run(&mut writer, &change);
        assert_eq!(because(&mut reader), Vec::from_iter(blamed), "{change}");
        assert_eq!(is_hit(&mut reader, "k", query), blamed.is_none(), "{change}");
    }
    // Own comes last, when nothing fits any more.
    fill(&mut reader, "k", query);
    run(
        &mut writer,
        "BEGIN; UPDATE orders SET total = total + 1 WHERE id BETWEEN 6 AND 1006;
         UPDATE orders SET total = 77 WHERE id = 5; COMMIT",
    );
    assert!(!is_hit(&mut reader, "k", query));
}

#[test]
fn a_list_of_varchar_counts_by_its_members() {
    // Danger: the members are hashed in another way than the column, and a change goes unseen.
    let (_scene, mut reader, mut writer) = scene_with(
        "CREATE TABLE users (id int PRIMARY KEY, name varchar(20), n int);
         INSERT INTO users SELECT g, 'u' || g, 0 FROM generate_series(1, 9) g",
    );
    track(&mut writer, "users", "{name}");
    let queries = [
        "SELECT n FROM users WHERE name IN ('u1', 'u2') ORDER BY id",
        "SELECT n FROM users WHERE name = ANY ('{u1,u2}'::varchar[]) ORDER BY id",
        "SELECT n FROM users WHERE name = ANY ('{u1xx,u2}'::varchar(2)[]) ORDER BY id",
    ];
    for query in queries {
        fill(&mut reader, query, query);
    }
    run(&mut writer, "UPDATE users SET n = n + 1 WHERE name = 'u3'");
    let kept = queries.map(|query| is_hit(&mut reader, query, query));
    assert_eq!(kept, [true, true, false]);
    run(&mut writer, "UPDATE users SET n = n + 1 WHERE name = 'u2'");
    let kept = queries.map(|query| is_hit(&mut reader, query, query));
    assert_eq!(kept, [false; 3]);
}

#[test]
fn arguments_find_the_group_that_the_writer_notes() {
    // Danger: the argument is hashed as another type than the column, and no change reaches it.
    let (_scene, mut reader, mut writer) = scene_with(ORDERS);
    track(&mut writer, "orders", "{customer_id}");
    for arguments in ["5", "5::bigint", "5::smallint", "'5'", "VARIADIC ARRAY['5']"] {
        let sql = format!(
            "SELECT redis_cached('p', 60,
               'SELECT id, total FROM orders WHERE customer_id = $1 ORDER BY id',
               {arguments})::text"
        );
        let hits = |reader: &mut Client| {
            let (text, counters) =
                counted(reader, |reader| reader.query_one(&sql, &[]).unwrap().get::<_, String>(0));
            let query = "SELECT id, total FROM orders WHERE customer_id = 5 ORDER BY id";
            assert_eq!(Ok(text), direct(reader, query), "{arguments}");
            println!("{arguments}: {counters:?}");
            counters.hits
        };
        hits(&mut reader);
        assert_eq!(hits(&mut reader), 1, "{arguments}");
        run(&mut writer, "UPDATE orders SET total = total + 1 WHERE customer_id = 6");
        assert_eq!(hits(&mut reader), 1, "{arguments}: another group");
        run(&mut writer, "UPDATE orders SET total = total + 1 WHERE id = 5");
        assert_eq!(hits(&mut reader), 0, "{arguments}: its own group");
    }
}

#[test]
fn arrays_of_arguments_find_each_group() {
    // Danger: only the first element counts.
    let (_scene, mut reader, mut writer) = scene_with(ORDERS);
    track(&mut writer, "orders", "{customer_id}");
    let hits = |reader: &mut Client, array: &str| {
        let sql = format!(
            "SELECT redis_cached('a', 60, 'SELECT count(*), sum(total) FROM orders
               WHERE customer_id = ANY ($1)', {array})::text"
        );
        let (text, counters) =
            counted(reader, |reader| reader.query_one(&sql, &[]).unwrap().get::<_, String>(0));
        let query =
            format!("SELECT count(*), sum(total) FROM orders WHERE customer_id = ANY ({array})");
        assert_eq!(Ok(text), direct(reader, &query), "{array}");
        counters.hits
    };
    for array in ["'{5,6,NULL}'::int[]", "'{6,5}'::bigint[]", "'{{5},{6}}'::int[]"] {
        for (change, hit) in [("7", 1), ("5", 0), ("6", 0)] {
            hits(&mut reader, array);
            let sql = format!("UPDATE orders SET total = total + 1 WHERE customer_id = {change}");
            run(&mut writer, &sql);
            assert_eq!(hits(&mut reader, array), hit, "{array} after {sql}");
        }
    }
    let all = "(SELECT array_agg(g) FROM generate_series(0, 99) g)::int[]";
    hits(&mut reader, all);
    run(&mut writer, "UPDATE orders SET total = total + 1 WHERE customer_id = 7");
    assert_eq!(hits(&mut reader, all), 0, "too many groups are the table");
    hits(&mut reader, "NULL::int[]");
    run(&mut writer, "UPDATE orders SET total = total + 1");
    assert_eq!(hits(&mut reader, "NULL::int[]"), 1, "NULL equals nothing");
}

#[test]
fn values_that_are_equal_are_one_group_however_they_are_written() {
    // Danger: 1.0 = 1.00 and 'A' = 'a' where the collation says so: a change of the one must reach
    // the query for the other.
    let (_scene, mut reader, mut writer) = scene_with(
        "CREATE DOMAIN code AS text CHECK (value <> '');
         CREATE TYPE mood AS ENUM ('sad', 'happy')",
    );
    // The column's type, what the query has, what the writer writes, and another group.
    let cases = [
        ("numeric", "= 1", "1.00", "2"),
        ("numeric", "= 1.0::numeric", "1.000", "1.01"),
        ("numeric", "IN (1, 3)", "'3.0'", "2"),
        ("char(4)", "= 'a'", "'a  '", "'b'"),
        ("varchar(9)", "= 'a'", "'a'", "'a '"),
        ("varchar(9)", "= 'a'::text", "'a'", "'A'"),
        ("text COLLATE ci", "= 'a'", "'A'", "'b'"),
        ("text COLLATE ci", "= 'a' COLLATE \"C\"", "'a'", "'b'"),
        ("text COLLATE ci", "= ANY ('{x,ABC}')", "'aBc'", "'b'"),
        ("code", "= 'a'", "'a'", "'b'"),
        ("mood", "= 'sad'", "'sad'", "'happy'"),
        ("float8", "= 0", "'-0'", "1"),
        ("float8", "= 'NaN'", "'NaN'", "0"),
        ("float8", "= '1.5'::float4", "1.5", "1.25"),
        ("float4", "= '1.5'::float8", "1.5", "1.25"),
        (
            "timestamptz",
            "= '2024-01-01 00:00+00'",
            "'2024-01-01 02:00+02'",
            "'2024-01-01 00:00+02'",
        ),
        ("interval", "= '1 day'", "'24 hours'", "'25 hours'"),
        (
            "uuid",
            "= '00000000-0000-0000-0000-00000000000A'",
            "'00000000-0000-0000-0000-00000000000a'",
            "'00000000-0000-0000-0000-00000000000b'",
        ),
        ("numeric[]", "= '{1,2}'", "'{1.0,2.00}'", "'{1}'"),
        ("int8", "= '-1'::int2", "-1", "1"),
        ("int2", "= 7::int8", "7", "8"),
        ("jsonb", "= '{\"a\":1.0}'", "'{\"a\":1.00}'", "'{\"a\":2}'"),
        ("int4range", "= '[1,3)'", "'[1,2]'", "'[1,3]'"),
        ("inet", "= '10.0.0.1'", "'10.0.0.1/32'", "'10.0.0.1/24'"),
        ("bytea", "= '\\x41'", "'A'", "'B'"),
        ("bool", "= true", "'yes'", "false"),
        ("name", "= 'a'", "'a'", "'b'"),
        ("\"char\"", "= 'a'", "'a'", "'b'"),
        ("date", "= 'epoch'", "'1970-01-01'", "'1970-01-02'"),
    ];
    let has_icu = create_collation(&mut writer);
    for (index, (kind, condition, same, other)) in cases.into_iter().enumerate() {
        if !has_icu && kind.contains("ci") {
            continue;
        }
        let (table, key) = (format!("t{index}"), format!("k{index}"));
        run(&mut writer, &format!("CREATE TABLE {table} (n int, c {kind})"));
        track(&mut writer, &table, "{c}");
        let query = format!("SELECT count(*) FROM {table} WHERE c {condition}");
        fill(&mut reader, &key, &query);
        run(&mut writer, &format!("INSERT INTO {table} VALUES (1, {other})"));
        assert!(is_hit(&mut reader, &key, &query), "{kind} {condition}: {other} is another group");
        run(&mut writer, &format!("INSERT INTO {table} VALUES (1, {same})"));
        assert!(!is_hit(&mut reader, &key, &query), "{kind} {condition}: {same} is its group");
        assert!(cached(&mut reader, &key, &query).unwrap().contains(":1}"), "{kind} {condition}");
    }
}

#[test]
fn partitions_and_children_note_groups_of_what_is_queried() {
    // Danger: a leaf notes its own name, the query depends on the root's.
    let (_scene, mut reader, mut writer) = scene_with(
        "CREATE TABLE p (id int, g int, v int) PARTITION BY RANGE (id);
         CREATE TABLE p1 (v int, id int, junk int, g int);
         ALTER TABLE p1 DROP COLUMN junk;
         ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY LIST (g);
         CREATE TABLE p2a PARTITION OF p2 FOR VALUES IN (1, 2);
         CREATE TABLE p2b PARTITION OF p2 DEFAULT;
         CREATE TABLE parent (g int, v int);
         CREATE TABLE child (extra int) INHERITS (parent)",
    );
    track(&mut writer, "p", "{g}");
    track(&mut writer, "parent", "{g}");
    let check = |reader: &mut Client, writer: &mut Client, query: &str, change: &str, hit: bool| {
        fill(reader, "k", query);
        run(writer, change);
        assert_eq!(is_hit(reader, "k", query), hit, "{query} after {change}");
    };
    let one = "SELECT count(*), sum(v) FROM p WHERE g = 1";
    for (change, hit) in [
        ("INSERT INTO p VALUES (1, 1, 1)", false),
        ("INSERT INTO p VALUES (1, 2, 1), (11, 2, 2), (12, 3, 3)", true),
        ("INSERT INTO p1 (id, g, v) VALUES (2, 1, 5)", false),
        ("UPDATE p1 SET v = 9 WHERE g = 2", true),
        ("INSERT INTO p2a VALUES (13, 1, 5)", false),
        ("UPDATE p2 SET v = 4 WHERE g = 3", true),
        ("UPDATE p SET id = 15 WHERE id = 2", false),
        ("UPDATE p SET g = 4 WHERE id = 13", false),
        ("UPDATE p SET g = 2 WHERE g = 3", true),
        ("TRUNCATE p2b", false),
        ("TRUNCATE p", false),
    ] {
        check(&mut reader, &mut writer, one, change, hit);
    }
    let leaf = "SELECT count(*), sum(v) FROM p2a WHERE g = 1";
    for (change, hit) in [
        ("INSERT INTO p VALUES (11, 1, 1)", false),
        ("INSERT INTO p2a VALUES (11, 2, 1)", true),
        ("DELETE FROM p2 WHERE g = 1", false),
    ] {
        check(&mut reader, &mut writer, leaf, change, hit);
    }
    let parent = "SELECT count(*), sum(v) FROM parent WHERE g = 1";
    for (change, hit) in [
        ("INSERT INTO parent VALUES (1, 1)", false),
        ("INSERT INTO parent VALUES (2, 1)", true),
        ("INSERT INTO child VALUES (1, 1, 1)", false),
        ("INSERT INTO child VALUES (2, 1, 1)", true),
        ("UPDATE parent SET v = 7 WHERE g = 1", false),
        ("TRUNCATE child", false),
    ] {
        check(&mut reader, &mut writer, parent, change, hit);
    }
    let only = "SELECT count(*), sum(v) FROM ONLY parent WHERE g = 1";
    check(&mut reader, &mut writer, only, "INSERT INTO child VALUES (1, 1, 1)", true);
    check(&mut reader, &mut writer, only, "INSERT INTO parent VALUES (1, 1)", false);
}

#[test]
fn a_name_of_the_users_own_is_touched() {
    // Danger: redis_touch and redis_depends hash the name in two ways.
    let (_scene, mut reader, mut writer) = scene_with("CREATE TABLE t AS SELECT 1 AS v");
    run(&mut writer, "SELECT redis_track('t')");
    let query = "SELECT v FROM t WHERE redis_depends('prices é')";
    fill(&mut reader, "k", query);
    run(&mut writer, "SELECT redis_touch('others')");
    assert!(is_hit(&mut reader, "k", query));
    run(&mut writer, "SELECT redis_touch('prices é')");
    assert!(!is_hit(&mut reader, "k", query));
    let sql = "SELECT redis_cached('n', 60, 'SELECT v FROM t WHERE redis_depends($1)', 'x')::text";
    let mut hits = || {
        let (_, counters) = counted(&mut reader, |reader| reader.query_one(sql, &[]).unwrap());
        counters.hits
    };
    hits();
    assert_eq!(hits(), 1);
    run(&mut writer, "SELECT redis_touch('x')");
    assert_eq!(hits(), 0);
}
