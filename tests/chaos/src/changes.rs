//! Every change of the catalogue that can change what a query returns, and some that cannot.
//!
//! Owns the scripts of DDL. They fire no row trigger: only the catalogue's own tag tells of them.

use fastrand::Rng;

use crate::ways::{Script, Way};

/// One of them.
pub struct Change {
    pub way: Way,
    /// The keys, by their beginning, for whose queries PostgreSQL itself may answer with the schema
    /// of before: see `third`. A difference about any other key has no excuse.
    pub touches: &'static [&'static str],
}

const fn way(
    name: &'static str,
    weight: u32,
    script: fn(&mut Rng) -> Script,
    touches: &'static [&'static str],
) -> Change {
    Change { way: Way { name, weight, script }, touches }
}

pub const CHANGES: &[Change] = &[
    way("view replaced", 3, view_replaced, &["shown"]),
    way("function body", 3, function_body, &["scaled"]),
    way("enum label", 3, enum_label, &["moods"]),
    way("policy", 3, policy, &["secrets"]),
    way("rewrite", 2, rewrite, &["wide", "scaled", "twin", "union"]),
    way("rename", 2, rename, &["twin", "union"]),
    way("triggers off and on", 2, triggers_off_and_on, &[]),
    way("tracking off and on", 1, tracking_off_and_on, &["blinking"]),
    way("tracked by other columns", 1, tracked_otherwise, &[]),
    way("detach and attach", 2, detach_and_attach, &["parts"]),
    way("detach concurrently and attach", 2, detach_concurrently, &["parts"]),
    way("partition dropped and made", 1, partition_dropped, &["parts"]),
    way("child made and dropped", 2, child_made, &["base", "child"]),
    way("child leaves and returns", 1, child_leaves, &["base", "child"]),
    way("physical only", 1, physical_only, &[]),
    way("undone", 2, undone, &["scaled"]),
];

fn all(statements: &[&str]) -> Script {
    statements.iter().map(|statement| (*statement).to_owned()).collect()
}

fn view_replaced(random: &mut Rng) -> Script {
    let rest = random.u32(..2);
    vec![format!("CREATE OR REPLACE VIEW shown AS SELECT id, n FROM items WHERE n % 2 = {rest}")]
}

fn function_body(random: &mut Rng) -> Script {
    let factor = random.u32(1..100);
    vec![format!(
        "CREATE OR REPLACE FUNCTION scale(int) RETURNS int IMMUTABLE LANGUAGE sql \
         AS 'SELECT $1 * {factor}'"
    )]
}

fn enum_label(_: &mut Rng) -> Script {
    all(&["DO $$ BEGIN \
             IF EXISTS (SELECT FROM pg_enum WHERE enumlabel = 'calm') THEN \
                 ALTER TYPE mood RENAME VALUE 'calm' TO 'quiet'; \
             ELSE ALTER TYPE mood RENAME VALUE 'quiet' TO 'calm'; END IF; END $$"])
}

fn policy(random: &mut Rng) -> Script {
    let divisor = random.u32(1..5);
    vec![format!("ALTER POLICY visible ON secrets USING (n % {divisor} = 0)")]
}

fn rewrite(random: &mut Rng) -> Script {
    if random.bool() {
        all(&["ALTER TABLE wide ALTER v TYPE int USING v + 1"])
    } else {
        all(&["ALTER TABLE twin_b ALTER n TYPE bigint", "ALTER TABLE twin_b ALTER n TYPE int"])
    }
}

fn rename(_: &mut Rng) -> Script {
    all(&[
        "BEGIN",
        "ALTER TABLE twin_a RENAME TO twin_c",
        "ALTER TABLE twin_b RENAME TO twin_a",
        "ALTER TABLE twin_c RENAME TO twin_b",
        "COMMIT",
    ])
}

