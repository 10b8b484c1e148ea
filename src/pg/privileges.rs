//! Who may read a hit: exactly those who might have run the query.

use pgrx::pg_sys;

use super::analysis::{Analysis, Checked};
use super::error::{Outcome, catch};

#[cfg(any(feature = "pg14", feature = "pg15"))]
unsafe extern "C-unwind" {
    fn ExecCheckRTPerms(range_table: *mut pg_sys::List, raise: bool) -> bool;
}

#[cfg(not(any(feature = "pg14", feature = "pg15")))]
unsafe extern "C-unwind" {
    fn ExecCheckPermissions(
        range_table: *mut pg_sys::List,
        permissions: *mut pg_sys::List,
        raise: bool,
    ) -> bool;
}

/// Whether the one under whose privileges this runs is a superuser.
pub fn is_superuser() -> bool {
    // SAFETY: a catalogue look-up of the current role.
    unsafe { pg_sys::superuser() }
}

/// Raises what the executor would raise if the caller may not read a table, a column or a view's
/// tables (as the view's owner).
pub fn check_relations(analysis: &Analysis) -> Outcome<()> {
    for checked in &analysis.checked {
        // SAFETY: one C call over lists that live with the plan's tree; its error ends the
        // statement.
        unsafe { catch(|| check_level(*checked)) }?;
    }
    Ok(())
}

#[cfg(any(feature = "pg14", feature = "pg15"))]
fn check_level(checked: Checked) -> bool {
    // SAFETY: a range table of an analysed query.
    unsafe { ExecCheckRTPerms(checked.range_table, true) }
}

#[cfg(not(any(feature = "pg14", feature = "pg15")))]
fn check_level(checked: Checked) -> bool {
    // SAFETY: a range table of an analysed query, and its permission entries.
    unsafe { ExecCheckPermissions(checked.range_table, checked.permissions, true) }
}

/// Whether the caller may execute every function of the query. If not, the query is computed, and
/// the executor raises its own error (or finds that the function is never reached).
pub fn may_execute(analysis: &Analysis) -> bool {
    // SAFETY: a global of the backend.
    let user = unsafe { pg_sys::GetUserId() };
    analysis.called.iter().all(|function| may_execute_one(*function, user))
}

#[cfg(any(feature = "pg14", feature = "pg15"))]
fn may_execute_one(function: pg_sys::Oid, user: pg_sys::Oid) -> bool {
    let execute = pg_sys::AclMode::from(pg_sys::ACL_EXECUTE);
    // SAFETY: a catalogue look-up.
    let result = unsafe { pg_sys::pg_proc_aclcheck(function, user, execute) };
    result == pg_sys::AclResult::ACLCHECK_OK
}

#[cfg(not(any(feature = "pg14", feature = "pg15")))]
fn may_execute_one(function: pg_sys::Oid, user: pg_sys::Oid) -> bool {
    let class = pg_sys::ProcedureRelationId;
    let execute = pg_sys::AclMode::from(pg_sys::ACL_EXECUTE);
    // SAFETY: a catalogue look-up.
    let result = unsafe { pg_sys::object_aclcheck(class, function, user, execute) };
    result == pg_sys::AclResult::ACLCHECK_OK
}

/// Whether the caller may read what other sessions do, as `pg_read_all_stats` grants it.
pub fn may_read_all_statistics() -> bool {
    let role = pg_sys::Oid::from(pg_sys::ROLE_PG_READ_ALL_STATS);
    // SAFETY: a global of the backend.
    let user = unsafe { pg_sys::GetUserId() };
    // SAFETY: a catalogue look-up.
    unsafe { pg_sys::has_privs_of_role(user, role) }
}

/// Whether another module has a say in who may read a table.
pub fn have_hook() -> bool {
    // SAFETY: a global of the executor, set when modules are loaded.
    unsafe { pg_sys::ExecutorCheckPerms_hook }.is_some()
}
