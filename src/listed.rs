//! The tag table in memory, as those use it who write and who read: the ones enter themselves, the
//! others look at an entry's buckets there, or ask Redis for them.

use pg_cache_core::reason::Reason;
use pg_cache_core::tag::Tag;
use pg_cache_core::tagtable::Fields;

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

/// The buckets of an entry as of now; `None`: the table is in Redis. An error: it lists who may be
/// running.
pub fn fields(
    registration: &Registration,
    entry: &Entry,
    snapshot: &Snapshot,
) -> Result<Option<Fields>, Reason> {
    if registration.home == Home::Redis {
        return Ok(None);
    }
    let table = Tags::here().ok_or(Reason::Unregistered)?;
    table.fields(&entry.buckets, snapshot).map(Some).ok_or(Reason::RunningWriter)
}
