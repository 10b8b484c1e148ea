//! What a transaction noted: the fields of the tag table that it gave a new version.

use std::collections::{BTreeMap, BTreeSet};

use pg_cache_core::tag::{GroupColumn, Tag};
use postgres::Client;

use crate::Scene;

/// As many as a new database has.
const BUCKETS: u32 = 65_536;

/// Names of fields of the tag table.
pub type Notes = BTreeSet<String>;

pub fn any(client: &mut Client, table: &str) -> String {
    field(Tag::any(oid(client, table)))
}

pub fn whole(client: &mut Client, table: &str) -> String {
    field(Tag::whole(oid(client, table)))
}

/// The group of the rows that have these values, SQL expressions of the columns' types.
pub fn group(client: &mut Client, table: &str, values: &[(&str, &str)]) -> String {
    let relation = oid(client, table);
    let hashes: Vec<u64> = values.iter().map(|(_, value)| hash(client, value)).collect();
    let named = values.iter().zip(hashes);
    let columns: Vec<_> =
        named.map(|((name, _), value_hash)| GroupColumn { name, value_hash }).collect();
    field(Tag::group(relation, &columns))
}

/// A user's own tag.
pub fn named(name: &str) -> String {
    field(Tag::named(name))
}

pub fn catalogue() -> String {
    field(Tag::CATALOGUE)
}

fn field(tag: Tag) -> String {
    String::from_utf8(tag.bucket(BUCKETS).field()).unwrap()
}

fn oid(client: &mut Client, table: &str) -> u32 {
    let sql = format!("SELECT '{table}'::regclass::oid");
    client.query_one(&sql, &[]).unwrap().get(0)
}

/// By PostgreSQL's own extended hash function of the expression's type, with seed 0.
fn hash(client: &mut Client, value: &str) -> u64 {
    let sql = format!(
        "SELECT proname FROM pg_opclass o JOIN pg_am a ON a.oid = o.opcmethod
           JOIN pg_amproc p ON p.amprocfamily = o.opcfamily AND p.amproclefttype = o.opcintype
           JOIN pg_proc f ON f.oid = p.amproc
          WHERE a.amname = 'hash' AND o.opcdefault AND p.amprocnum = 2
            AND o.opcintype = pg_typeof({value})::oid"
    );
    let function: String = client.query_one(&sql, &[]).unwrap().get(0);
    let sql = format!("SELECT {function}({value}, 0)");
    client.query_one(&sql, &[]).unwrap().get::<_, i64>(0) as u64
}

fn table(scene: &Scene) -> BTreeMap<String, String> {
    let key = scene.redis.cli(&["KEYS", "pgc:t:*"]);
    redis::cmd("HGETALL").arg(key).query(&mut scene.redis.client()).unwrap()
}

/// What this SQL noted, each statement in a transaction of its own unless it says otherwise.
#[track_caller]
pub fn notes(scene: &Scene, client: &mut Client, sql: &str) -> Notes {
    let before = table(scene);
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let after = table(scene);
    let is_list = |field: &String| field == "C" || field.bytes().all(|byte| byte.is_ascii_digit());
    after
        .iter()
        .filter(|(field, value)| is_list(field) && before.get(*field) != Some(*value))
        .map(|(field, _)| field.clone())
        .collect()
}

/// Asserts that it noted these and nothing else.
#[track_caller]
pub fn expect(scene: &Scene, client: &mut Client, sql: &str, expected: &[&String]) {
    let expected: Notes = expected.iter().map(|field| (*field).clone()).collect();
    assert_eq!(notes(scene, client, sql), expected, "{sql}");
}
