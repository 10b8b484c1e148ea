//! The book of tokens that prepared transactions laid: reading it, and settling what it says. And
//! taking away those of what was undone.
//!
//! Invariant: a token is taken away only if it is the very one that is meant: another transaction
//! may have laid its own in its place.

use std::sync::LazyLock;

use pg_cache_core::key::EntryKeys;
use pg_cache_core::token::{Fate, Token};
use redis::{RedisResult, Script};

use super::session::Session;

const RELEASE_TEXT: &str = include_str!("lua/release_1.lua");

static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(RELEASE_TEXT));

/// How many entries a step looks at, about.
const STEP_ENTRIES: u64 = 200;

/// A token, and the name under which it stands.
pub struct Entry {
    pub token: Vec<u8>,
    pub name: Vec<u8>,
}

/// One step through the book: the next cursor, and what stands there.
pub fn read(session: &mut Session, book: &[u8], cursor: u64) -> RedisResult<(u64, Vec<Entry>)> {
    let mut scan = redis::cmd("HSCAN");
    scan.arg(book).arg(cursor).arg("COUNT").arg(STEP_ENTRIES);
    type Field = (Vec<u8>, Vec<u8>);
    let (next, found): (u64, Vec<Field>) = scan.query(session)?;
    let entries = found.into_iter().map(|(token, name)| Entry { token, name }).collect();
    Ok((next, entries))
}

/// Takes away the tokens that nobody will use, and then strikes the entries that nobody needs.
pub fn settle(session: &mut Session, book: &[u8], fates: &[(&Entry, Fate)]) -> RedisResult<()> {
    for (entry, _) in fates.iter().filter(|(_, fate)| *fate == Fate::Remove) {
        let removed = RELEASE.key(&entry.name).arg(&entry.token).invoke::<i64>(session);
        match removed {
            // Something else stands in the token's place: so it is gone.
            Err(error) if error.code() == Some("WRONGTYPE") => {}
            removed => _ = removed?,
        }
    }
    let struck: Vec<&[u8]> = fates
        .iter()
        .filter(|(_, fate)| *fate != Fate::Keep)
        .map(|(entry, _)| &entry.token[..])
        .collect();
    if struck.is_empty() {
        return Ok(());
    }
    redis::cmd("HDEL").arg(book).arg(struck).exec(session)
}

/// Takes away tokens of what was undone, and does not wait for the answers.
pub fn take_away<'a>(
    session: &mut Session,
    prefix: &[u8],
    tokens: impl Iterator<Item = &'a Token>,
) -> RedisResult<()> {
    let mut pipeline = redis::pipe();
    for Token { key, token, .. } in tokens {
        let is_known = pipeline.cmd_iter().next().is_some();
        let call = match is_known {
            true => pipeline.cmd("EVALSHA").arg(RELEASE.get_hash()),
            false => pipeline.cmd("EVAL").arg(RELEASE_TEXT),
        };
        call.arg(1).arg(EntryKeys::new(&[prefix, key].concat()).token()).arg(&token[..]);
    }
    let calls = pipeline.cmd_iter().count();
    if calls > 0 {
        session.post(&pipeline.get_packed_pipeline(), calls)?;
    }
    Ok(())
}
