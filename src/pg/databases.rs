//! The databases of this server, for a process that is connected to none of them.

use pgrx::pg_sys;

use super::error::Outcome;
use super::transaction::{self, End};

/// A database, by its oid.
pub struct Found {
    pub oid: u32,
    /// Whether a worker may connect to it. Not to a template: a session there keeps others from
    /// copying it.
    pub is_open: bool,
}

/// All that there are.
pub fn list() -> Outcome<Vec<Found>> {
    transaction::run(|| {
        let mut found = Vec::new();
        // SAFETY: a shared catalogue, with a lock that conflicts with nothing but its rewriting.
        let catalogue = unsafe {
            pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32)
        };
        let (no_index, no_keys) = (pg_sys::InvalidOid, std::ptr::null_mut());
        // SAFETY: an open catalogue, read from end to end under a catalogue snapshot.
        let scan = unsafe {
            let snapshot = std::ptr::null_mut();
            pg_sys::systable_beginscan(catalogue, no_index, false, snapshot, 0, no_keys)
        };
        loop {
            // SAFETY: an open scan.
            let tuple = unsafe { pg_sys::systable_getnext(scan) };
            if tuple.is_null() {
                break;
            }
            // SAFETY: the fixed part of a row.
            let row = unsafe { pg_sys::GETSTRUCT(tuple) }.cast::<pg_sys::FormData_pg_database>();
            // SAFETY: of pg_database, as long as the scan stands on it.
            let row = unsafe { &*row };
            // Negative beyond -1: a DROP DATABASE that did not come to its end.
            let is_open = row.datallowconn && !row.datistemplate && row.datconnlimit >= -1;
            found.push(Found { oid: row.oid.to_u32(), is_open });
        }
        // SAFETY: the scan from above.
        unsafe { pg_sys::systable_endscan(scan) };
        // SAFETY: opened above with this lock.
        unsafe { pg_sys::table_close(catalogue, pg_sys::AccessShareLock as i32) };
        Ok(End::Commit(found))
    })
}
