//! The table `redis_job_done`: what was acknowledged, found by queue and id.
//!
//! Below SQL, so that whoever may acknowledge a job needs no right to the table. Invariant: of one
//! job one transaction at most has the row. A second one waits for the first, and is told whether
//! it committed, by the primary key and not by a look before.

use std::ffi::c_int;

use pgrx::pg_sys;

use super::error::{self, Outcome, catch};
use super::queue;
use super::table::{Row, Table};
use super::text;

unsafe extern "C-unwind" {
    /// Without pgrx's guard, so that `catch` keeps the error of the primary key whole.
    fn CatalogTupleInsert(table: pg_sys::Relation, tuple: pg_sys::HeapTuple);
}

const UNIQUE_VIOLATION: &str = "23505";

/// A row that stands there: committed by now, or of this very transaction.
pub struct Found {
    pub birth: Vec<u8>,
    pub xid: u64,
}

/// The rows of an id.
pub fn find(
    (table, index): (&Table, &Table),
    queue: pg_sys::Datum,
    id: pg_sys::Datum,
) -> Vec<Found> {
    let mut keys = [key(1, queue), key(2, id)];
    let snapshot = &raw mut pg_sys::SnapshotSelfData;
    // SAFETY: both are open, and the keys live until the scan ends below.
    let scan = unsafe {
        pg_sys::systable_beginscan(
            table.relation,
            index.oid(),
            true,
            snapshot,
            keys.len() as c_int,
            keys.as_mut_ptr(),
        )
    };
    let mut found = Vec::new();
    loop {
        // SAFETY: an open scan.
        let tuple = unsafe { pg_sys::systable_getnext(scan) };
        if tuple.is_null() {
            break;
        }
        let [_, _, birth, xid] = Row { tuple, relation: table.relation }.values::<4>();
        found.push(Found {
            birth: birth.map(|birth| text::bytes(birth).to_vec()).unwrap_or_default(),
            xid: xid.map_or(0, |xid| xid.value() as u64),
        });
    }
    // SAFETY: the scan from above; what was read is copied.
    unsafe { pg_sys::systable_endscan(scan) };
    found
}

fn key(column: i16, value: pg_sys::Datum) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    let (equal, compare) = (pg_sys::BTEqualStrategyNumber, pg_sys::Oid::from(pg_sys::F_TEXTEQ));
    // SAFETY: fills the key for a built-in comparison, under the collation "C" as the columns.
    unsafe { pg_sys::ScanKeyInit(&raw mut key, column, equal as u16, compare, value) };
    key
}

/// Writes a row down. Whoever else writes the same one is waited for; false if it committed.
/// Then the transaction must end.
pub fn insert(
    table: &Table,
    queue: pg_sys::Datum,
    id: pg_sys::Datum,
    birth: &[u8],
    xid: u64,
) -> Outcome<bool> {
    let mut values = [queue, id, text::datum(birth), pg_sys::Datum::from(xid), queue::now()];
    let mut nulls = [false; 5];
    let relation = table.relation;
    // SAFETY: the relation is open.
    let description = unsafe { (*relation).rd_att };
    // SAFETY: as many values as the table has columns, of their types.
    let tuple =
        unsafe { pg_sys::heap_form_tuple(description, values.as_mut_ptr(), nulls.as_mut_ptr()) };
    // SAFETY: the relation is open with a lock for writing.
    let insert = || unsafe { CatalogTupleInsert(relation, tuple) };
    // SAFETY: one C call over plain pointers; its error ends the transaction.
    match unsafe { catch(insert) } {
        Ok(()) => Ok(true),
        Err(raised) if error::is(&raised, UNIQUE_VIOLATION) => Ok(false),
        Err(raised) => Err(raised),
    }
}
