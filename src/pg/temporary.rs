//! Whether this session has anything temporary, which a function that cannot be looked into might
//! read.
//!
//! Invariant: whatever stands in the session's temporary schema hangs on it in pg_depend: that is
//! how PostgreSQL empties it at the end. If something were missed, a result that only this session
//! sees would be stored for all.

use std::ffi::c_int;

use pgrx::pg_sys;

/// pg_depend, and its index by what is depended on.
const DEPENDENCIES: u32 = 2608;
const BY_REFERENCE: u32 = 2674;

/// The columns of that index: the catalogue and the object that are depended on.
const REFERENCED_CATALOGUE: i16 = 4;
const REFERENCED_OBJECT: i16 = 5;

/// Whether anything stands in the temporary schema now. The schema itself stays, once it was made,
/// as long as the session.
///
/// Each relation, type or function that comes there moves the count of `surroundings`, and
/// everything else is DDL that all entries depend on: so a plan may keep the answer.
pub fn has_objects() -> bool {
    let (mut schema, mut toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
    // SAFETY: reads the session's state into two locals.
    unsafe { pg_sys::GetTempNamespaceState(&raw mut schema, &raw mut toast) };
    schema != pg_sys::InvalidOid && is_depended_on(schema)
}

fn is_depended_on(schema: pg_sys::Oid) -> bool {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: a catalogue that is always there.
    let table = unsafe { pg_sys::table_open(pg_sys::Oid::from(DEPENDENCIES), lock) };
    let mut keys =
        [key(REFERENCED_CATALOGUE, pg_sys::NamespaceRelationId), key(REFERENCED_OBJECT, schema)];
    // SAFETY: the catalogue is open, and the keys live until the scan ends below.
    let scan = unsafe {
        pg_sys::systable_beginscan(
            table,
            pg_sys::Oid::from(BY_REFERENCE),
            true,
            std::ptr::null_mut(),
            keys.len() as c_int,
            keys.as_mut_ptr(),
        )
    };
    // SAFETY: an open scan.
    let found = !unsafe { pg_sys::systable_getnext(scan) }.is_null();
    // SAFETY: the scan from above.
    unsafe { pg_sys::systable_endscan(scan) };
    // SAFETY: opened above; an error closes it by itself.
    unsafe { pg_sys::table_close(table, lock) };
    found
}

fn key(column: i16, oid: pg_sys::Oid) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    let (equal, compare) = (pg_sys::BTEqualStrategyNumber, pg_sys::Oid::from(pg_sys::F_OIDEQ));
    let value = pg_sys::Datum::from(oid);
    // SAFETY: fills the key for a built-in comparison.
    unsafe { pg_sys::ScanKeyInit(&raw mut key, column, equal as u16, compare, value) };
    key
}