/// The row triggers see nothing of the update, and are as before when the transaction ends.
fn triggers_off_and_on(_: &mut Rng) -> Script {
    all(&[
        "BEGIN",
        "ALTER TABLE wide DISABLE TRIGGER USER",
        "UPDATE wide SET v = v + 1",
        "DO $$ DECLARE t name; BEGIN \
            FOR t IN SELECT tgname FROM pg_trigger \
                      WHERE tgrelid = 'wide'::regclass AND NOT tgisinternal LOOP \
                EXECUTE format('ALTER TABLE wide ENABLE ALWAYS TRIGGER %I', t); \
            END LOOP; END $$",
        "COMMIT",
    ])
}

/// While it is untracked nothing is promised: see `writer` for who keeps readers away.
fn tracking_off_and_on(_: &mut Rng) -> Script {
    all(&[
        "SELECT redis_untrack('blinking')",
        "UPDATE blinking SET n = n + 1 WHERE id = 1",
        "SELECT redis_cached('blinking:x', 600, 'SELECT id, n FROM blinking ORDER BY id')",
        "UPDATE blinking SET n = n + 1 WHERE id = 2",
        "SELECT redis_track('blinking')",
    ])
}

fn tracked_otherwise(random: &mut Rng) -> Script {
    let by = ["'{grp}'", "'{grp,id}'", "NULL", "'{id}'"][random.usize(..4)];
    vec![format!("SELECT redis_track('items', {by})")]
}

fn detach_and_attach(_: &mut Rng) -> Script {
    all(&[
        "?ALTER TABLE parts DETACH PARTITION parts_c",
        "UPDATE parts_c SET n = n + 1",
        "ALTER TABLE parts ATTACH PARTITION parts_c FOR VALUES FROM (4) TO (6)",
    ])
}

fn detach_concurrently(_: &mut Rng) -> Script {
    all(&[
        "?ALTER TABLE parts_b DETACH PARTITION parts_b3 CONCURRENTLY",
        "?ALTER TABLE parts_b DETACH PARTITION parts_b3 FINALIZE",
        "UPDATE parts_b3 SET n = n + 1",
        "ALTER TABLE parts_b ATTACH PARTITION parts_b3 FOR VALUES IN (3)",
    ])
}

fn partition_dropped(random: &mut Rng) -> Script {
    let n = random.u32(..1000);
    vec![
        "BEGIN".to_owned(),
        "DROP TABLE parts_a".to_owned(),
        "CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM (0) TO (2)".to_owned(),
        format!("INSERT INTO parts_a SELECT g, g % 2, {n}, 'remade' FROM generate_series(0, 9) g"),
        "GRANT SELECT ON parts_a TO reader".to_owned(),
        "COMMIT".to_owned(),
        format!("UPDATE parts_a SET n = {n} + 1 WHERE id = 3"),
    ]
}

fn child_made(random: &mut Rng) -> Script {
    let n = random.u32(..1000);
    vec![
        "?DROP TABLE late_child".to_owned(),
        "CREATE TABLE late_child () INHERITS (base)".to_owned(),
        format!("INSERT INTO late_child VALUES (99, {n})"),
        "UPDATE late_child SET n = n + 1".to_owned(),
        "DROP TABLE late_child".to_owned(),
    ]
}

fn child_leaves(_: &mut Rng) -> Script {
    all(&[
        "?ALTER TABLE grandchild NO INHERIT child",
        "UPDATE grandchild SET n = n + 1 WHERE id = 21",
        "ALTER TABLE grandchild INHERIT child",
    ])
}

fn physical_only(_: &mut Rng) -> Script {
    all(&[
        "CREATE INDEX extra ON items (n)",
        "DROP INDEX extra",
        "ANALYZE items",
        "VACUUM FULL twin_a",
        "CLUSTER wide USING wide_pkey",
    ])
}

fn undone(random: &mut Rng) -> Script {
    let factor = random.u32(1..100);
    vec![
        "BEGIN".to_owned(),
        format!(
            "CREATE OR REPLACE FUNCTION scale(int) RETURNS int IMMUTABLE LANGUAGE sql \
             AS 'SELECT $1 * -{factor}'"
        ),
        "UPDATE wide SET v = v + 1 WHERE id = 3".to_owned(),
        "ROLLBACK".to_owned(),
    ]
}
