//! Deletes entries by pattern, in steps that neither block Redis nor outlast a cancel.

use pg_cache_core::error::Error;
use pg_cache_core::key::{EntryKeys, RESERVED_PREFIX, key_of_sidecar};
use pg_cache_core::sidecar::Sidecar;

use crate::client::failure::Failure;
use crate::client::unlink;
use crate::entries::{self, STEP_KEYS};
use crate::pg::snapshot::Snapshot;
use crate::pg::{activity, host};
use crate::{connection, registry};

/// Begins a pattern that means foreign keys too.
const FOREIGN: char = '+';

/// Deletes this database's entries whose key matches, and foreign keys if the pattern says so.
pub fn flush(pattern: Option<&str>) -> Result<u64, Error> {
    let (glob, foreign) = match pattern {
        Some(pattern) => match pattern.strip_prefix(FOREIGN) {
            Some(rest) => (Some(rest), true),
            None => (Some(pattern), false),
        },
        None => (None, false),
    };
    if glob.is_some_and(str::is_empty) {
        return Err(Error::FlushPattern);
    }
    let registration = registry::seen(&Snapshot::active());
    let generation = registration.as_ref().map(|found| found.generation);
    let prefix = registration.as_ref().map_or(&[][..], |found| &found.prefix);
    let mut progress = Progress::default();
    let own = entries::pattern(prefix, glob);
    walk(&own, &mut progress, |names| unlink_own(names, generation))?;
    if let (Some(glob), true) = (glob, foreign) {
        let pattern = format!("{}{glob}", entries::literal(prefix));
        walk(&pattern, &mut progress, unlink_foreign)?;
    }
    Ok(progress.deleted)
}

#[derive(Default)]
struct Progress {
    seen: u64,
    deleted: u64,
}

fn walk(
    pattern: &str,
    progress: &mut Progress,
    unlink: impl Fn(&[Vec<u8>]) -> Result<u64, Failure>,
) -> Result<(), Error> {
    let _shown = activity::Shown::start();
    let walked = entries::walk(pattern, |names| {
        progress.seen += STEP_KEYS;
        progress.deleted += unlink(names)?;
        let Progress { seen, deleted } = *progress;
        activity::show(&format!("redis_flush: about {seen} keys seen, {deleted} deleted"));
        Ok(())
    });
    walked.map_err(unreachable)
}

pub fn unreachable(failure: Failure) -> Error {
    Error::Unreachable { reason: failure.reason, detail: failure.detail }
}

/// Entries whose sidecar says that this database filled them.
fn unlink_own(names: &[Vec<u8>], generation: Option<u128>) -> Result<u64, Failure> {
    unlink_entries(names, |sidecar| Some(sidecar.generation) == generation)
}

/// The entries of these sidecars that are of a certain kind; returns how many there were. One that
/// somebody changes meanwhile stays.
pub fn unlink_entries(
    names: &[Vec<u8>],
    is_meant: impl Fn(&Sidecar) -> bool,
) -> Result<u64, Failure> {
    if names.is_empty() {
        return Ok(0);
    }
    let mut look = redis::cmd("MGET");
    look.arg(names);
    let found: Vec<Option<Vec<u8>>> = connection::ask(|session| Ok(look.query(session)?))?;
    let mut entries = 0;
    for (name, bytes) in names.iter().zip(found) {
        let (Some(key), Some(bytes)) = (key_of_sidecar(name), bytes) else { continue };
        let Some(sidecar) = Sidecar::decode(&bytes).ok().filter(&is_meant) else { continue };
        let keys = EntryKeys::new(key);
        host::check_interrupts();
        let value = connection::ask(|session| Ok(unlink::value(session, &keys, &sidecar)?))?;
        host::fault_point("flush.looked");
        let is_gone = connection::ask(|session| {
            Ok(unlink::entry(session, &keys, &bytes, value.as_deref())?)
        })?;
        entries += u64::from(is_gone);
    }
    Ok(entries)
}

/// Whatever matches, but for the helpers of other databases' entries.
fn unlink_foreign(names: &[Vec<u8>]) -> Result<u64, Failure> {
    let reserved = |name: &&Vec<u8>| name.starts_with(RESERVED_PREFIX.as_bytes());
    let names: Vec<_> = names.iter().filter(|name| !reserved(name)).collect();
    if names.is_empty() {
        return Ok(0);
    }
    let mut unlink = redis::cmd("UNLINK");
    unlink.arg(&names);
    connection::ask(|session| Ok(unlink.query(session)?))
}
