//! Every way of writing a tracked table.
//!
//! Owns the scripts. A script is a list of statements that one session runs one after the other,
//! with pauses and cached reads between them; what begins with `?` may fail. What is rolled back
//! writes the marker, which nobody may ever see.

use fastrand::Rng;

use crate::schema::{GROUPS, IDS};

/// Stands only in rows that never existed for anybody else.
pub const MARKER: &str = "ROLLED-BACK";

pub type Script = Vec<String>;

pub struct Way {
    pub name: &'static str,
    pub weight: u32,
    pub script: fn(&mut Rng) -> Script,
}

const fn way(name: &'static str, weight: u32, script: fn(&mut Rng) -> Script) -> Way {
    Way { name, weight, script }
}

pub const WAYS: &[Way] = &[
    way("insert", 6, insert),
    way("update", 10, update),
    way("move between groups", 5, move_between_groups),
    way("delete", 4, delete),
    way("copy", 2, copy),
    way("merge", 3, merge),
    way("cascade of a delete", 3, cascade_of_a_delete),
    way("cascade of an update", 2, cascade_of_an_update),
    way("pets", 4, pets),
    way("leaf of a partitioned table", 4, leaf),
    way("move between partitions", 4, move_between_partitions),
    way("truncate of the parent", 1, truncate_parent),
    way("truncate of a leaf", 1, truncate_leaf),
    way("inheritance", 5, inheritance),
    way("refresh", 2, refresh),
    way("refresh concurrently", 2, refresh_concurrently),
    way("savepoint rolled back", 6, savepoint_rolled_back),
    way("savepoint released", 3, savepoint_released),
    way("nested exceptions", 3, nested_exceptions),
    way("rollback", 6, rollback),
    way("prepare", 4, prepare),
    way("repeatable read", 3, repeatable_read),
    way("serializable", 1, serializable),
    way("many groups", 2, many_groups),
    way("cte and returning", 3, cte_and_returning),
    way("others", 6, others),
    way("blinking", 1, blinking),
];

fn id(random: &mut Rng) -> i32 {
    random.i32(0..IDS)
}

fn group(random: &mut Rng) -> i32 {
    random.i32(0..GROUPS)
}

fn script<const N: usize>(statements: [String; N]) -> Script {
    statements.into()
}

fn block(statements: Script) -> Script {
    let mut all = vec!["BEGIN".to_owned()];
    all.extend(statements);
    all.push("COMMIT".to_owned());
    all
}

fn insert(random: &mut Rng) -> Script {
    let (id, group, n) = (id(random), group(random), random.i32(..1000));
    script([format!(
        "INSERT INTO items VALUES ({id}, {group}, {n}, 'inserted') \
         ON CONFLICT (id) DO UPDATE SET n = excluded.n + 1, note = 'conflict'"
    )])
}

fn update(random: &mut Rng) -> Script {
    script([format!("UPDATE items SET n = n + 1, note = 'updated' WHERE id = {}", id(random))])
}

fn move_between_groups(random: &mut Rng) -> Script {
    let (id, group) = (id(random), group(random));
    script([format!("UPDATE items SET grp = {group} WHERE id = {id}")])
}

fn delete(random: &mut Rng) -> Script {
    script([format!("DELETE FROM items WHERE id = {}", id(random))])
}

fn copy(random: &mut Rng) -> Script {
    let (first, n) = (random.i32(0..IDS - 2), random.i32(..1000));
    let rows: Vec<String> =
        (first..first + 3).map(|id| format!("{id},{},{n},copied", group(random))).collect();
    block(script([
        format!("DELETE FROM items WHERE id BETWEEN {first} AND {}", first + 2),
        format!("COPY items FROM PROGRAM 'printf \"{}\\n\"' WITH (FORMAT csv)", rows.join("\\n")),
    ]))
}

fn merge(random: &mut Rng) -> Script {
    let (id, group) = (id(random), group(random));
    script([format!(
        "MERGE INTO items USING (VALUES ({id}), ({id} + 1)) AS v(id) ON items.id = v.id \
         WHEN MATCHED AND items.n % 5 = 0 THEN DELETE \
         WHEN MATCHED THEN UPDATE SET n = items.n + 3 \
         WHEN NOT MATCHED AND v.id < {IDS} THEN INSERT VALUES (v.id, {group}, 5, 'merged')"
    )])
}

