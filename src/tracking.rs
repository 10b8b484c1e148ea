//! `redis_track` and `redis_untrack`: the triggers through which a table tells what changes in it.
//!
//! Invariant: a tracked table, each of its partitions and each of its inheritance children tell
//! every write. The row trigger stands on the root and on each child; PostgreSQL clones it to
//! partitions. TRUNCATE fires triggers of statements only, and of the tables it reaches only, so
//! each table has one of those. All are ENABLE ALWAYS: logical replication applies with
//! session_replication_role = replica, which skips ordinary triggers. Where one is missing, whoever
//! reads sees that and keeps to the ttl.

use pg_cache_core::error::{Error, Tracking};
use serde::Deserialize;
use serde_json::Value;

use crate::pg::error::{self, Outcome};
use crate::pg::{Oid, quote, row_groups, text, utility};

const ROW: &str = "redis_track_row";
const NOTE: &str = "redis_track_note";
const TRUNCATE: &str = "redis_track_truncate";
const COLUMNS: &str = "redis_track_columns";

/// A relation as `redis_track` was given it.
#[derive(Deserialize)]
struct Target {
    /// Qualified and quoted.
    name: String,
    kind: String,
    temporary: bool,
    catalog: bool,
    /// Its rows come and go past all triggers.
    ours: bool,
    owned: bool,
    root: Option<String>,
}

/// A table of the tree below a tracked one, itself included.
#[derive(Deserialize)]
struct Member {
    oid: u32,
    name: String,
    partition: bool,
    owned: bool,
    /// Whether the caller may put our triggers on it.
    attachable: bool,
    triggers: Vec<Attached>,
}

/// A trigger of ours.
#[derive(Deserialize)]
struct Attached {
    name: String,
    row: bool,
    /// Made by PostgreSQL for a partition; it goes with the original.
    clone: bool,
    always: bool,
}

#[derive(Deserialize)]
struct Column {
    type_oid: u32,
    type_name: String,
    groups: bool,
}

/// Attaches the triggers, in place of those that are there.
pub fn track(relation: Oid, by: &[String], our_schema: &str) -> Outcome<()> {
    let Some(target) = trackable(relation)? else { return Ok(()) };
    // Before the columns are looked at: nobody drops one in between.
    let members = lock_tree(relation, our_schema)?;
    check_columns(relation, &target.name, by)?;
    detach_all(&members)?;
    for member in &tree(relation, our_schema)? {
        attach(member, by, our_schema)?;
    }
    enable(&members_with(tree(relation, our_schema)?, |trigger| !trigger.clone))?;
    // Whether the clones follow is for PostgreSQL to say.
    enable(&tree(relation, our_schema)?)
}

/// Removes the triggers from the table and all below it.
pub fn untrack(relation: Oid, our_schema: &str) -> Outcome<()> {
    if trackable(relation)?.is_none() {
        return Ok(());
    }
    detach_all(&lock_tree(relation, our_schema)?)
}

/// After DDL that may have brought tables under a tracked one: attaches what they lack, as the user
/// who ran it. What stands there already, switched off or not, is left as it is. Who may not do so
/// is told, and goes on: the tree is not exact then.
pub fn adopt(touched: &[u32], our_schema: &str) -> Outcome<()> {
    for parent in tracked_above(touched, our_schema)? {
        let relation = Oid::from(parent.oid);
        let lacking = |member: &Member| lacks(member, true) || lacks(member, false);
        let mut new = Vec::new();
        for member in tree(relation, our_schema)?.iter().filter(|member| lacking(member)) {
            if !member.attachable {
                if touched.contains(&member.oid) {
                    let told = "is not tracked: you may not use redis_track's triggers on it";
                    error::notice(&format!("table {} {told}", member.name), None);
                }
                continue;
            }
            attach(member, &columns(&parent.arguments), our_schema)?;
            new.push(member.oid);
        }
        if !new.is_empty() {
            let mut members = tree(relation, our_schema)?;
            members.retain(|member| new.contains(&member.oid));
            enable(&members)?;
        }
    }
    Ok(())
}

