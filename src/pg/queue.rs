//! Tables of ours whose rows come and go in number, walked in the order of an index.
//!
//! Below SQL, as all that is written before a commit: the transaction may be READ ONLY by now and
//! its user unprivileged. Invariant: a walk gives what one snapshot sees, and a row is deleted by
//! the place at which that snapshot found it. A DELETE by condition would take another snapshot,
//! and with it rows that nobody has sent.

use std::ops::{ControlFlow, RangeInclusive};

use pgrx::pg_sys;

use super::snapshot::Snapshot;
use super::table::{Row, Table};

/// Where a row stands in its table.
#[derive(Clone, Copy)]
pub struct Spot(pg_sys::ItemPointerData);

impl Row {
    pub fn spot(&self) -> Spot {
        // SAFETY: the tuple of an open scan.
        Spot(unsafe { (*self.tuple).t_self })
    }

    /// What it takes on disk, with what of its last column stands in another place.
    fn bytes_in_use(&self) -> u64 {
        // SAFETY: the tuple of an open scan.
        let length = u64::from(unsafe { (*self.tuple).t_len });
        let [.., message] = self.values::<5>();
        // SAFETY: a bytea, wherever it stands: this reads its head only.
        let size = |message| unsafe { pg_sys::toast_datum_size(message) } as u64;
        length.max(message.map_or(0, size))
    }
}

impl Table {
    /// Shows the rows whose first column, a bigint, lies in these bounds, in the order of `index`,
    /// until it is told to stop.
    pub fn walk(
        &self,
        index: &Table,
        bounds: RangeInclusive<i64>,
        snapshot: &Snapshot,
        each: impl FnMut(&Row) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.walk_by(index, &mut within(&bounds), snapshot, each)
    }

    /// The same of those with this first column whose second one, an xid8, is beyond `xid`.
    pub fn walk_beyond(
        &self,
        index: &Table,
        (first, xid): (i64, u64),
        snapshot: &Snapshot,
        each: impl FnMut(&Row) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let [from, to] = within(&(first..=first));
        let beyond = key(2, pg_sys::BTGreaterStrategyNumber, pg_sys::F_XID8GT, xid as i64);
        self.walk_by(index, &mut [from, to, beyond], snapshot, each)
    }

    fn walk_by(
        &self,
        index: &Table,
        keys: &mut [pg_sys::ScanKeyData],
        snapshot: &Snapshot,
        mut each: impl FnMut(&Row) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // SAFETY: both are open, and the keys live until the scan ends below.
        let scan = unsafe {
            pg_sys::systable_beginscan_ordered(
                self.relation,
                index.relation,
                snapshot.raw(),
                keys.len() as i32,
                keys.as_mut_ptr(),
            )
        };
        let mut flow = ControlFlow::Continue(());
        while flow.is_continue() {
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            // SAFETY: an open scan.
            let tuple = unsafe { pg_sys::systable_getnext_ordered(scan, forward) };
            if tuple.is_null() {
                break;
            }
            flow = each(&Row { tuple, relation: self.relation });
        }
        // SAFETY: the scan from above; nobody kept anything of its rows.
        unsafe { pg_sys::systable_endscan_ordered(scan) };
        flow
    }

    /// Deletes a row that a walk of this transaction found.
    pub fn delete(&self, spot: Spot) {
        let mut place = spot.0;
        // SAFETY: the table is open with a lock for writing.
        unsafe { pg_sys::simple_heap_delete(self.relation, &raw mut place) };
    }

    /// What the table takes on disk, without its indexes.
    pub fn bytes(&self) -> u64 {
        // SAFETY: the relation is open.
        let class = unsafe { (*self.relation).rd_rel };
        // SAFETY: as above.
        let toast = unsafe { (*class).reltoastrelid };
        let aside = Table::try_open(toast, pg_sys::AccessShareLock);
        let aside = aside.map_or(0, |toast| u64::from(toast.blocks()));
        (u64::from(self.blocks()) + aside) * u64::from(pg_sys::BLCKSZ)
    }

