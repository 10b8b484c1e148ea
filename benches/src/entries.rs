//! The cached results that hits are measured on.
//!
//! Owns the measured table and its entries in Redis. The invariant: the value under a key has to
//! the byte the size its case is named by. Break it and "150 B" in the report is some other size.

use std::collections::HashMap;
use std::str::from_utf8;

use pg_cache_testbed::Pair;

use crate::Outcome;
use crate::raw_redis::{RawRedis, pack};

/// Longer than any run.
pub const TTL_S: u32 = 86_400;

/// A result of a known size: the row with this id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Size {
    Small,
    Medium,
    Large,
}

impl Size {
    pub const ALL: [Size; 3] = [Size::Small, Size::Medium, Size::Large];

    /// Of the JSON text in Redis.
    pub fn value_bytes(self) -> usize {
        match self {
            Size::Small => 150,
            Size::Medium => 10_000,
            Size::Large => 1_000_000,
        }
    }

    fn id(self) -> i32 {
        self as i32 + 1
    }

    pub fn key(self) -> String {
        format!("hit:{}", self.value_bytes())
    }

    /// A look-up by primary key: what is cheapest of all queries worth the name.
    pub fn query(self) -> String {
        format!("SELECT id, name, note FROM measured WHERE id = {}", self.id())
    }

    /// The call that the cases make.
    pub fn cached(self) -> String {
        format!("redis_cached('{}', {TTL_S}, '{}')", self.key(), self.query())
    }
}

/// Where the tag table is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Home {
    Redis,
    Memory,
}

impl Home {
    pub fn title(self) -> &'static str {
        match self {
            Home::Redis => "tag table in Redis",
            Home::Memory => "tag table in memory",
        }
    }
}

/// What stands in Redis for the cases.
pub struct Entries {
    sidecar_keys: HashMap<Size, String>,
    tag_table: Option<String>,
}

impl Entries {
    /// Where the record that belongs to the value lies.
    pub fn sidecar_key(&self, size: Size) -> &str {
        self.sidecar_keys.get(&size).map_or("", String::as_str)
    }

    /// The hash that tells what has changed, if it is in Redis.
    pub fn tag_table(&self) -> Option<&str> {
        self.tag_table.as_deref()
    }
}

/// The name of the one key that matches.
fn the_key(redis: &mut redis::Connection, pattern: &str) -> Outcome<String> {
    let mut found: Vec<String> = redis::cmd("KEYS").arg(pattern).query(redis)?;
    match (found.pop(), found.len()) {
        (Some(key), 0) => Ok(key),
        (_, more) => Err(format!("not one key is like {pattern}, but {more} more or none").into()),
    }
}

/// Creates the table, tracked, and fills an entry of each size.
pub fn create(pair: &Pair, home: Home) -> Outcome<Entries> {
    let mut sql = pair.postgres.connect();
    sql.batch_execute("CREATE TABLE measured (id int PRIMARY KEY, name text, note text)")?;
    sql.batch_execute("SELECT redis_track('measured')")?;
    let mut raw = RawRedis::connect(pair.redis.socket())?;
    let mut redis = pair.redis.client();
    let mut sidecar_keys = HashMap::new();
    for size in Size::ALL {
        let empty: i32 = sql
            .query_one(
                "SELECT octet_length(json_agg(row_to_json(x))::text)
                 FROM (SELECT $1::int AS id, 'a measured row' AS name, '' AS note) x",
                &[&size.id()],
            )?
            .get(0);
        let padding = i32::try_from(size.value_bytes())? - empty;
        sql.execute(
            "INSERT INTO measured VALUES ($1, 'a measured row', repeat('x', $2))",
            &[&size.id(), &padding],
        )?;
        sql.query_one(&format!("SELECT {}", size.cached()), &[])?;

        let (key, bytes) = (size.key(), size.value_bytes());
        let reply = raw.ask(&pack(&["GET", &key]))?;
        let head = format!("${bytes}\r\n");
        if !reply.starts_with(head.as_bytes()) {
            let found = from_utf8(&reply[..reply.len().min(20)])?;
            return Err(format!("{key} has not {bytes} bytes: {found:?}").into());
        }
        sidecar_keys.insert(size, the_key(&mut redis, &format!("pgc:e:*:{key}"))?);
    }
    sql.batch_execute("VACUUM ANALYZE measured")?;
    let tables: Vec<String> = redis::cmd("KEYS").arg("pgc:t:*").query(&mut redis)?;
    if tables.is_empty() != (home == Home::Memory) {
        return Err(format!("{}, but in Redis are {tables:?}", home.title()).into());
    }
    Ok(Entries { sidecar_keys, tag_table: tables.into_iter().next() })
}
