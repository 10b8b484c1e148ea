//! Small tables of our own, read under a snapshot of the caller's choice and written below SQL.
//!
//! SQL would not do: a reader must not take a transaction id, a commit may belong to a READ ONLY
//! transaction of an unprivileged user. Locks are only tried: neither a page nor a COMMIT waits
//! behind a VACUUM FULL of ours.

use std::cell::Cell;

use pgrx::pg_sys;

use super::error::Outcome;
use super::snapshot::Snapshot;
use super::transaction::End;
use super::utility;

pub const READ_LOCK: u32 = pg_sys::AccessShareLock;
pub const WRITE_LOCK: u32 = pg_sys::RowExclusiveLock;
pub const EXCLUSIVE_LOCK: u32 = pg_sys::AccessExclusiveLock;

/// The tables of the extension, by oid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tables {
    pub server: pg_sys::Oid,
    pub alive: pg_sys::Oid,
    pub debt: pg_sys::Oid,
    pub debt_index: pg_sys::Oid,
    pub outbox: pg_sys::Oid,
    pub outbox_index: pg_sys::Oid,
    pub job_done: pg_sys::Oid,
    pub job_done_index: pg_sys::Oid,
}

thread_local! {
    static TABLES: Cell<Option<Tables>> = const { Cell::new(None) };
}

impl Tables {
    /// Where they are, if the extension is installed in this database. What is remembered may be
    /// gone: opening it tells, and then they are to be looked for again.
    pub fn find() -> Option<Self> {
        if TABLES.get().is_none() {
            TABLES.set(Self::look_up());
        }
        TABLES.get()
    }

    /// As they are remembered: looks nothing up, so it may be asked outside of a transaction.
    pub fn known() -> Option<Self> {
        TABLES.get()
    }

    pub fn find_again() -> Option<Self> {
        TABLES.set(None);
        Self::find()
    }

    fn look_up() -> Option<Self> {
        let schema = extension_schema()?;
        let named = |name: &std::ffi::CStr| {
            // SAFETY: a catalogue look-up.
            let found = unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
            (found != pg_sys::InvalidOid).then_some(found)
        };
        Some(Self {
            server: named(c"redis_server")?,
            alive: named(c"redis_alive")?,
            debt: named(c"redis_debt")?,
            debt_index: named(c"redis_debt_pkey")?,
            outbox: named(c"redis_outbox")?,
            outbox_index: named(c"redis_outbox_pkey")?,
            job_done: named(c"redis_job_done")?,
            job_done_index: named(c"redis_job_done_pkey")?,
        })
    }
}

/// The schema that holds all of pg_cache in this database.
pub fn extension_schema() -> Option<pg_sys::Oid> {
    // SAFETY: reads pg_extension; InvalidOid if there is no such extension.
    let extension = unsafe { pg_sys::get_extension_oid(c"pg_cache".as_ptr(), true) };
    if extension == pg_sys::InvalidOid {
        return None;
    }
    // SAFETY: a catalogue, with a lock that conflicts with nothing we do.
    let catalogue =
        unsafe { pg_sys::table_open(pg_sys::ExtensionRelationId, pg_sys::AccessShareLock as i32) };
    let table = Table { relation: catalogue, lock: pg_sys::AccessShareLock };
    let key = Key { column: 1, compare: pg_sys::F_OIDEQ, value: pg_sys::Datum::from(extension) };
    let index = pg_sys::Oid::from(pg_sys::ExtensionOidIndexId);
    table.first(Some((index, key)), std::ptr::null_mut(), |row| {
        // SAFETY: the fixed part of a row of pg_extension.
        unsafe { (*row.fixed().cast::<pg_sys::FormData_pg_extension>()).extnamespace }
    })
}

/// The same by name, as SQL writes it.
pub fn extension_schema_name() -> Option<String> {
    // SAFETY: a palloc'ed name, or NULL.
    let name = unsafe { pg_sys::get_namespace_name(extension_schema()?) };
    Some(super::quote::identifier(&super::text::c_string(name)))
}

