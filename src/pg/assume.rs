//! Another session's role and settings, for as long as one query of it is run.
//!
//! What is assumed ends with the value, and with the subtransaction around it: PostgreSQL's abort
//! puts the role and the settings back itself. The invariant: while another role is assumed, the
//! operation is read-only and security-restricted, so nothing that the query runs can take the
//! caller's role back, or leave a temporary table or a deferred trigger for it; nor does it take a
//! transaction id by which the caller could judge no further entry.

use std::ffi::{CStr, CString, c_int};

use pgrx::pg_sys;

use super::{identity, settings};

/// What a role is assumed with: neither SET ROLE nor anything that outlasts the operation.
const RESTRICTED: u32 =
    pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;

/// The role and the settings of another session.
pub struct Assumed {
    level: c_int,
    user: pg_sys::Oid,
    context: c_int,
}

/// Why another session cannot be assumed.
pub enum Refused {
    Role,
    /// One that this session cannot set, or not unset.
    Setting,
}

impl Assumed {
    pub fn start(
        role: pg_sys::Oid,
        session_role: pg_sys::Oid,
        wanted: &[(CString, Option<CString>)],
    ) -> Result<Self, Refused> {
        if !exists(role) {
            return Err(Refused::Role);
        }
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        // SAFETY: reads the state of the backend into two locals.
        unsafe { pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context) };
        // SAFETY: opens a level of settings, closed by Drop or by the abort.
        let level = unsafe { pg_sys::NewGUCNestLevel() };
        let assumed = Self { level, user, context };
        // SAFETY: an existing role; put back by Drop or by the abort.
        unsafe { pg_sys::SetUserIdAndSecContext(role, context | RESTRICTED as c_int) };
        let by = rights(role);
        for (name, value) in wanted {
            set(name, value.as_deref(), by)?;
        }
        set(c"transaction_read_only", Some(c"on"), by)?;
        identity::assume_session_role(Some(session_role));
        Ok(assumed)
    }
}

impl Drop for Assumed {
    fn drop(&mut self) {
        identity::assume_session_role(None);
        // SAFETY: what `start` found; never raises.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) };
        // While an error unwinds, the abort of the subtransaction does it.
        if !std::thread::panicking() {
            // SAFETY: the level opened by `start`; settings of it are undone.
            unsafe { pg_sys::AtEOXact_GUC(false, self.level) };
        }
    }
}

fn exists(role: pg_sys::Oid) -> bool {
    // SAFETY: a palloc'ed name, or NULL for a role that is gone.
    !unsafe { pg_sys::GetUserNameFromId(role, true) }.is_null()
}

/// A setting is set by the rights of the role that had it. Anybody may give a value to a name that
/// stands for nothing in their session; in this one it may be a library's own, for superusers only.
fn rights(role: pg_sys::Oid) -> pg_sys::GucContext::Type {
    // SAFETY: a catalogue look-up.
    match unsafe { pg_sys::superuser_arg(role) } {
        true => pg_sys::GucContext::PGC_SUSET,
        false => pg_sys::GucContext::PGC_USERSET,
    }
}

/// Sets what differs. A setting that has been set once cannot be unset in this session.
fn set(name: &CStr, value: Option<&CStr>, by: pg_sys::GucContext::Type) -> Result<(), Refused> {
    if settings::bytes(name).as_deref() == value {
        return Ok(());
    }
    let value = value.ok_or(Refused::Setting)?;
    // SAFETY: sets one setting on the level just opened, as a function's SET clause does; what is
    // refused is told to the log at most.
    let outcome = unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            by,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            pg_sys::DEBUG1 as c_int,
            false,
        )
    };
    if outcome == 1 { Ok(()) } else { Err(Refused::Setting) }
}
