//! How values of a column are hashed for row groups, and which operators compare by that hash.
//!
//! Invariant: the hash is that of PostgreSQL's own hash operator family for the column's type, with
//! the column's collation, on both sides: what writes a row and what reads a query. Values that
//! such an operator finds equal have one hash (`1.0` and `1.00`, `'a'` and `'A'` where the
//! collation says so). If the two sides hashed differently, a change would miss the entries that
//! show it.

use pgrx::pg_sys;

use super::classify;

/// The support function that hashes to 64 bits with a seed (`HASHEXTENDED_PROC`).
const EXTENDED_PROC: i16 = 2;

/// Of every hash of a row group.
pub const SEED: u64 = 0;

/// The type cache's entry, with what hashes values of the type to 64 bits. It lives as long as the
/// backend.
pub fn type_entry(type_oid: pg_sys::Oid) -> *mut pg_sys::TypeCacheEntry {
    let wanted = pg_sys::TYPECACHE_HASH_OPFAMILY
        | pg_sys::TYPECACHE_HASH_EXTENDED_PROC
        | pg_sys::TYPECACHE_HASH_EXTENDED_PROC_FINFO;
    // SAFETY: a catalogue look-up that raises if there is no such type.
    unsafe { pg_sys::lookup_type_cache(type_oid, wanted as i32) }
}

/// A tracked column, by how its values are compared and hashed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hashing {
    family: pg_sys::Oid,
    /// The type that the family's operators take its values as.
    pub taken_as: pg_sys::Oid,
    by: HashBy,
}

/// A hash function, and the collation that it is given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashBy {
    function: pg_sys::Oid,
    collation: pg_sys::Oid,
}

/// The types that an equality takes on its sides.
#[derive(Clone, Copy)]
pub struct Equality {
    pub left: pg_sys::Oid,
    pub right: pg_sys::Oid,
}

impl Hashing {
    /// None if values of the type have no hash of 64 bits, or one that ALTER TYPE … ADD ATTRIBUTE
    /// changes: that waits for no writer, so one may have noted the hash that was.
    pub fn of(type_oid: pg_sys::Oid, collation: pg_sys::Oid) -> Option<Self> {
        if holds_composite(type_oid) {
            return None;
        }
        // SAFETY: lives as long as the backend.
        let entry = unsafe { &*type_entry(type_oid) };
        let function = entry.hash_extended_proc;
        let missing = [entry.hash_opf, entry.hash_opintype, function];
        (!missing.contains(&pg_sys::InvalidOid)).then_some(Self {
            family: entry.hash_opf,
            taken_as: entry.hash_opintype,
            by: HashBy { function, collation },
        })
    }

    /// The sides of an operator, if it finds equal what this hash finds equal.
    pub fn equality(&self, operator: pg_sys::Oid, collation: pg_sys::Oid) -> Option<Equality> {
        // SAFETY: a catalogue look-up.
        let strategy = unsafe { pg_sys::get_op_opfamily_strategy(operator, self.family) };
        let equals = u32::try_from(strategy) == Ok(pg_sys::HTEqualStrategyNumber);
        // SAFETY: as above.
        let strict = equals && unsafe { pg_sys::op_strict(operator) };
        if !strict || !self.collation_fits(collation) {
            return None;
        }
        let mut sides = Equality { left: pg_sys::InvalidOid, right: pg_sys::InvalidOid };
        // SAFETY: a catalogue look-up into two locals.
        unsafe { pg_sys::op_input_types(operator, &raw mut sides.left, &raw mut sides.right) };
        Some(sides)
    }

    /// A deterministic collation finds equal only what has the same bytes, which is equal in every
    /// other collation too. What a user's type makes of its collation, nobody knows.
    fn collation_fits(&self, collation: pg_sys::Oid) -> bool {
        let of_column = self.by.collation;
        if collation == of_column || of_column == pg_sys::InvalidOid {
            return true;
        }
        let known = classify::is_built_in(self.by.function) && collation != pg_sys::InvalidOid;
        // SAFETY: a catalogue look-up.
        known && unsafe { pg_sys::get_collation_isdeterministic(collation) }
    }

    /// How a value is hashed that an operator of the family takes as this type.
    pub fn of_value(&self, type_oid: pg_sys::Oid) -> Option<HashBy> {
        if type_oid == self.taken_as {
            return Some(self.by);
        }
        // Types that know no collation cannot be compared by one that is not deterministic.
        if self.by.collation != pg_sys::InvalidOid {
            return None;
        }
        let proc = EXTENDED_PROC;
        // SAFETY: a catalogue look-up.
        let function = unsafe { pg_sys::get_opfamily_proc(self.family, type_oid, type_oid, proc) };
        (function != pg_sys::InvalidOid).then_some(HashBy { function, ..self.by })
    }
}

fn holds_composite(type_oid: pg_sys::Oid) -> bool {
    // SAFETY: a catalogue look-up; InvalidOid if it is not composite.
    let is_composite = unsafe { pg_sys::get_typ_typrelid(type_oid) } != pg_sys::InvalidOid;
    // SAFETY: as above; InvalidOid if it is no multirange.
    let range = unsafe { pg_sys::get_multirange_range(type_oid) };
    is_composite
        || (range != pg_sys::InvalidOid && holds_composite(range))
        || classify::parts_of_type(type_oid).into_iter().any(holds_composite)
}

impl HashBy {
    pub fn hash(self, value: pg_sys::Datum) -> u64 {
        let seed = pg_sys::Datum::from(SEED);
        // SAFETY: an extended hash function takes a value of its type, which is not NULL, and a
        // seed.
        let hash =
            unsafe { pg_sys::OidFunctionCall2Coll(self.function, self.collation, value, seed) };
        hash.value() as u64
    }
}

/// Casts that the parser adds and that never fail nor lose anything, so that a value may be cast
/// whenever its hash is wanted.
pub fn is_widening(function: pg_sys::Oid) -> bool {
    matches!(
        function.to_u32(),
        pg_sys::F_INT4_INT2
            | pg_sys::F_INT8_INT2
            | pg_sys::F_INT8_INT4
            | pg_sys::F_NUMERIC_INT2
            | pg_sys::F_NUMERIC_INT4
            | pg_sys::F_NUMERIC_INT8
            | pg_sys::F_FLOAT8_INT2
            | pg_sys::F_FLOAT8_INT4
            | pg_sys::F_FLOAT8_FLOAT4
    )
}

/// Casts by a function of `is_widening`.
pub fn widened(function: pg_sys::Oid, value: pg_sys::Datum) -> pg_sys::Datum {
    // SAFETY: a built-in, strict function of one argument, which is not NULL.
    unsafe { pg_sys::OidFunctionCall1Coll(function, pg_sys::InvalidOid, value) }
}