/// An open table.
pub struct Table {
    pub(super) relation: pg_sys::Relation,
    lock: u32,
}

/// An equality on the first column of an index.
pub struct Key {
    pub column: i16,
    pub compare: u32,
    pub value: pg_sys::Datum,
}

impl Table {
    /// Opens a table if that needs no wait and it is still there.
    pub fn try_open(table: pg_sys::Oid, lock: u32) -> Option<Self> {
        // SAFETY: takes the lock or leaves it.
        if !unsafe { pg_sys::ConditionalLockRelationOid(table, lock as i32) } {
            return None;
        }
        // SAFETY: the lock is held.
        let relation = unsafe { pg_sys::try_relation_open(table, pg_sys::NoLock as i32) };
        if relation.is_null() {
            // SAFETY: the lock from above, on a table that is gone.
            unsafe { pg_sys::UnlockRelationOid(table, lock as i32) };
            return None;
        }
        Some(Self { relation, lock })
    }

    /// What `read` makes of the first row that the snapshot sees.
    pub fn first<T>(
        &self,
        by: Option<(pg_sys::Oid, Key)>,
        snapshot: pg_sys::Snapshot,
        read: impl FnOnce(&Row) -> T,
    ) -> Option<T> {
        let mut key = pg_sys::ScanKeyData::default();
        let (index, count) = match by {
            None => (pg_sys::InvalidOid, 0),
            Some((index, Key { column, compare, value })) => {
                let equal = pg_sys::BTEqualStrategyNumber as u16;
                let compare = pg_sys::Oid::from(compare);
                // SAFETY: fills the key for a built-in comparison.
                unsafe { pg_sys::ScanKeyInit(&raw mut key, column, equal, compare, value) };
                (index, 1)
            }
        };
        // SAFETY: the relation is open and the key lives until the scan ends below.
        let scan = unsafe {
            pg_sys::systable_beginscan(
                self.relation,
                index,
                count > 0,
                snapshot,
                count,
                &raw mut key,
            )
        };
        // SAFETY: an open scan.
        let tuple = unsafe { pg_sys::systable_getnext(scan) };
        let found = (!tuple.is_null()).then(|| read(&Row { tuple, relation: self.relation }));
        // SAFETY: the scan from above; `read` kept nothing of the row.
        unsafe { pg_sys::systable_endscan(scan) };
        found
    }

    pub fn oid(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open.
        unsafe { (*self.relation).rd_id }
    }

    pub fn blocks(&self) -> u32 {
        let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
        // SAFETY: the relation is open.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.relation, fork) }
    }

    /// Whether the table has no block at all, hence no row.
    pub fn is_bare(&self) -> bool {
        self.blocks() == 0
    }

    /// Adds a row, with its index entries, whatever the transaction and its user may do in SQL.
    pub fn insert(&self, values: &[Option<pg_sys::Datum>]) {
        let mut nulls: Vec<bool> = values.iter().map(Option::is_none).collect();
        let zero = pg_sys::Datum::from(0usize);
        let mut datums: Vec<_> = values.iter().map(|value| value.unwrap_or(zero)).collect();
        // SAFETY: the relation is open.
        let description = unsafe { (*self.relation).rd_att };
        // SAFETY: as many values as the table has columns, of their types.
        let tuple = unsafe {
            pg_sys::heap_form_tuple(description, datums.as_mut_ptr(), nulls.as_mut_ptr())
        };
        // SAFETY: the relation is open with a lock for writing.
        unsafe { pg_sys::CatalogTupleInsert(self.relation, tuple) };
    }

    /// Truncates a table of ours that is locked for us alone, if nobody is in the way at its large
    /// values, and keeps it locked until the transaction ends: a row that came in between would go.
    pub fn truncate(self, schema: &str, name: &str) -> Outcome<End<()>> {
        if !self.lock_toast() {
            return Ok(End::Abort(()));
        }
        // Closed for TRUNCATE, which refuses a table that is open.
        self.keep_lock();
        utility::run(&format!("TRUNCATE {schema}.{name}"))?;
        Ok(End::Commit(()))
    }

