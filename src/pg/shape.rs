//! What the objects of a query look like: versions of functions and types, attributes of composite
//! types, labels of enums. All of it goes into the fingerprint, since all of it shows in the
//! result.

use pg_cache_core::fingerprint::FingerprintBuilder;
use pgrx::pg_sys::{self, SysCacheIdentifier};

use super::{classify, implicit};

/// Types nest; nobody nests them deeper.
const DEPTH_MAX: u32 = 16;

/// The version of a function's definition: CREATE OR REPLACE makes another.
pub fn add_function(builder: &mut FingerprintBuilder, function: pg_sys::Oid) {
    add_version(builder, SysCacheIdentifier::PROCOID as i32, function);
}

/// A type, and whatever it is made of.
pub fn add_type(builder: &mut FingerprintBuilder, type_oid: pg_sys::Oid) {
    add_nested(builder, type_oid, DEPTH_MAX);
}

fn add_nested(builder: &mut FingerprintBuilder, type_oid: pg_sys::Oid, depth: u32) {
    builder.number("type", u64::from(type_oid.to_u32()));
    if depth == 0 {
        return;
    }
    add_version(builder, SysCacheIdentifier::TYPEOID as i32, type_oid);
    for function in implicit::functions_of_type(type_oid) {
        add_function(builder, function);
    }
    // SAFETY: a catalogue look-up.
    if unsafe { pg_sys::type_is_enum(type_oid) } {
        add_labels(builder, type_oid);
    }
    for attribute in classify::attributes_of(type_oid) {
        builder.text("attribute", &attribute.name);
        builder.bytes("modifier", &attribute.modifier.to_le_bytes());
    }
    for part in classify::parts_of_type(type_oid) {
        add_nested(builder, part, depth - 1);
    }
}

fn add_labels(builder: &mut FingerprintBuilder, type_oid: pg_sys::Oid) {
    let nothing = pg_sys::Datum::from(0usize);
    let cache = SysCacheIdentifier::ENUMTYPOIDNAME as i32;
    // SAFETY: pins the labels' catalogue tuples until the list is released below.
    let list = unsafe {
        pg_sys::SearchSysCacheList(cache, 1, pg_sys::Datum::from(type_oid), nothing, nothing)
    };
    // SAFETY: pinned.
    let pinned = unsafe { &*list };
    let count = usize::try_from(pinned.n_members).unwrap_or(0);
    // SAFETY: the flexible array has that many members.
    for member in unsafe { pinned.members.as_slice(count) } {
        // SAFETY: pinned with the list.
        let tuple = unsafe { &(**member).tuple };
        let (xmin, block, offset) = classify::row_version(tuple);
        builder.number("label version", u64::from(xmin));
        builder.number("label place", (u64::from(block) << 16) | u64::from(offset));
    }
    // SAFETY: pinned by the look-up above.
    unsafe { pg_sys::ReleaseCatCacheList(list) };
}

/// Objects that initdb made do not change their meaning.
fn add_version(builder: &mut FingerprintBuilder, cache: i32, oid: pg_sys::Oid) {
    if classify::is_built_in(oid) {
        return;
    }
    if let Some((xmin, block, offset)) = classify::object_version(cache, oid) {
        builder.number("object", u64::from(oid.to_u32()));
        builder.number("row version", u64::from(xmin));
        builder.number("row place", (u64::from(block) << 16) | u64::from(offset));
    }
}