/// After REVOKE: who may write a tracked table may have its trigger note that. PostgreSQL asks for
/// the right to call a trigger's condition at each row, and hardening a schema takes it from all.
pub fn stay_callable(our_schema: &str) -> Outcome<()> {
    for (function, arguments) in [(NOTE, "pg_catalog.regclass"), (COLUMNS, "pg_catalog.bytea")] {
        let name = format!("{}.{function}({arguments})", quote::identifier(our_schema));
        let may = utility::look(&format!(
            "SELECT pg_catalog.to_json(coalesce(pg_catalog.has_function_privilege(
                    'public', pg_catalog.to_regprocedure({})::pg_catalog.oid, 'EXECUTE'), true))",
            quote::literal(&name)
        ))?;
        if may.as_bool() == Some(false) {
            utility::run(&format!("GRANT EXECUTE ON FUNCTION {name} TO PUBLIC"))?;
            let told = "remains executable by everybody: tracked tables work by it";
            error::notice(&format!("function {function} {told}"), None);
        }
    }
    Ok(())
}

/// Before ATTACH: a partition takes the row trigger of its root, in place of one of its own, which
/// has the same name. Nothing is left untold: the lock stays until ATTACH is done.
pub fn make_way(parent: Oid, partition: Oid, our_schema: &str) -> Outcome<()> {
    let mut members = tree(partition, our_schema)?;
    members.truncate(1);
    let is_tracked = members.iter().any(|member| !member.triggers.is_empty());
    if is_tracked && !tracked_above(&[parent.to_u32()], our_schema)?.is_empty() {
        detach_all(&members)?;
    }
    Ok(())
}

/// A row trigger comes to partitions from their root.
fn lacks(member: &Member, row: bool) -> bool {
    let comes_from_root = row && member.partition;
    let has_one = member.triggers.iter().any(|trigger| trigger.row == row);
    !comes_from_root && !has_one
}

/// After DETACH, which takes the clones of its root's row trigger from a partition: takes the rest,
/// so that it does not look half tracked.
pub fn let_go(partition: Oid, our_schema: &str) -> Outcome<()> {
    let members = tree(partition, our_schema)?;
    let Some(top) = members.first() else { return Ok(()) };
    if top.partition || top.triggers.iter().any(|trigger| trigger.row) {
        return Ok(());
    }
    // DETACH needs the parent's owner only. What tells its rows by itself goes on to do so.
    let half = |member: &Member| member.owned && !member.triggers.iter().any(|one| one.row);
    detach_all(&members.into_iter().filter(half).collect::<Vec<_>>())
}

/// A table that has a row trigger of its own.
#[derive(Deserialize)]
struct Parent {
    oid: u32,
    /// As pg_trigger keeps them, in hexadecimal.
    arguments: String,
}

/// The arguments of a trigger: each ends with a zero byte.
fn columns(arguments: &str) -> Vec<String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0) as u8;
    let bytes: Vec<u8> = arguments
        .as_bytes()
        .chunks(2)
        .map(|two| two.iter().fold(0, |n, d| n << 4 | digit(*d)))
        .collect();
    bytes
        .split_inclusive(|byte| *byte == 0)
        .map(|one| text::string(&one[..one.len() - 1]))
        .collect()
}

/// The oid of a trigger function of ours. Not by its name: DDL must go on for those who may not use
/// our schema.
fn function_oid(our_schema: &str, name: &str) -> String {
    format!(
        "(SELECT f.oid FROM pg_catalog.pg_proc f
            JOIN pg_catalog.pg_namespace s ON s.oid = f.pronamespace
           WHERE s.nspname = {} AND f.proname = {} AND f.pronargs = 0)",
        quote::literal(our_schema),
        quote::literal(name),
    )
}

/// The tracked ones among these tables and all above them.
fn tracked_above(touched: &[u32], our_schema: &str) -> Outcome<Vec<Parent>> {
    if touched.is_empty() {
        return Ok(Vec::new());
    }
    let oids: Vec<_> = touched.iter().map(u32::to_string).collect();
    let value = utility::look(&format!(
        "WITH RECURSIVE up AS (
             SELECT pg_catalog.unnest('{{{oids}}}'::pg_catalog.oid[]) AS oid
             UNION
             SELECT i.inhparent FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid)
         SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                'oid', t.tgrelid::pg_catalog.int8,
                'arguments', pg_catalog.encode(t.tgargs, 'hex')))
           FROM up JOIN pg_catalog.pg_trigger t ON t.tgrelid = up.oid
          WHERE t.tgparentid = 0 AND t.tgfoid = {row}",
        oids = oids.join(","),
        row = function_oid(our_schema, ROW),
    ))?;
    Ok(read(value)?.unwrap_or_default())
}

