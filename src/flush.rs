//! Deletes entries by pattern, in steps that neither block Redis nor outlast a cancel.

use pg_cache_core::error::Error;
use pg_cache_core::key::{EntryKeys, RESERVED_PREFIX, key_of_sidecar};
use pg_cache_core::sidecar::{BYTES_MAX, Sidecar};

use crate::client::failure::Failure;
use crate::client::session::Session;
use crate::client::unlink;
use crate::entries::{self, STEP_KEYS};
use crate::pg::snapshot::Snapshot;
use crate::pg::{activity, guc, host};
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
    progress.refused.map_or(Ok(progress.deleted), |failure| Err(unreachable(failure)))
}

#[derive(Default)]
struct Progress {
    seen: u64,
    deleted: u64,
    refused: Option<Failure>,
}

fn walk(
    pattern: &str,
    progress: &mut Progress,
    unlink: impl Fn(&[Vec<u8>]) -> Result<Unlinked, Failure>,
) -> Result<(), Error> {
    let _shown = activity::Shown::start();
    let walked = entries::walk(pattern, |names| {
        let Unlinked { count, refused } = unlink(names)?;
        progress.seen += STEP_KEYS;
        progress.deleted += count;
        progress.refused = progress.refused.take().or(refused);
        let Progress { seen, deleted, .. } = *progress;
        activity::show(&format!("redis_flush: about {seen} keys seen, {deleted} deleted"));
        Ok(())
    });
    walked.map_err(unreachable)
}

pub fn unreachable(failure: Failure) -> Error {
    Error::Unreachable { reason: failure.reason, detail: failure.detail }
}

/// Entries whose sidecar says that this database filled them.
fn unlink_own(names: &[Vec<u8>], generation: Option<u128>) -> Result<Unlinked, Failure> {
    unlink_entries(names, |sidecar| Some(sidecar.generation) == generation)
}

/// What became of some entries.
#[derive(Default)]
pub struct Unlinked {
    /// How many are gone.
    pub count: u64,
    /// Why the first of those is not that Redis did not let us have.
    pub refused: Option<Failure>,
}

/// Deletes the entries of these sidecars that are of a certain kind. One that somebody changes
/// meanwhile stays; one that is refused stays too, and is in nobody's way.
pub fn unlink_entries(
    names: &[Vec<u8>],
    is_meant: impl Fn(&Sidecar) -> bool,
) -> Result<Unlinked, Failure> {
    unlink_noting(names, is_meant, |_| ())
}

/// The same, which tells the sidecars of those that are refused.
pub fn unlink_noting(
    names: &[Vec<u8>],
    is_meant: impl Fn(&Sidecar) -> bool,
    mut note: impl FnMut(&[u8]),
) -> Result<Unlinked, Failure> {
    let mut unlinked = Unlinked::default();
    if names.is_empty() {
        return Ok(unlinked);
    }
    let mut look = redis::cmd("MGET");
    look.arg(names);
    let found = connection::ask_alone(names.len() * BYTES_MAX, |session| look.query(session))?;
    let found: Vec<Option<Vec<u8>>> = match found {
        Ok(found) => found,
        Err(failure) => {
            names.iter().for_each(|name| note(name));
            return Ok(Unlinked { refused: Some(failure), ..unlinked });
        }
    };
    for (name, bytes) in names.iter().zip(found) {
        let (Some(key), Some(bytes)) = (key_of_sidecar(name), bytes) else { continue };
        let Some(sidecar) = Sidecar::decode(&bytes).ok().filter(&is_meant) else { continue };
        host::check_interrupts();
        match unlink_entry(&EntryKeys::new(key), &sidecar, &bytes)? {
            Ok(is_gone) => unlinked.count += u64::from(is_gone),
            Err(failure) => {
                note(name);
                unlinked.refused.get_or_insert(failure);
            }
        }
    }
    Ok(unlinked)
}

fn unlink_entry(
    keys: &EntryKeys,
    sidecar: &Sidecar,
    bytes: &[u8],
) -> Result<Result<bool, Failure>, Failure> {
    // A larger value is not the one that was filled.
    let is_possible = sidecar.value_bytes <= guc::value_bytes_largest();
    let value_bytes = usize::try_from(sidecar.value_bytes).unwrap_or(usize::MAX);
    let look = |session: &mut Session| unlink::value(session, keys, sidecar);
    let value = match is_possible.then(|| connection::ask_alone(value_bytes, look)).transpose()? {
        None => None,
        Some(Ok(value)) => value,
        Some(Err(failure)) => return Ok(Err(failure)),
    };
    host::fault_point("flush.looked");
    connection::ask_alone(0, |session| unlink::entry(session, keys, bytes, value.as_deref()))
}

/// Whatever matches, but for the helpers of other databases' entries.
fn unlink_foreign(names: &[Vec<u8>]) -> Result<Unlinked, Failure> {
    let reserved = |name: &&Vec<u8>| name.starts_with(RESERVED_PREFIX.as_bytes());
    let names: Vec<_> = names.iter().filter(|name| !reserved(name)).collect();
    if names.is_empty() {
        return Ok(Unlinked::default());
    }
    let unlink = |names: &[&Vec<u8>]| {
        let mut unlink = redis::cmd("UNLINK");
        unlink.arg(names);
        connection::ask_alone(0, |session| unlink.query(session))
    };
    if let Ok(count) = unlink(&names)? {
        return Ok(Unlinked { count, refused: None });
    }
    // One of them is enough for a refusal of all.
    let mut unlinked = Unlinked::default();
    for name in names {
        match unlink(&[name])? {
            Ok(count) => unlinked.count += count,
            Err(failure) => _ = unlinked.refused.get_or_insert(failure),
        }
    }
    Ok(unlinked)
}
