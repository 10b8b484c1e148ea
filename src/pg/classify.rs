//! What kind of function, relation or type an oid names: the facts that analysis decides by.

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use super::stable::{self, Stable};

/// The kind of a STABLE function.
pub fn stable(function: pg_sys::Oid) -> Stable {
    match is_built_in(function) {
        true => stable::built_in(&function_name(function)),
        false => Stable::Opaque,
    }
}

/// What SQL spells without parentheses, and what it hangs on.
pub fn value_function(operation: pg_sys::SQLValueFunctionOp::Type) -> (Stable, &'static str) {
    use pg_sys::SQLValueFunctionOp::*;
    match operation {
        SVFOP_CURRENT_ROLE => (Stable::Role, "current_role"),
        SVFOP_CURRENT_USER => (Stable::Role, "current_user"),
        SVFOP_USER => (Stable::Role, "user"),
        SVFOP_SESSION_USER => (Stable::Role, "session_user"),
        SVFOP_CURRENT_CATALOG => (Stable::Setting, "current_catalog"),
        SVFOP_CURRENT_SCHEMA => (Stable::Session, "current_schema"),
        SVFOP_CURRENT_DATE => (Stable::Time, "current_date"),
        SVFOP_CURRENT_TIME | SVFOP_CURRENT_TIME_N => (Stable::Time, "current_time"),
        SVFOP_LOCALTIME | SVFOP_LOCALTIME_N => (Stable::Time, "localtime"),
        SVFOP_LOCALTIMESTAMP | SVFOP_LOCALTIMESTAMP_N => (Stable::Time, "localtimestamp"),
        _ => (Stable::Time, "current_timestamp"),
    }
}

/// Made by initdb, hence the same in every database of this version.
pub fn is_built_in(oid: pg_sys::Oid) -> bool {
    oid.to_u32() < pg_sys::FirstNormalObjectId
}

pub fn is_volatile(function: pg_sys::Oid) -> bool {
    volatility(function) == pg_sys::PROVOLATILE_VOLATILE
}

pub fn is_stable(function: pg_sys::Oid) -> bool {
    volatility(function) == pg_sys::PROVOLATILE_STABLE
}

fn volatility(function: pg_sys::Oid) -> u8 {
    // SAFETY: a catalogue look-up; raises if there is no such function.
    unsafe { pg_sys::func_volatile(function) as u8 }
}

/// Whether the function is one of pg_cache's own.
pub fn is_ours(function: pg_sys::Oid) -> bool {
    if is_built_in(function) {
        return false;
    }
    // SAFETY: reads pg_depend.
    let owner = unsafe { pg_sys::getExtensionOfObject(pg_sys::ProcedureRelationId, function) };
    // SAFETY: reads pg_extension; a missing one gives InvalidOid.
    let ours = unsafe { pg_sys::get_extension_oid(c"pg_cache".as_ptr(), true) };
    owner != pg_sys::InvalidOid && owner == ours
}

/// Whether the function is `redis_depends`, which only says that the query hangs on a name.
pub fn is_depends(function: pg_sys::Oid) -> bool {
    !is_built_in(function) && function_name(function) == "redis_depends" && is_ours(function)
}

pub fn function_name(function: pg_sys::Oid) -> String {
    // SAFETY: a palloc'ed name, or NULL.
    super::text::c_string(unsafe { pg_sys::get_func_name(function) })
}

/// `name(argument types)`, qualified where the search path needs it.
pub fn function_signature(function: pg_sys::Oid) -> String {
    // SAFETY: a palloc'ed text.
    super::text::c_string(unsafe { pg_sys::format_procedure(function) })
}

pub fn type_name(type_oid: pg_sys::Oid) -> String {
    // SAFETY: a palloc'ed text.
    super::text::c_string(unsafe { pg_sys::format_type_be(type_oid) })
}

/// A type as a column definition has it: `numeric(10,2)`.
pub fn type_name_with_modifier(type_oid: pg_sys::Oid, modifier: i32) -> String {
    // SAFETY: a palloc'ed text.
    super::text::c_string(unsafe { pg_sys::format_type_with_typemod(type_oid, modifier) })
}