/// `None` for what counts as tracked without triggers, after saying so.
fn trackable(relation: Oid) -> Outcome<Option<Target>> {
    let target = target(relation)?;
    let kind = match target.kind.as_str() {
        _ if target.catalog => "system catalog",
        _ if target.temporary => "temporary table",
        _ if target.ours => "pg_cache's own table",
        "r" | "p" | "m" => "",
        "v" => "view",
        "f" => "foreign table",
        "S" => "sequence",
        "c" => "composite type",
        _ => "index",
    };
    let relation = target.name.clone();
    if !kind.is_empty() {
        return Err(Error::from(Tracking::Kind { relation, kind }).into());
    }
    if let Some(root) = target.root.clone() {
        return Err(Error::from(Tracking::Partition { relation, root }).into());
    }
    if !target.owned {
        return Err(Error::from(Tracking::Owner { relation }).into());
    }
    if target.kind == "m" {
        let told = "needs no triggers: REFRESH tells what changes";
        error::notice(&format!("materialized view {relation} {told}"), None);
        return Ok(None);
    }
    Ok(Some(target))
}

fn target(relation: Oid) -> Outcome<Target> {
    let value = utility::look(&format!(
        "SELECT pg_catalog.json_build_object(
                'name', pg_catalog.format('%I.%I', CASE WHEN c.relpersistence = 't' THEN 'pg_temp'
                                                       ELSE n.nspname END, c.relname),
                'kind', c.relkind, 'temporary', c.relpersistence = 't',
                'catalog', n.nspname IN ('pg_catalog', 'pg_toast'),
                'ours', EXISTS (SELECT FROM pg_catalog.pg_depend d
                          JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
                         WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                           AND d.objid = c.oid AND d.deptype = 'e' AND e.extname = 'pg_cache'
                           AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass),
                'owned', pg_catalog.pg_has_role(c.relowner, 'USAGE'),
                'root', (SELECT pg_catalog.format('%I.%I', m.nspname, r.relname)
                           FROM pg_catalog.pg_class r
                           JOIN pg_catalog.pg_namespace m ON m.oid = r.relnamespace
                          WHERE c.relispartition AND r.oid = pg_catalog.pg_partition_root(c.oid)))
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE c.oid = {}",
        relation.to_u32()
    ))?;
    read(value)?.ok_or_else(|| {
        let relation = format!("with OID {}", relation.to_u32());
        Error::from(Tracking::NoRelation { relation }).into()
    })
}

/// The tree with a lock on each table: whoever brings another one in must wait for us, and then
/// finds our triggers.
fn lock_tree(relation: Oid, our_schema: &str) -> Outcome<Vec<Member>> {
    let mut locked = vec![relation.to_u32()];
    utility::lock(relation);
    loop {
        let members = tree(relation, our_schema)?;
        let ahead: Vec<_> = members.iter().map(|m| m.oid).filter(|o| !locked.contains(o)).collect();
        if ahead.is_empty() {
            return Ok(members);
        }
        for oid in ahead {
            utility::lock(Oid::from(oid));
            locked.push(oid);
        }
    }
}

/// The table and all below it that can have triggers, parents first. Temporary children are left
/// out: only their own session sees their rows, and it does not cache them.
fn tree(relation: Oid, our_schema: &str) -> Outcome<Vec<Member>> {
    let value = utility::look(&format!(
        "WITH RECURSIVE tree AS (
             SELECT {root}::pg_catalog.oid AS oid, 0 AS depth
             UNION
             SELECT i.inhrelid, tree.depth + 1
               FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid)
         SELECT pg_catalog.json_agg({member} ORDER BY tree.depth, c.oid)
           FROM (SELECT oid, pg_catalog.max(depth) AS depth FROM tree GROUP BY oid) tree
           JOIN pg_catalog.pg_class c ON c.oid = tree.oid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'",
        root = relation.to_u32(),
        member = member(our_schema),
    ))?;
    Ok(read(value)?.unwrap_or_default())
}

