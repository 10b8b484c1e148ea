//! The tag table in this server's shared memory, where the library was preloaded.
//!
//! Whoever writes lists itself here, whether or not readers look here: so the registration of a
//! table in memory counts at once, and none of this server's run is missing in it.

use pg_cache_core::tag::{Bucket, Tag};
use pg_cache_core::tagtable::Fields;
use pg_cache_core::tagtable::memory::{self, Table, View};

use super::snapshot::Snapshot;
use super::{identity, shmem};

/// The table, and which of its catalogues is this database's.
#[derive(Clone, Copy)]
pub struct Tags {
    table: &'static Table,
    database: u32,
}

impl Tags {
    /// `None`: the library was not preloaded.
    pub fn here() -> Option<Self> {
        shmem::tags().map(|table| Self { table, database: identity::database() })
    }

    /// Lists a transaction in these buckets, whose snapshot was taken a moment ago. False: in some
    /// of them there was no room for one more.
    pub fn bump(self, buckets: &[Bucket], xid: u64, snapshot: &Snapshot) -> bool {
        with_view(snapshot, |view| {
            buckets.iter().all(|bucket| self.table.bump(self.database, *bucket, xid, view))
        })
    }

    /// The buckets; `None` if some hold writers that the snapshot may not see as complete.
    pub fn fields(self, buckets: &[Bucket], snapshot: &Snapshot) -> Option<Fields> {
        with_view(snapshot, |view| {
            buckets.iter().map(|bucket| self.table.field(self.database, *bucket, view)).collect()
        })
    }

    /// Who is listed for the catalogue.
    pub fn catalogue_writers(self) -> Vec<u64> {
        self.table.catalogue_writers(self.database)
    }
}

fn with_view<T>(snapshot: &Snapshot, work: impl FnOnce(&View<'_>) -> T) -> T {
    let is_complete = |xid| snapshot.is_complete(xid);
    let are_complete = |range| snapshot.are_complete(range);
    work(&View { is_complete: &is_complete, are_complete: &are_complete })
}

/// The bucket of a tag of this database.
pub fn bucket(tag: Tag) -> Bucket {
    memory::bucket(tag, identity::database())
}