fn cascade_of_a_delete(random: &mut Rng) -> Script {
    let owner = group(random);
    let first = random.i32(0..IDS - 8);
    block(script([
        format!("DELETE FROM owners WHERE id = {owner}"),
        format!("INSERT INTO owners VALUES ({owner}, 'again')"),
        format!(
            "INSERT INTO pets SELECT g, {owner}, 'again', g \
               FROM generate_series({first}, {first} + 7) g \
             ON CONFLICT (id) DO UPDATE SET owner = excluded.owner"
        ),
    ]))
}

fn cascade_of_an_update(random: &mut Rng) -> Script {
    let owner = group(random);
    block(script([
        format!("UPDATE owners SET id = id + 100 WHERE id = {owner}"),
        format!("UPDATE owners SET id = id - 100, name = 'moved' WHERE id = {owner} + 100"),
    ]))
}

fn pets(random: &mut Rng) -> Script {
    let (id, owner) = (id(random), group(random));
    script([match random.u32(..3) {
        0 => format!("UPDATE pets SET owner = {owner} WHERE id = {id}"),
        1 => format!("UPDATE pets SET n = n + 1 WHERE owner = {owner}"),
        _ => format!("UPDATE owners SET name = 'owner ' || {id} WHERE id = {owner}"),
    }])
}

const LEAVES: [&str; 4] = ["parts_a", "parts_b2", "parts_b3", "parts_c"];

fn leaf(random: &mut Rng) -> Script {
    let which = random.usize(..LEAVES.len());
    let (leaf, region) = (LEAVES[which], [1, 2, 3, 5][which]);
    let (id, n) = (id(random), random.i32(..1000));
    script([match random.u32(..3) {
        0 => format!("UPDATE {leaf} SET n = {n} WHERE id % 7 = {id} % 7"),
        1 => format!("DELETE FROM {leaf} WHERE id = {id}"),
        _ => format!("INSERT INTO {leaf} VALUES ({id}, {region}, {n}, 'leaf')"),
    }])
}

fn move_between_partitions(random: &mut Rng) -> Script {
    let (id, region) = (id(random), group(random));
    script([format!("UPDATE parts SET region = {region}, note = 'moved' WHERE id = {id}")])
}

fn truncate_parent(random: &mut Rng) -> Script {
    let n = random.i32(..1000);
    block(script([
        "TRUNCATE parts".to_owned(),
        format!("INSERT INTO parts SELECT g, g % 6, {n}, 'new' FROM generate_series(0, 47) g"),
    ]))
}

fn truncate_leaf(random: &mut Rng) -> Script {
    script([format!("TRUNCATE {}", LEAVES[random.usize(..LEAVES.len())])])
}

fn inheritance(random: &mut Rng) -> Script {
    let (id, n) = (random.i32(..30), random.i32(..1000));
    script([match random.u32(..6) {
        0 => format!("UPDATE base SET n = {n} WHERE id = {id}"),
        1 => format!("UPDATE ONLY base SET n = {n} WHERE id % 10 = {id} % 10"),
        2 => format!("UPDATE child SET n = {n} WHERE id % 10 = {id} % 10"),
        3 => format!("UPDATE grandchild SET n = {n} WHERE id % 10 = {id} % 10"),
        4 => format!("DELETE FROM child WHERE id = {id}"),
        _ => format!(
            "INSERT INTO grandchild SELECT {id}, {n} WHERE 40 > (SELECT count(*) FROM base)"
        ),
    }])
}

fn refresh(_: &mut Rng) -> Script {
    script(["REFRESH MATERIALIZED VIEW summary".to_owned()])
}

fn refresh_concurrently(_: &mut Rng) -> Script {
    script(["REFRESH MATERIALIZED VIEW CONCURRENTLY summary".to_owned()])
}

fn savepoint_rolled_back(random: &mut Rng) -> Script {
    let (kept, undone) = (id(random), id(random));
    let mut statements = script([
        format!("UPDATE items SET n = n + 1 WHERE id = {kept}"),
        "SAVEPOINT a".to_owned(),
        format!("UPDATE items SET note = '{MARKER}-savepoint' WHERE id = {undone}"),
        "ROLLBACK TO a".to_owned(),
    ]);
    if random.bool() {
        statements.push(format!("UPDATE pets SET n = n + 1 WHERE id = {kept}"));
    }
    block(statements)
}

