//! What the worker asks of Redis to make a tag table: claim, prune, make; and to remember the
//! generations whose entries a later sweep may find.
//!
//! Each call is one script of bounded work. Invariant: the table becomes a generation's only while
//! the claim of this very attempt stands; a loss of the table takes the claim with it.

use std::sync::LazyLock;

use pg_cache_core::tagtable::{self, BASE, GENERATION};
use redis::{RedisResult, Script};

use super::session::Session;

static CLAIM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/claim_1.lua")));
static PRUNE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/prune_1.lua")));
static MAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/make_1.lua")));
static REMEMBER: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/remember_1.lua")));
static SWEPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/swept_2.lua")));

/// Fields that one step of `prune` looks at: it holds up everybody else on that Redis.
const PRUNE_FIELDS: u64 = 500;

/// Claims the table; returns its version counter.
pub fn claim(session: &mut Session, table: &[u8], nonce: &str) -> RedisResult<u64> {
    CLAIM.key(table).arg(nonce).invoke(session)
}

/// One step through the lists.
pub struct Prune<'a> {
    pub table: &'a [u8],
    pub nonce: &'a str,
    /// The version counter at the claim.
    pub claimed: u64,
    /// The next transaction id, read after the claim.
    pub next_xid: u64,
    pub cursor: u64,
}

/// The next cursor and how many ids that were never assigned stay; `None` if the claim is gone.
pub fn prune(session: &mut Session, step: &Prune<'_>) -> RedisResult<Option<(u64, u64)>> {
    PRUNE
        .key(step.table)
        .arg(step.nonce)
        .arg(step.claimed)
        .arg(step.next_xid)
        .arg(step.cursor)
        .arg(PRUNE_FIELDS)
        .invoke(session)
}

/// Makes the table the generation's; false if the claim is gone.
pub fn make(
    session: &mut Session,
    table: &[u8],
    nonce: &str,
    generation: &str,
    base: u64,
) -> RedisResult<bool> {
    MAKE.key(table).arg(nonce).arg(generation).arg(base).invoke(session)
}

/// Whose a table is.
pub struct Made {
    pub generation: Option<Vec<u8>>,
    pub base: Option<Vec<u8>>,
}

impl Made {
    /// Whether it was made for this generation; without a base it is of no use.
    pub fn is_of(&self, generation: u128) -> bool {
        let ours = tagtable::generation_text(generation);
        let has_base = self.base.as_deref().and_then(tagtable::parse_xid).is_some();
        has_base && self.generation.as_deref() == Some(&ours[..])
    }
}

pub fn made(session: &mut Session, table: &[u8]) -> RedisResult<Made> {
    let fields = redis::cmd("HMGET").arg(table).arg(GENERATION).arg(BASE).query(session)?;
    let (generation, base) = fields;
    Ok(Made { generation, base })
}

/// Where the generations stand that have been: those to be swept, and those that were.
pub struct GenerationKeys {
    pub known: Vec<u8>,
    pub swept: Vec<u8>,
}

/// Adds a generation to those that have been; returns how many there are to be swept.
pub fn remember(session: &mut Session, at: &GenerationKeys, generation: &[u8]) -> RedisResult<u64> {
    REMEMBER.key(&at.known[..]).arg(generation).invoke(session)
}

/// The generations that have been, as they stand there.
pub struct Remembered {
    pub unswept: Vec<Vec<u8>>,
    pub swept: Vec<Vec<u8>>,
}

/// In this order: one that is set apart meanwhile is in both.
pub fn remembered(session: &mut Session, at: &GenerationKeys) -> RedisResult<Remembered> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("SMEMBERS").arg(&at.known).cmd("ZRANGE").arg(&at.swept).arg(0).arg(-1);
    let (unswept, swept) = pipeline.query(session)?;
    Ok(Remembered { unswept, swept })
}

/// Sets apart generations whose entries were swept.
pub fn set_apart(
    session: &mut Session,
    at: &GenerationKeys,
    generations: &[Vec<u8>],
) -> RedisResult<()> {
    let mut call = SWEPT.key(&at.known[..]);
    call.key(&at.swept[..]).arg(tagtable::SWEPT_MAX).arg(generations).invoke(session)
}
