//! Code that a query runs although it does not stand in its tree: defaults of arguments left out,
//! the functions an aggregate is made of, and what turns a value of a user's type into JSON.

use std::ops::RangeInclusive;

use pgrx::pg_sys::{self, SysCacheIdentifier};

use super::classify;

/// The default expressions of a function's arguments, if the call leaves any out.
pub fn defaults_of(call: &pg_sys::FuncExpr) -> Option<*mut pg_sys::Node> {
    let cache = SysCacheIdentifier::PROCOID as i32;
    // SAFETY: pins the catalogue tuple until it is released below.
    let tuple = unsafe { pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(call.funcid)) };
    if tuple.is_null() {
        return None;
    }
    let defaults = leaves_any_out(call, tuple).then(|| default_list(cache, tuple)).flatten();
    // SAFETY: pinned by the look-up above.
    unsafe { pg_sys::ReleaseSysCache(tuple) };
    defaults
}

fn leaves_any_out(call: &pg_sys::FuncExpr, tuple: pg_sys::HeapTuple) -> bool {
    // SAFETY: a pinned pg_proc tuple.
    let function = unsafe { pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_proc>(tuple) };
    // SAFETY: as above.
    let declared = usize::try_from(unsafe { (*function).pronargs }).unwrap_or(0);
    super::tree::length(call.args) < declared
}

fn default_list(cache: i32, tuple: pg_sys::HeapTuple) -> Option<*mut pg_sys::Node> {
    let column = pg_sys::Anum_pg_proc_proargdefaults as pg_sys::AttrNumber;
    let mut is_null = false;
    // SAFETY: a column of the pinned tuple.
    let text = unsafe { pg_sys::SysCacheGetAttr(cache, tuple, column, &raw mut is_null) };
    if is_null {
        return None;
    }
    // SAFETY: a palloc'ed copy of the tree's text.
    let text = unsafe { pg_sys::text_to_cstring(text.cast_mut_ptr()) };
    // SAFETY: what pg_proc keeps is a tree that this server wrote.
    let list = unsafe { pg_sys::stringToNode(text) };
    Some(list.cast())
}

/// The columns of pg_aggregate from aggtransfn to aggmfinalfn, the same in every version.
const AGGREGATE_FUNCTIONS: RangeInclusive<pg_sys::AttrNumber> = 4..=11;

/// The functions that an aggregate runs. Those of built-in aggregates are built in, and depend on
/// what their arguments' types depend on.
pub fn parts_of_aggregate(aggregate: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    if classify::is_built_in(aggregate) {
        return Vec::new();
    }
    let cache = SysCacheIdentifier::AGGFNOID as i32;
    // SAFETY: pins the catalogue tuple until it is released below.
    let tuple = unsafe { pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(aggregate)) };
    if tuple.is_null() {
        return Vec::new();
    }
    let part = |column| {
        let mut is_null = false;
        // SAFETY: a fixed column of the pinned tuple.
        let part = unsafe { pg_sys::SysCacheGetAttr(cache, tuple, column, &raw mut is_null) };
        pg_sys::Oid::from(part.value() as u32)
    };
    let parts = AGGREGATE_FUNCTIONS.map(part).filter(|part| *part != pg_sys::InvalidOid).collect();
    // SAFETY: pinned by the look-up above.
    unsafe { pg_sys::ReleaseSysCache(tuple) };
    parts
}

/// The functions behind ORDER BY, GROUP BY, DISTINCT and the like, where they are a user's.
pub fn functions_of_sort(clause: &pg_sys::SortGroupClause) -> Vec<pg_sys::Oid> {
    let mine = |operator: &pg_sys::Oid| {
        *operator != pg_sys::InvalidOid && !classify::is_built_in(*operator)
    };
    let operators = [clause.eqop, clause.sortop];
    operators.into_iter().filter(mine).map(function_of_operator).collect()
}

fn function_of_operator(operator: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a catalogue look-up.
    unsafe { pg_sys::get_opcode(operator) }
}

/// The functions of a user's type that run without being called: its output, its cast to json, and
/// what its values are compared and hashed by.
pub fn functions_of_type(type_oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    if classify::is_built_in(type_oid) {
        return Vec::new();
    }
    let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
    // SAFETY: a catalogue look-up into two locals.
    unsafe { pg_sys::getTypeOutputInfo(type_oid, &raw mut output, &raw mut is_varlena) };
    let mut cast = pg_sys::InvalidOid;
    let explicit = pg_sys::CoercionContext::COERCION_EXPLICIT;
    // SAFETY: as json.c looks for the cast; fills the local if there is one.
    let path = unsafe {
        pg_sys::find_coercion_pathway(pg_sys::JSONOID, type_oid, explicit, &raw mut cast)
    };
    let has_cast = path == pg_sys::CoercionPathType::COERCION_PATH_FUNC;
    let mut functions = comparisons_of(type_oid);
    functions.push(output);
    functions.extend(has_cast.then_some(cast));
    functions
}

fn comparisons_of(type_oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let wanted =
        pg_sys::TYPECACHE_EQ_OPR | pg_sys::TYPECACHE_CMP_PROC | pg_sys::TYPECACHE_HASH_PROC;
    // SAFETY: an entry that lives as long as the backend.
    let entry = unsafe { pg_sys::lookup_type_cache(type_oid, wanted as i32) };
    // SAFETY: as above.
    let entry = unsafe { &*entry };
    let mut functions = vec![entry.cmp_proc, entry.hash_proc];
    if entry.eq_opr != pg_sys::InvalidOid {
        functions.push(function_of_operator(entry.eq_opr));
    }
    functions.retain(|function| *function != pg_sys::InvalidOid);
    functions
}