/// `schema.name`, quoted where needed.
pub fn relation_name(relation: pg_sys::Oid) -> String {
    // SAFETY: a palloc'ed name, or NULL.
    let name = unsafe { pg_sys::get_rel_name(relation) };
    if name.is_null() {
        return relation.to_u32().to_string();
    }
    let namespace = namespace_of(relation);
    // SAFETY: compares with this session's temporary schema, whose real name differs by session.
    let schema = if unsafe { pg_sys::isTempNamespace(namespace) } {
        c"pg_temp".as_ptr().cast_mut()
    } else {
        // SAFETY: a palloc'ed name, or NULL, which quoting leaves out.
        unsafe { pg_sys::get_namespace_name(namespace) }
    };
    // SAFETY: a palloc'ed text of two C strings.
    super::text::c_string(unsafe { pg_sys::quote_qualified_identifier(schema, name) })
}

fn namespace_of(relation: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a catalogue look-up.
    unsafe { pg_sys::get_rel_namespace(relation) }
}

pub fn is_catalog(relation: pg_sys::Oid) -> bool {
    let namespace = namespace_of(relation);
    namespace == pg_sys::Oid::from(pg_sys::PG_CATALOG_NAMESPACE)
        || namespace == pg_sys::Oid::from(pg_sys::PG_TOAST_NAMESPACE)
}

pub fn is_temporary(relation: pg_sys::Oid) -> bool {
    // SAFETY: a catalogue look-up.
    unsafe { pg_sys::get_rel_persistence(relation) as u8 == pg_sys::RELPERSISTENCE_TEMP }
}

/// Whether the relation holds rows of its own: views only point at others that are listed too.
pub fn is_view(relation: pg_sys::Oid) -> bool {
    kind(relation) == pg_sys::RELKIND_VIEW
}

pub fn is_foreign(relation: pg_sys::Oid) -> bool {
    kind(relation) == pg_sys::RELKIND_FOREIGN_TABLE
}

pub fn is_partitioned(relation: pg_sys::Oid) -> bool {
    kind(relation) == pg_sys::RELKIND_PARTITIONED_TABLE
}

pub fn kind_name(relation: pg_sys::Oid) -> &'static str {
    match kind(relation) {
        pg_sys::RELKIND_PARTITIONED_TABLE => "partitioned table",
        pg_sys::RELKIND_FOREIGN_TABLE => "foreign table",
        pg_sys::RELKIND_MATVIEW => "materialized view",
        pg_sys::RELKIND_SEQUENCE => "sequence",
        _ => "table",
    }
}

fn kind(relation: pg_sys::Oid) -> u8 {
    // SAFETY: a catalogue look-up.
    unsafe { pg_sys::get_rel_relkind(relation) as u8 }
}