fn savepoint_released(random: &mut Rng) -> Script {
    let (kept, undone) = (id(random), id(random));
    block(script([
        "SAVEPOINT a".to_owned(),
        format!("UPDATE items SET n = n + 1 WHERE id = {kept}"),
        "SAVEPOINT b".to_owned(),
        format!("UPDATE pets SET n = n + 1 WHERE id = {kept}"),
        "RELEASE b".to_owned(),
        "RELEASE a".to_owned(),
        "SAVEPOINT c".to_owned(),
        format!("UPDATE items SET note = '{MARKER}-released' WHERE id = {undone}"),
        "ROLLBACK TO c".to_owned(),
    ]))
}

fn nested_exceptions(random: &mut Rng) -> Script {
    script([format!("SELECT nest({}, {})", random.u32(1..30), random.i32(..20))])
}

fn rollback(random: &mut Rng) -> Script {
    let group = group(random);
    script([
        "BEGIN".to_owned(),
        format!("UPDATE items SET note = '{MARKER}-{group}' WHERE grp = {group}"),
        format!("UPDATE parts SET note = '{MARKER}-{group}' WHERE region = {group}"),
        "ROLLBACK".to_owned(),
    ])
}

fn prepare(random: &mut Rng) -> Script {
    let (group, name) = (group(random), random.u64(..));
    script([
        "BEGIN".to_owned(),
        format!("UPDATE items SET n = n + 1 WHERE grp = {group}"),
        format!("UPDATE wide SET v = v + 1 WHERE id = {group}"),
        format!("PREPARE TRANSACTION 'p{name}'"),
    ])
}

fn repeatable_read(random: &mut Rng) -> Script {
    let id = id(random);
    script([
        "BEGIN ISOLATION LEVEL REPEATABLE READ".to_owned(),
        "SELECT count(*) FROM items".to_owned(),
        format!("UPDATE items SET n = n + 1 WHERE id = {id}"),
        "COMMIT".to_owned(),
    ])
}

fn serializable(random: &mut Rng) -> Script {
    let id = id(random);
    script([
        "BEGIN ISOLATION LEVEL SERIALIZABLE".to_owned(),
        "SELECT sum(n) FROM items".to_owned(),
        format!("UPDATE items SET n = n + 1 WHERE id = {id}"),
        "COMMIT".to_owned(),
    ])
}

fn many_groups(random: &mut Rng) -> Script {
    let few = random.i32(1..20);
    block(script([
        format!("?SET LOCAL pg_cache.pending_keys_max = {few}"),
        "UPDATE items SET n = n + 1".to_owned(),
        "SAVEPOINT a".to_owned(),
        format!("UPDATE pets SET n = n + 1, name = '{MARKER}-many'"),
        "ROLLBACK TO a".to_owned(),
        "UPDATE pets SET n = n + 1 WHERE id % 2 = 0".to_owned(),
    ]))
}

fn cte_and_returning(random: &mut Rng) -> Script {
    let (id, group) = (id(random), group(random));
    script([format!(
        "WITH moved AS (UPDATE items SET grp = {group} WHERE id = {id} RETURNING id) \
         UPDATE pets SET n = n + 1 FROM moved WHERE pets.id = moved.id RETURNING pets.n"
    )])
}

fn others(random: &mut Rng) -> Script {
    let id = random.i32(..20);
    script([match random.u32(..5) {
        0 => format!("UPDATE wide SET v = v + 1 WHERE id = {id}"),
        1 => format!("UPDATE twin_a SET n = n + 1 WHERE id = {id} % 10"),
        2 => format!("UPDATE moods SET m = (enum_range(m))[1 + {id} % 2] WHERE id = {id} % 10"),
        3 => format!("UPDATE secrets SET n = n + 1 WHERE id = {id}"),
        _ => format!("UPDATE twin_b SET n = n + 1 WHERE id = {id} % 10"),
    }])
}

fn blinking(random: &mut Rng) -> Script {
    script([format!("UPDATE blinking SET n = n + 1 WHERE id = {}", random.u32(..10))])
}
