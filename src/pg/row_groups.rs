//! Row groups as PostgreSQL's own equality of a column's type sees them.
//!
//! Invariant: equal values have equal hashes, whoever computes them. So a value is hashed by the
//! extended hash function of its type's default hash operator class, under the column's collation
//! and with seed 0; never by its text (`1.0` = `1.00`).

use pgrx::pg_sys;

use super::error::{Outcome, catch};
use super::hashing::{SEED, type_entry};
use super::trigger::{Attribute, Row};

/// Each row is hashed and noted for each of its columns.
pub const COLUMNS_MAX: usize = 8;

unsafe extern "C-unwind" {
    // Without pgrx's guard: all columns of a row are hashed inside one `catch`.
    fn FunctionCall2Coll(
        function: *mut pg_sys::FmgrInfo,
        collation: pg_sys::Oid,
        value: pg_sys::Datum,
        seed: pg_sys::Datum,
    ) -> pg_sys::Datum;
}

/// A column whose values make groups.
#[derive(Clone, Copy)]
pub struct Hashed {
    attribute: Attribute,
    /// Entries of the type cache live as long as the backend.
    entry: *mut pg_sys::TypeCacheEntry,
}

/// The hash of each column's value; `None` for NULL, which no equality finds.
pub type Hashes = [Option<u64>; COLUMNS_MAX];

impl Hashed {
    /// `None` if the type has no equality that can be hashed.
    pub fn new(attribute: Attribute) -> Option<Self> {
        let entry = type_entry(attribute.type_oid);
        // SAFETY: the type cache's entry.
        let function = unsafe { (*entry).hash_extended_proc };
        (function != pg_sys::InvalidOid).then_some(Self { attribute, entry })
    }
}

/// Whether values of the type can make groups.
pub fn can_hash(type_oid: pg_sys::Oid) -> bool {
    // SAFETY: the type cache's entry.
    unsafe { (*type_entry(type_oid)).hash_extended_proc != pg_sys::InvalidOid }
}

/// Hashes the first `COLUMNS_MAX` of the columns.
pub fn hashes(row: Row, columns: &[Hashed]) -> Outcome<Hashes> {
    let mut values = [None; COLUMNS_MAX];
    for (value, column) in values.iter_mut().zip(columns) {
        *value = row.value(column.attribute);
    }
    let hash_all = || {
        let mut hashes: Hashes = [None; COLUMNS_MAX];
        for ((hash, value), column) in hashes.iter_mut().zip(&values).zip(columns) {
            let Some(value) = *value else { continue };
            let collation = column.attribute.collation;
            // SAFETY: as above; the function stands in the entry.
            let function = unsafe { &raw mut (*column.entry).hash_extended_proc_finfo };
            let seed = pg_sys::Datum::from(SEED);
            // SAFETY: the hash function of the value's own type.
            let hashed = unsafe { FunctionCall2Coll(function, collation, value, seed) };
            *hash = Some(hashed.value() as u64);
        }
        hashes
    };
    // SAFETY: calls C functions over plain values and owns nothing.
    unsafe { catch(hash_all) }
}
