//! What kind of function, relation or type an oid names: the facts that analysis decides by.

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

/// What a STABLE function's result hangs on besides its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stable {
    /// The clock of the transaction: the entry is as old as its ttl allows.
    Time,
    /// Who asks.
    Role,
    /// This very connection: sharing it would be wrong.
    Session,
    /// `current_setting`, or settings that every fingerprint holds.
    Setting,
    /// A body that we cannot see.
    Opaque,
}

impl Stable {
    pub fn as_str(self) -> &'static str {
        match self {
            Stable::Time => "time",
            Stable::Role => "role",
            Stable::Session => "session",
            Stable::Setting => "setting",
            Stable::Opaque => "opaque",
        }
    }
}

/// Built-in STABLE functions that tell the time.
const TIME: &[&str] = &["now", "transaction_timestamp", "statement_timestamp", "age"];

/// Built-in STABLE functions that depend on the role; `has_…_privilege` belong here too.
const ROLE: &[&str] =
    &["current_user", "session_user", "getpgusername", "pg_has_role", "row_security_active"];

/// Built-in STABLE functions that depend on the connection or the transaction. `pg_stat_…` and
/// `inet_…` belong here too.
const SESSION: &[&str] = &[
    "pg_backend_pid",
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "pg_current_snapshot",
    "txid_current",
    "txid_current_if_assigned",
    "txid_current_snapshot",
    "pg_my_temp_schema",
    "pg_is_other_temp_schema",
    "pg_trigger_depth",
    "pg_cursor",
    "pg_prepared_statement",
    "pg_lock_status",
    "current_query",
    "pg_conf_load_time",
    "pg_postmaster_start_time",
    "pg_listening_channels",
    "pg_show_all_settings",
    "pg_safe_snapshot_blocking_pids",
    "pg_blocking_pids",
    "pg_is_in_recovery",
];

/// The kind of a STABLE function.
pub fn stable(function: pg_sys::Oid) -> Stable {
    if !is_built_in(function) {
        return Stable::Opaque;
    }
    let name = function_name(function);
    let name = name.as_str();
    if name == "current_setting" {
        Stable::Setting
    } else if TIME.contains(&name) {
        Stable::Time
    } else if ROLE.contains(&name) || (name.starts_with("has_") && name.ends_with("_privilege")) {
        Stable::Role
    } else if SESSION.contains(&name)
        || name.starts_with("pg_stat_")
        || name.starts_with("inet_client")
        || name.starts_with("inet_server")
    {
        Stable::Session
    } else {
        Stable::Setting
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
        SVFOP_CURRENT_SCHEMA => (Stable::Setting, "current_schema"),
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

pub fn function_name(function: pg_sys::Oid) -> String {
    // SAFETY: a palloc'ed name, or NULL.
    super::call::c_string(unsafe { pg_sys::get_func_name(function) })
}

/// `name(argument types)`, qualified where the search path needs it.
pub fn function_signature(function: pg_sys::Oid) -> String {
    // SAFETY: a palloc'ed text.
    super::call::c_string(unsafe { pg_sys::format_procedure(function) })
}

pub fn type_name(type_oid: pg_sys::Oid) -> String {
    // SAFETY: a palloc'ed text.
    super::call::c_string(unsafe { pg_sys::format_type_be(type_oid) })
}

/// A type as a column definition has it: `numeric(10,2)`.
pub fn type_name_with_modifier(type_oid: pg_sys::Oid, modifier: i32) -> String {
    // SAFETY: a palloc'ed text.
    super::call::c_string(unsafe { pg_sys::format_type_with_typemod(type_oid, modifier) })
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
    super::call::c_string(unsafe { pg_sys::quote_qualified_identifier(schema, name) })
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

/// Whether this session made a temporary child of a permanent table: nobody else sees its rows.
pub fn has_own_temporary_child(relation: pg_sys::Oid) -> bool {
    // SAFETY: a catalogue look-up.
    let look = || unsafe { has_subclass(relation) };
    // SAFETY: on the backend's one thread.
    if !unsafe { pg_guard_ffi_boundary(look) } {
        return false;
    }
    let lock = pg_sys::NoLock as pg_sys::LOCKMODE;
    // SAFETY: a palloc'ed list of oids; without locks it cannot wait.
    let find = || unsafe { find_all_inheritors(relation, lock, std::ptr::null_mut()) };
    // SAFETY: on the backend's one thread.
    let children = unsafe { pg_guard_ffi_boundary(find) };
    // SAFETY: the list above, untouched by anybody else.
    let children = unsafe { pgrx::PgList::<pg_sys::Oid>::from_pg(children) };
    children.iter_oid().any(|child| {
        let namespace = namespace_of(child);
        // SAFETY: compares with this session's temporary schema.
        unsafe { pg_sys::isTempNamespace(namespace) }
    })
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
    if name.is_null() { role.to_u32().to_string() } else { super::call::c_string(name) }
}

pub fn database_name() -> String {
    // SAFETY: a global of the backend.
    let database = unsafe { pg_sys::MyDatabaseId };
    // SAFETY: a palloc'ed name, or NULL.
    super::call::c_string(unsafe { pg_sys::get_database_name(database) })
}
