//! The tag table in memory, as those use it who write and who read: the ones enter themselves, the
//! others are told of an entry's buckets in the words of a table in Redis, so that both are judged
//! by the same rules.
//!
//! It is of the registered generation whatever happens, and has no base: no writer of this run of
//! the server is missing in it, and no other run's entries are of this generation.

use pg_cache_core::fence::Look;
use pg_cache_core::reason::Reason;
use pg_cache_core::tag::Tag;
use pg_cache_core::tagtable;

use crate::client::failure::Failure;
use crate::client::session::Ask;
use crate::entry::Entry;
use crate::pg::snapshot::Snapshot;
use crate::pg::tags::{self, Tags};
use crate::registry::{self, Home, Registration};

/// Lists a transaction, by a snapshot that was taken a moment ago, under all of these tags. Gives
/// how many buckets that were.
pub fn enter(
    table: Tags,
    all: impl Iterator<Item = Tag>,
    xid: u64,
    snapshot: &Snapshot,
) -> Result<usize, Failure> {
    let buckets = registry::each_once(all.map(tags::bucket));
    match table.bump(&buckets, xid, snapshot) {
        true => Ok(buckets.len()),
        false => Err(Failure::new(Reason::Catalogue, "too many schema changes are ending")),
    }
}

/// What a look at an entry asks Redis for.
pub fn ask<'a>(registration: &'a Registration, entry: &'a Entry) -> Ask<'a> {
    let table = (&registration.table[..], &entry.buckets[..]);
    Ask::new(&entry.keys, (registration.home == Home::Redis).then_some(table))
}

/// Complete in every snapshot.
const NO_BASE: &[u8] = b"0";

pub struct Listed {
    generation: [u8; 32],
    fields: Vec<Vec<u8>>,
}

impl Listed {
    /// As of now. None: the table is in Redis. An error: it lists who may be running.
    pub fn of(
        registration: &Registration,
        entry: &Entry,
        snapshot: &Snapshot,
    ) -> Result<Option<Self>, Reason> {
        if registration.home == Home::Redis {
            return Ok(None);
        }
        let table = Tags::here().ok_or(Reason::Unregistered)?;
        let fields = table.fields(&entry.buckets, snapshot).ok_or(Reason::RunningWriter)?;
        let generation = tagtable::generation_text(registration.generation);
        Ok(Some(Self { generation, fields }))
    }

    /// Hands on what was found in Redis, with the table beside it if that is in memory.
    pub fn beside<T>(
        listed: Option<&Self>,
        found: &Look<'_>,
        work: impl FnOnce(&Look<'_>) -> T,
    ) -> T {
        match listed {
            Some(listed) => listed.with(found, work),
            None => work(found),
        }
    }

    /// The same of one that is.
    pub fn with<T>(&self, found: &Look<'_>, work: impl FnOnce(&Look<'_>) -> T) -> T {
        let fields: Vec<Option<&[u8]>> = self.fields.iter().map(|field| Some(&field[..])).collect();
        let (generation, base) = (Some(&self.generation[..]), Some(NO_BASE));
        let Look { value, sidecar, .. } = *found;
        work(&Look { value, sidecar, generation, base, fields: &fields })
    }
}