/// The expression for one `Member` of pg_class `c` in pg_namespace `n`.
fn member(our_schema: &str) -> String {
    format!(
        "pg_catalog.json_build_object(
             'oid', c.oid::pg_catalog.int8, 'partition', c.relispartition,
             'name', pg_catalog.format('%I.%I', n.nspname, c.relname),
             'owned', pg_catalog.pg_has_role(c.relowner, 'USAGE'),
             'attachable', pg_catalog.pg_has_role(c.relowner, 'USAGE')
                 AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                 AND pg_catalog.has_schema_privilege({schema}, 'USAGE')
                 AND pg_catalog.has_function_privilege({row}, 'EXECUTE')
                 AND pg_catalog.has_function_privilege({truncate}, 'EXECUTE'),
             'triggers', (
                 SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
                        'name', pg_catalog.quote_ident(t.tgname),
                        'row', t.tgfoid = {row},
                        'clone', t.tgparentid <> 0, 'always', t.tgenabled = 'A')), '[]')
                   FROM pg_catalog.pg_trigger t
                  WHERE t.tgrelid = c.oid
                    AND t.tgfoid IN ({row}, {truncate})))",
        schema = quote::literal(our_schema),
        row = function_oid(our_schema, ROW),
        truncate = function_oid(our_schema, TRUNCATE),
    )
}

fn read<T: for<'a> Deserialize<'a>>(value: Value) -> Outcome<Option<T>> {
    serde_json::from_value(value).map_err(|error| error::defect_in(&error.to_string()))
}

fn check_columns(relation: Oid, name: &str, by: &[String]) -> Outcome<()> {
    if by.len() > row_groups::COLUMNS_MAX {
        let columns_max = row_groups::COLUMNS_MAX;
        return Err(Error::from(Tracking::TooManyColumns { given: by.len(), columns_max }).into());
    }
    for column in by {
        let value = utility::look(&format!(
            "SELECT pg_catalog.json_build_object(
                    'type_oid', a.atttypid::pg_catalog.int8,
                    'type_name', pg_catalog.format_type(a.atttypid, a.atttypmod),
                    'groups', a.attnum > 0 AND a.attgenerated <> 'v')
               FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = {} AND NOT a.attisdropped AND a.attname = {}::pg_catalog.name",
            relation.to_u32(),
            quote::literal(column),
        ))?;
        let (column, relation) = (column.clone(), name.to_owned());
        let found: Option<Column> = read(value)?;
        let refusal = match found {
            None => Tracking::NoColumn { column, relation },
            Some(found) if !found.groups => Tracking::ColumnKind { column, relation },
            Some(found) if !row_groups::can_hash(Oid::from(found.type_oid)) => {
                Tracking::NoHash { column, type_name: found.type_name }
            }
            Some(_) => continue,
        };
        return Err(Error::from(refusal).into());
    }
    Ok(())
}

fn detach_all(members: &[Member]) -> Outcome<()> {
    for member in members {
        for trigger in member.triggers.iter().filter(|trigger| !trigger.clone) {
            utility::run(&format!("DROP TRIGGER {} ON {}", trigger.name, member.name))?;
        }
    }
    Ok(())
}

/// Creates those that it lacks.
fn attach(member: &Member, by: &[String], our_schema: &str) -> Outcome<()> {
    let (table, schema) = (&member.name, quote::identifier(our_schema));
    let arguments: Vec<_> = by.iter().map(|column| quote::literal(column)).collect();
    if lacks(member, true) {
        // Without groups the condition does all the work.
        let condition = match by {
            [] => format!("WHEN ({schema}.{NOTE}({}::pg_catalog.regclass))", quote::literal(table)),
            _ => String::new(),
        };
        utility::run(&format!(
            "CREATE TRIGGER {ROW} AFTER INSERT OR UPDATE OR DELETE ON {table} \
             FOR EACH ROW {condition} EXECUTE FUNCTION {schema}.{ROW}({})",
            arguments.join(", ")
        ))?;
    }
    if lacks(member, false) {
        utility::run(&format!(
            "CREATE TRIGGER {TRUNCATE} AFTER TRUNCATE ON {table} \
             FOR EACH STATEMENT EXECUTE FUNCTION {schema}.{TRUNCATE}()"
        ))?;
    }
    Ok(())
}

fn members_with(mut members: Vec<Member>, keep: fn(&Attached) -> bool) -> Vec<Member> {
    for member in &mut members {
        member.triggers.retain(keep);
    }
    members
}

/// Makes each trigger of ours fire whatever session_replication_role says.
fn enable(members: &[Member]) -> Outcome<()> {
    for member in members {
        for trigger in member.triggers.iter().filter(|trigger| !trigger.always) {
            utility::run(&format!(
                "ALTER TABLE {} ENABLE ALWAYS TRIGGER {}",
                member.name, trigger.name
            ))?;
        }
    }
    Ok(())
}
