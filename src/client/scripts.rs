//! The Lua that runs inside Redis: one script a file under `lua/`, found by its hash.

use std::sync::LazyLock;

use pg_cache_core::key::EntryKeys;
use pg_cache_core::tag::Bucket;
use pg_cache_core::tagtable::{self, Field};
use redis::{ErrorKind, Pipeline, RedisResult, Script, ServerErrorKind, Value, from_redis_value};

use super::session::{Ask, ENTRY_PARTS, Session, TABLE_PARTS, parts};

static FILL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/fill_4.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/release_1.lua")));

static BUMP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/bump_1.lua")));

static PEEK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/peek_1.lua")));

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

/// What a transaction tells the tag table before it commits.
pub struct Bump<'a> {
    pub table: &'a [u8],
    /// In a table of another generation nobody is dropped: after a crash, transaction IDs may be
    /// given out again. `None`: that of a former run, which ends with this.
    pub generation: Option<u128>,
    pub xid: u64,
    /// Of a snapshot taken a moment ago: its end, and the transactions that ran in it.
    pub xmax: u64,
    pub in_progress: &'a [u64],
    pub buckets: &'a [Bucket],
}

/// How many keys one DEL takes, each with its sidecar and its lease: on one server all names of a
/// key go in one step whatever else goes with them, and a command for each key would cost more than
/// its work.
const DEL_KEYS_MAX: usize = 200;

/// How many buckets one script call may take: it holds up everybody else on that Redis.
const BUMP_BUCKETS_MAX: usize = 2000;

/// How long a token waits for a backend that has most likely died.
const TOKEN_SECONDS: u64 = 24 * 3600;

/// What is left beside a key that will be stored after the commit.
pub struct Laid<'a> {
    pub beside: Vec<u8>,
    pub token: &'a [u8],
    /// For as long as it takes.
    pub lasts: bool,
}

/// BUMP, then DEL of value, sidecar, lease and token of each key, then SET of new tokens: one round
/// trip, now or later.
pub struct Settlement {
    pipeline: Pipeline,
    bumps: usize,
}

impl Settlement {
    pub fn new(
        bump: &Bump<'_>,
        keys: &[EntryKeys],
        tokens: &[Laid<'_>],
        keep_leases: bool,
    ) -> Self {
        let mut pipeline = redis::pipe();
        let running: Vec<String> = bump.in_progress.iter().map(u64::to_string).collect();
        let running = running.join(",");
        let generation = bump.generation.map(tagtable::generation_text);
        let generation = generation.as_ref().map_or(&[][..], |text| &text[..]);
        let chunks = bump.buckets.chunks(BUMP_BUCKETS_MAX);
        let bumps = chunks.len();
        for buckets in chunks {
            let call = pipeline.cmd("EVALSHA").arg(BUMP.get_hash()).arg(1).arg(bump.table);
            call.arg(generation).arg(bump.xid).arg(bump.xmax).arg(&running);
            for bucket in buckets {
                call.arg(bucket.field());
            }
        }
        for keys in keys.chunks(DEL_KEYS_MAX) {
            let del = pipeline.cmd("DEL");
            for key in keys {
                del.arg(key.value()).arg(key.sidecar()).arg(key.token());
                if !keep_leases {
                    del.arg(key.lease());
                }
            }
        }
        for Laid { beside, token, lasts } in tokens {
            let set = pipeline.cmd("SET").arg(beside).arg(token);
            if !lasts {
                set.arg("EX").arg(TOKEN_SECONDS);
            }
        }
        // Last, so that it tells of the server after all of this was done.
        Session::ask_for_proof(&mut pipeline);
        Self { pipeline, bumps }
    }

    /// Sends it and waits. Returns the generations that the table had, one for each call of BUMP.
    pub fn settle(&self, session: &mut Session) -> RedisResult<Generations> {
        let replies: Vec<Value> = match self.pipeline.query(session) {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                BUMP.prepare_invoke().load(session)?;
                self.pipeline.query(session)?
            }
            outcome => outcome?,
        };
        self.read(session, replies)
    }

    /// Sends it; the server must know BUMP by now. The ticket is for `collect`.
    pub fn post(&self, session: &mut Session) -> RedisResult<u64> {
        session.post(&self.pipeline.get_packed_pipeline(), self.pipeline.len())
    }

    /// Waits for the answers to a post.
    pub fn collect(&self, session: &mut Session, ticket: u64) -> RedisResult<Generations> {
        let replies = session.collect(ticket)?;
        let replies: Result<Vec<Value>, _> =
            replies.into_iter().map(Value::extract_error).collect();
        self.read(session, replies?)
    }

    fn read(&self, session: &mut Session, mut replies: Vec<Value>) -> RedisResult<Generations> {
        session.prove(replies.pop())?;
        replies.into_iter().take(self.bumps).map(|reply| Ok(from_redis_value(reply)?)).collect()
    }
}

/// Who is listed for the catalogue.
pub fn catalogue_writers(session: &mut Session, table: &[u8]) -> RedisResult<Vec<u64>> {
    let found: Option<Vec<u8>> =
        redis::cmd("HGET").arg(table).arg(tagtable::CATALOGUE).query(session)?;
    Ok(Field::parse(found.as_deref()).unwrap_or_default().xids)
}

/// The generation of a tag table, once for each call of BUMP.
pub type Generations = Vec<Option<Vec<u8>>>;

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
    let table = pipeline.cmd("HMGET").arg(look.table);
    table.arg(tagtable::GENERATION).arg(tagtable::BASE);
    for bucket in look.buckets {
        table.arg(bucket.field());
    }
    // Last, so that it tells of the server after it was looked at.
    Session::ask_for_proof(&mut pipeline);
    let mut replies: Vec<Value> = pipeline.query(session)?;
    session.prove(replies.pop())?;
    let (holder, entry, table): (Option<Vec<u8>>, Value, Value) =
        from_redis_value(Value::Array(replies))?;
    let mut found = parts(entry, ENTRY_PARTS)?;
    found.append(&mut parts(table, TABLE_PARTS + look.buckets.len())?);
    // Our own token may stand there already: the answer to a first try was lost.
    let ours = holder.is_none_or(|holder| holder == *token);
    Ok((ours, found))
}

/// Gives the lease back if it is still ours.
pub fn release(session: &mut Session, lease_key: &[u8], token: &[u8]) -> RedisResult<bool> {
    RELEASE.key(lease_key).arg(token).invoke(session)
}

/// The value under a key if it has this length.
pub fn peek(session: &mut Session, value_key: &[u8], bytes: u64) -> RedisResult<Option<Vec<u8>>> {
    PEEK.key(value_key).arg(bytes).invoke(session)
}
