//! The Lua that runs inside Redis: one script a file under `lua/`, found by its hash.

use std::sync::LazyLock;

use pg_cache_core::key::EntryKeys;
use pg_cache_core::settlement::{self, Bump, Gone};
use pg_cache_core::tagtable::{self, Field};
use redis::{ErrorKind, RedisResult, Script, ServerErrorKind, Value, from_redis_value};

use super::failure::{Failure, alone};
use super::session::{Ask, ENTRY_PARTS, Generations, Session, TABLE_PARTS, parts};

static FILL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/fill_4.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/release_1.lua")));

static BUMP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/bump_1.lua")));

static YIELD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/yield_4.lua")));

/// One entry as it goes to Redis.
pub struct Fill<'a> {
    pub value_key: &'a [u8],
    pub sidecar_key: &'a [u8],
    pub lease_key: &'a [u8],
    pub recipe_key: &'a [u8],
    pub token: &'a [u8],
    pub value: &'a [u8],
    pub sidecar: &'a [u8],
    /// Empty: none.
    pub recipe: &'a [u8],
    pub ttl_ms: u64,
}

/// What became of an entry that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    Stored,
    /// The lease was no longer ours.
    Overtaken,
    /// Another program's value stands under the key.
    NotOurs,
}

/// Stores the entry if the lease is still ours.
pub fn fill(session: &mut Session, entry: &Fill<'_>) -> RedisResult<Filled> {
    let outcome: i64 = FILL
        .key(entry.value_key)
        .key(entry.sidecar_key)
        .key(entry.lease_key)
        .key(entry.recipe_key)
        .arg(entry.token)
        .arg(entry.value)
        .arg(entry.sidecar)
        .arg(entry.ttl_ms)
        .arg(entry.recipe)
        .invoke(session)?;
    Ok(match outcome {
        1 => Filled::Stored,
        0 => Filled::Overtaken,
        _ => Filled::NotOurs,
    })
}

/// BUMP, then DEL of value, sidecar and lease of each key: one round trip, now or later.
pub struct Settlement(settlement::Settlement);

impl Settlement {
    /// `is_due` says whether the server is to prove itself even if there is nothing to bump.
    pub fn new(bump: Option<&Bump<'_>>, gone: &Gone<'_>, is_due: impl FnOnce() -> bool) -> Self {
        Self(settlement::Settlement::new(BUMP.get_hash(), bump, gone, is_due))
    }

    /// Sends it and waits. Returns the generations that the table had, one for each call of BUMP.
    pub fn settle(&self, session: &mut Session) -> RedisResult<Generations> {
        match session.settle(&self.0) {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                BUMP.prepare_invoke().load(session)?;
                session.settle(&self.0)
            }
            outcome => outcome,
        }
    }

    /// Sends it; the server must know BUMP by now. The ticket is for `collect`.
    pub fn post(&self, session: &mut Session) -> RedisResult<u64> {
        session.post(self.0.packed(), self.0.replies())
    }

    /// Waits for the answers to a post.
    pub fn collect(&self, session: &mut Session, ticket: u64) -> RedisResult<Generations> {
        let replies = session.collect(ticket)?;
        session.settled(&self.0, replies)
    }
}

/// A key that is owed.
pub struct OwedKey {
    pub names: EntryKeys,
    /// Only if no token stands beside it.
    pub yields: bool,
}

/// Deletes keys, each by a command of its own, as the server may refuse one and not the next. Gives
/// for each why it was refused, and has the server say who it is when all is done.
pub fn delete_owed(
    session: &mut Session,
    keys: &[OwedKey],
) -> Result<Vec<Option<Failure>>, Failure> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("SCRIPT").arg("LOAD").arg(include_str!("lua/yield_4.lua"));
    for OwedKey { names, yields } in keys {
        let call = match yields {
            true => pipeline.cmd("EVALSHA").arg(YIELD.get_hash()).arg(4),
            false => pipeline.cmd("DEL"),
        };
        call.arg(names.value()).arg(names.sidecar()).arg(names.lease()).arg(names.token());
    }
    Session::ask_for_proof(&mut pipeline);
    let mut replies = session.ask_each(&pipeline)?;
    session.prove(replies.pop())?;
    let of_keys = replies.into_iter().skip(1).map(Value::extract_error);
    of_keys.map(|reply| Ok(alone(reply)?.err())).collect()
}

/// Who is listed for the catalogue.
pub fn catalogue_writers(session: &mut Session, table: &[u8]) -> RedisResult<Vec<u64>> {
    let found: Option<Vec<u8>> =
        redis::cmd("HGET").arg(table).arg(tagtable::CATALOGUE).query(session)?;
    Ok(Field::parse(found.as_deref()).unwrap_or_default().xids)
}

/// What taking a lease asks for.
pub struct LeaseAsk<'a> {
    pub look: Ask<'a>,
    pub lease: &'a [u8],
    pub token: &'a [u8],
    pub lease_ms: u64,
}

/// Takes the lease if it is free, and looks behind it: in one pipeline, which one server runs in
/// order. Returns whether the lease is ours, and the parts of a look.
pub fn lease(
    session: &mut Session,
    ask: &LeaseAsk<'_>,
) -> RedisResult<(bool, Vec<Option<Vec<u8>>>)> {
    let LeaseAsk { look, lease, token, lease_ms } = ask;
    let mut pipeline = redis::pipe();
    pipeline.cmd("SET").arg(lease).arg(token).arg("NX").arg("GET").arg("PX").arg(lease_ms);
    // A lease that something else left without an end would keep everybody out for ever.
    pipeline.cmd("PEXPIRE").arg(lease).arg(lease_ms).arg("NX").ignore();
    pipeline.cmd("MGET").arg(look.value).arg(look.sidecar);
    if let Some((key, buckets)) = look.table {
        let table = pipeline.cmd("HMGET").arg(key);
        table.arg(tagtable::GENERATION).arg(tagtable::BASE);
        for bucket in buckets {
            table.arg(bucket.field());
        }
    }
    // Last, so that it tells of the server after it was looked at.
    Session::ask_for_proof(&mut pipeline);
    let mut replies: Vec<Value> = pipeline.query(session)?;
    session.prove(replies.pop())?;
    let mut fields = Vec::new();
    if let Some((_, buckets)) = look.table {
        let table = replies.pop().unwrap_or(Value::Nil);
        fields = parts(table, TABLE_PARTS + buckets.len())?;
    }
    let (holder, entry): (Option<Vec<u8>>, Value) = from_redis_value(Value::Array(replies))?;
    let mut found = parts(entry, ENTRY_PARTS)?;
    found.append(&mut fields);
    // Our own token may stand there already: the answer to a first try was lost.
    let ours = holder.is_none_or(|holder| holder == *token);
    Ok((ours, found))
}

/// Gives the lease back if it is still ours.
pub fn release(session: &mut Session, lease_key: &[u8], token: &[u8]) -> RedisResult<bool> {
    RELEASE.key(lease_key).arg(token).invoke(session)
}