    /// Locks the table of its large values as it is locked itself, if nobody is in the way, until
    /// the transaction ends. Whoever vacuums that one has no lock on this one.
    fn lock_toast(&self) -> bool {
        // SAFETY: the relation is open.
        let class = unsafe { (*self.relation).rd_rel };
        // SAFETY: as above.
        let toast = unsafe { (*class).reltoastrelid };
        toast == pg_sys::InvalidOid
            // SAFETY: takes the lock or leaves it.
            || unsafe { pg_sys::ConditionalLockRelationOid(toast, self.lock as i32) }
    }

    /// Keeps the lock until the transaction ends.
    pub fn keep_lock(mut self) {
        self.lock = pg_sys::NoLock;
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // An error releases what is open by itself.
        if !std::thread::panicking() {
            // SAFETY: opened by us with this lock.
            unsafe { pg_sys::relation_close(self.relation, self.lock as i32) };
        }
    }
}

/// A row of a table, while its scan is open.
pub struct Row {
    pub(super) tuple: pg_sys::HeapTuple,
    pub(super) relation: pg_sys::Relation,
}

impl Row {
    fn fixed(&self) -> *const u8 {
        // SAFETY: a tuple has a header, and its data stand behind it.
        let header = unsafe { (*self.tuple).t_data };
        // SAFETY: as above.
        let offset = unsafe { (*header).t_hoff };
        // SAFETY: within the tuple.
        unsafe { header.cast::<u8>().add(usize::from(offset)) }
    }

    /// The bytes of the row without its header: the same bytes are the same values.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: as in `fixed`.
        let tuple = unsafe { &*self.tuple };
        // SAFETY: as in `fixed`.
        let offset = usize::from(unsafe { (*tuple.t_data).t_hoff });
        let length = (tuple.t_len as usize).saturating_sub(offset);
        // SAFETY: the data of a tuple end where it ends.
        unsafe { std::slice::from_raw_parts(self.fixed(), length) }
    }

    /// Whether somebody has replaced or deleted what the snapshot sees here, or is about to. It
    /// costs nothing to know that nobody has; who only locked it has not.
    pub fn is_replaced(&self) -> bool {
        const NOT_REPLACED: u32 = pg_sys::HEAP_XMAX_INVALID | pg_sys::HEAP_XMAX_LOCK_ONLY;
        // SAFETY: a tuple has a header.
        let header = unsafe { (*self.tuple).t_data };
        // SAFETY: as above; on a page that the open scan has pinned.
        let mask = unsafe { (*header).t_infomask };
        u32::from(mask) & NOT_REPLACED == 0
    }

    /// The values of the first columns.
    pub fn values<const N: usize>(&self) -> [Option<pg_sys::Datum>; N] {
        // SAFETY: the relation is open.
        let description = unsafe { (*self.relation).rd_att };
        // SAFETY: as above.
        let columns = usize::try_from(unsafe { (*description).natts }).unwrap_or(0).max(N);
        let mut datums = vec![pg_sys::Datum::from(0usize); columns];
        let mut nulls = vec![true; columns];
        // SAFETY: room for every column of the table.
        unsafe {
            pg_sys::heap_deform_tuple(
                self.tuple,
                description,
                datums.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
        }
        std::array::from_fn(|place| (!nulls[place]).then_some(datums[place]))
    }
}

/// Reads under this snapshot.
impl Snapshot {
    pub fn first<T>(&self, table: &Table, read: impl FnOnce(&Row) -> T) -> Option<T> {
        table.first(None, self.raw(), read)
    }

    /// Whether a row has this value in the index's first column, a bigint.
    pub fn has(&self, table: &Table, index: pg_sys::Oid, value: i64) -> bool {
        let value = pg_sys::Datum::from(value);
        let key = Key { column: 1, compare: pg_sys::F_INT8EQ, value };
        table.first(Some((index, key)), self.raw(), |_| ()).is_some()
    }
}