    /// About how much of the table rows take that are there for somebody, those of transactions
    /// that are not over among them: what a sample of its blocks says, spread evenly.
    pub fn bytes_in_use(&self, sample_blocks: u32) -> u64 {
        let blocks = self.blocks();
        let sampled = sample_blocks.clamp(1, blocks.max(1));
        let part = |place: u32| (u64::from(place) * u64::from(blocks) / u64::from(sampled)) as u32;
        let bytes: u64 = (0..sampled.min(blocks)).map(|place| self.block_in_use(part(place))).sum();
        bytes.saturating_mul(blocks.into()) / u64::from(sampled)
    }

    /// What rows of one block take that are there for somebody, with what stands in other places.
    fn block_in_use(&self, block: u32) -> u64 {
        let mut any = pg_sys::SnapshotData {
            snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY,
            ..pg_sys::SnapshotData::default()
        };
        // SAFETY: the relation is open; neither joins the scan of another nor keeps statistics of
        // it; the snapshot lives until the scan ends below.
        let scan = unsafe {
            let no_keys = std::ptr::null_mut();
            pg_sys::table_beginscan_strat(self.relation, &raw mut any, 0, no_keys, true, false)
        };
        // SAFETY: a scan of a heap that has not begun.
        unsafe { pg_sys::heap_setscanlimits(scan, block, 1) };
        let mut bytes = 0;
        loop {
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            // SAFETY: an open scan.
            let tuple = unsafe { pg_sys::heap_getnext(scan, forward) };
            if tuple.is_null() {
                break;
            }
            bytes += Row { tuple, relation: self.relation }.bytes_in_use();
        }
        // SAFETY: the scan from above; nobody kept anything of its rows.
        unsafe { pg_sys::table_endscan(scan) };
        bytes
    }
}

fn within(bounds: &RangeInclusive<i64>) -> [pg_sys::ScanKeyData; 2] {
    [
        key(1, pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_INT8GE, *bounds.start()),
        key(1, pg_sys::BTLessEqualStrategyNumber, pg_sys::F_INT8LE, *bounds.end()),
    ]
}

fn key(column: i16, strategy: u32, compare: u32, value: i64) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    let (compare, value) = (pg_sys::Oid::from(compare), pg_sys::Datum::from(value));
    // SAFETY: fills the key for a built-in comparison.
    unsafe { pg_sys::ScanKeyInit(&raw mut key, column, strategy as u16, compare, value) };
    key
}

/// Adds rows to a table, with its indexes opened once for all of them.
pub struct Inserter<'a> {
    table: &'a Table,
    indexes: pg_sys::CatalogIndexState,
}

impl<'a> Inserter<'a> {
    pub fn new(table: &'a Table) -> Self {
        // SAFETY: the table is open with a lock for writing.
        Self { table, indexes: unsafe { pg_sys::CatalogOpenIndexes(table.relation) } }
    }

    /// The values of every column; none is NULL.
    pub fn insert<const N: usize>(&self, mut values: [pg_sys::Datum; N]) {
        let mut nulls = [false; N];
        let table = self.table.relation;
        // SAFETY: the relation is open.
        let description = unsafe { (*table).rd_att };
        // SAFETY: as many values as the table has columns, of their types.
        let tuple = unsafe {
            pg_sys::heap_form_tuple(description, values.as_mut_ptr(), nulls.as_mut_ptr())
        };
        // SAFETY: the relation is open with a lock for writing, and these are its indexes.
        unsafe { pg_sys::CatalogTupleInsertWithInfo(table, tuple, self.indexes) };
        // SAFETY: made above; what was inserted is a copy.
        unsafe { pg_sys::heap_freetuple(tuple) };
    }
}

impl Drop for Inserter<'_> {
    fn drop(&mut self) {
        // An error releases what is open by itself.
        if !std::thread::panicking() {
            // SAFETY: opened by `new`.
            unsafe { pg_sys::CatalogCloseIndexes(self.indexes) };
        }
    }
}

/// Frees a datum of ours that was copied into a row.
pub fn release(datum: pg_sys::Datum) {
    // SAFETY: palloc'ed by whoever made it for this.
    unsafe { pg_sys::pfree(datum.cast_mut_ptr()) };
}

/// This moment, as a timestamptz.
pub fn now() -> pg_sys::Datum {
    // SAFETY: reads the clock.
    pg_sys::Datum::from(unsafe { pg_sys::GetCurrentTimestamp() })
}

/// How long ago a timestamptz was.
pub fn seconds_since(timestamp: i64) -> i64 {
    // SAFETY: reads the clock.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    now.saturating_sub(timestamp) / 1_000_000
}