unsafe extern "C-unwind" {
    // Not among pgrx's bindings, so guarded by hand where they are called.
    fn has_subclass(relation: pg_sys::Oid) -> bool;
    fn find_all_inheritors(
        parent: pg_sys::Oid,
        lock: pg_sys::LOCKMODE,
        parents: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
}

/// The relation that a parse tree names, by the search path; not locked.
pub fn relation_named(name: *const pg_sys::RangeVar) -> Option<pg_sys::Oid> {
    let lock = pg_sys::NoLock as pg_sys::LOCKMODE;
    let missing_ok = pg_sys::RVROption::RVR_MISSING_OK;
    // SAFETY: a catalogue look-up.
    let found = unsafe {
        pg_sys::RangeVarGetRelidExtended(name, lock, missing_ok, None, std::ptr::null_mut())
    };
    (found != pg_sys::InvalidOid).then_some(found)
}

/// All partitions and inheritance children of a table, of any depth.
pub fn children(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: a catalogue look-up.
    let look = || unsafe { has_subclass(relation) };
    // SAFETY: on the backend's one thread.
    if !unsafe { pg_guard_ffi_boundary(look) } {
        return Vec::new();
    }
    let lock = pg_sys::NoLock as pg_sys::LOCKMODE;
    // SAFETY: a palloc'ed list of oids; without locks it cannot wait.
    let find = || unsafe { find_all_inheritors(relation, lock, std::ptr::null_mut()) };
    // SAFETY: on the backend's one thread.
    let children = unsafe { pg_guard_ffi_boundary(find) };
    // SAFETY: the list above, untouched by anybody else.
    let children = unsafe { pgrx::PgList::<pg_sys::Oid>::from_pg(children) };
    children.iter_oid().filter(|child| *child != relation).collect()
}

/// A temporary table of this session: as a child of a permanent one, nobody else sees its rows.
pub fn is_own_temporary(relation: pg_sys::Oid) -> bool {
    let namespace = namespace_of(relation);
    // SAFETY: compares with this session's temporary schema.
    unsafe { pg_sys::isTempNamespace(namespace) }
}

/// Whether values of the type are oids that are written as names.
pub fn is_name_of_object(type_oid: pg_sys::Oid) -> bool {
    matches!(
        type_oid,
        pg_sys::REGCLASSOID
            | pg_sys::REGPROCOID
            | pg_sys::REGPROCEDUREOID
            | pg_sys::REGOPEROID
            | pg_sys::REGOPERATOROID
            | pg_sys::REGTYPEOID
            | pg_sys::REGROLEOID
            | pg_sys::REGNAMESPACEOID
            | pg_sys::REGCONFIGOID
            | pg_sys::REGDICTIONARYOID
            | pg_sys::REGCOLLATIONOID
    )
}

/// The types that a type is made of: elements, the base of a domain, bounds, attributes.
pub fn parts_of_type(type_oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: a catalogue look-up; InvalidOid if it is no array.
    let element = unsafe { pg_sys::get_element_type(type_oid) };
    let mut parts = vec![element];
    if !is_built_in(type_oid) {
        // SAFETY: a catalogue look-up; the type itself if it is no domain.
        parts.push(unsafe { pg_sys::getBaseType(type_oid) });
        // SAFETY: a catalogue look-up; InvalidOid if it is no range.
        parts.push(unsafe { pg_sys::get_range_subtype(type_oid) });
        parts.extend(attributes_of(type_oid).into_iter().map(|attribute| attribute.type_oid));
    }
    parts.retain(|part| *part != pg_sys::InvalidOid && *part != type_oid);
    parts
}

/// An attribute of a composite type.
pub struct Attribute {
    pub name: String,
    pub type_oid: pg_sys::Oid,
    pub modifier: i32,
}

/// The attributes of a composite type; none if it is not one.
pub fn attributes_of(type_oid: pg_sys::Oid) -> Vec<Attribute> {
    // SAFETY: a catalogue look-up; InvalidOid if it is not composite.
    if unsafe { pg_sys::get_typ_typrelid(type_oid) } == pg_sys::InvalidOid {
        return Vec::new();
    }
    // SAFETY: a reference-counted description.
    let description = unsafe { pg_sys::lookup_rowtype_tupdesc(type_oid, -1) };
    // SAFETY: as above: PgTupleDesc gives the reference back when it is dropped.
    let description = unsafe { pgrx::PgTupleDesc::from_pg(description) };
    let live = description.iter().filter(|attribute| !attribute.attisdropped);
    live.map(|attribute| Attribute {
        name: super::text::name(&attribute.attname),
        type_oid: attribute.atttypid,
        modifier: attribute.atttypmod,
    })
    .collect()
}

/// The row version of an object's catalogue entry: any change of it makes another.
pub fn object_version(cache: i32, oid: pg_sys::Oid) -> Option<(u32, u32, u16)> {
    // SAFETY: pins the catalogue tuple until it is released below.
    let tuple = unsafe { pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(oid)) };
    if tuple.is_null() {
        return None;
    }
    // SAFETY: pinned.
    let version = row_version(unsafe { &*tuple });
    // SAFETY: pinned by the look-up above.
    unsafe { pg_sys::ReleaseSysCache(tuple) };
    Some(version)
}

/// The transaction that wrote a catalogue tuple, and where it stands.
pub fn row_version(tuple: &pg_sys::HeapTupleData) -> (u32, u32, u16) {
    // SAFETY: a catalogue tuple has a header.
    let header = unsafe { &*tuple.t_data };
    // SAFETY: in a table's tuple, which is never a bare datum, the union holds t_heap.
    let xmin = unsafe { header.t_choice.t_heap }.t_xmin;
    let at = tuple.t_self;
    let block = (u32::from(at.ip_blkid.bi_hi) << 16) | u32::from(at.ip_blkid.bi_lo);
    (xmin.into_inner(), block, at.ip_posid)
}

/// The name of a role, for telling a person which scope an entry has.
pub fn role_name(role: pg_sys::Oid) -> String {
    // SAFETY: a palloc'ed name, or NULL for a role that is gone.
    let name = unsafe { pg_sys::GetUserNameFromId(role, true) };
    if name.is_null() { role.to_u32().to_string() } else { super::text::c_string(name) }
}

pub fn database_name() -> String {
    // SAFETY: a global of the backend.
    let database = unsafe { pg_sys::MyDatabaseId };
    // SAFETY: a palloc'ed name, or NULL.
    super::text::c_string(unsafe { pg_sys::get_database_name(database) })
}
