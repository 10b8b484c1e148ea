//! What the transaction at hand allows, and the one place that hears of its end.
//!
//! One callback for transactions, one for savepoints and one for what comes after the locks,
//! registered once: a hook of pgrx's would survive the savepoint that registered it, and after
//! PREPARE TRANSACTION fire in the next, unrelated transaction.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use pg_cache_core::reason::Reason;
use pg_cache_core::xid::{Age, age};
use pgrx::pg_sys;

use super::error::Outcome;
use super::host::Holdoffs;
use super::{bare, snapshot};

/// Whether every statement of this transaction sees the snapshot of its first.
pub fn keeps_snapshot() -> bool {
    // SAFETY: a global of the backend, set at the start of the transaction.
    let isolation = unsafe { pg_sys::XactIsoLevel };
    isolation >= pg_sys::XACT_REPEATABLE_READ as i32
}

/// Why this transaction must compute for itself, if it must.
///
/// With a transaction id, own changes are visible before anything could be noted of them; under
/// SERIALIZABLE, a read that PostgreSQL does not see cannot be part of a conflict.
pub fn obstacle() -> Option<Reason> {
    let xid = bare::GetTopTransactionIdIfAny();
    if xid != pg_sys::InvalidTransactionId && !super::host::skips("guard.ownxid") {
        return Some(Reason::OwnXid);
    }
    // SAFETY: a global of the backend, set at the start of the transaction.
    let isolation = unsafe { pg_sys::XactIsoLevel };
    (isolation == pg_sys::XACT_SERIALIZABLE as i32).then_some(Reason::Serializable)
}

/// Gives the transaction its id. Raises where it may not write, in the name of `what`.
pub fn assign_xid(what: &std::ffi::CStr) {
    // SAFETY: a C string; raises or returns.
    unsafe { pg_sys::PreventCommandIfReadOnly(what.as_ptr()) };
    // SAFETY: in a transaction that may write.
    unsafe { pg_sys::GetTopTransactionId() };
}

/// Raises on a standby, which has no transaction ids to give, in the name of `what`.
pub fn refuse_on_standby(what: &std::ffi::CStr) {
    // SAFETY: a C string; raises or returns.
    unsafe { pg_sys::PreventCommandDuringRecovery(what.as_ptr()) };
}

/// The nest level of the transaction at hand: 1 at the top, one more for each savepoint.
pub fn level() -> u32 {
    u32::try_from(bare::GetCurrentTransactionNestLevel()).unwrap_or(1)
}

/// The transaction's id at the top level, if it has one.
pub fn xid() -> Option<u64> {
    let xid = bare::GetTopFullTransactionIdIfAny().value;
    (xid != 0).then_some(xid)
}

/// Whether the client began a transaction and has yet to end it.
pub fn is_block() -> bool {
    // SAFETY: reads the state of the current transaction.
    unsafe { pg_sys::IsTransactionBlock() }
}

/// Whether another transaction has let go of the lock on its own id, which it does last of all: by
/// then its invalidation messages are sent. PostgreSQL would wait for our own without end.
pub fn has_let_go(xid: u64) -> bool {
    debug_assert_ne!(Some(xid), self::xid());
    let narrow = match age(xid, snapshot::next_xid()) {
        Age::Recent(narrow) => pg_sys::TransactionId::from(narrow),
        Age::ToCome => return false,
        Age::Over => return true,
    };
    // SAFETY: tries the lock and gives it back at once.
    #[cfg(not(feature = "pg18"))]
    let is_free = unsafe { pg_sys::ConditionalXactLockTableWait(narrow) };
    // SAFETY: as above; a failure is not logged.
    #[cfg(feature = "pg18")]
    let is_free = unsafe { pg_sys::ConditionalXactLockTableWait(narrow, false) };
    is_free
}

/// Runs `work` so that the locks it takes stay until the transaction ends, even if the savepoint
/// that it runs in is rolled back.
pub fn with_lasting_locks<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: a global of the backend.
    let owner = unsafe { pg_sys::CurrentResourceOwner };
    // SAFETY: as above; inside a transaction it is set.
    let top = unsafe { pg_sys::TopTransactionResourceOwner };
    let top = if super::host::skips("guard.lockkept") { owner } else { top };
    // SAFETY: put back below; an error on the way sets it anew.
    unsafe { pg_sys::CurrentResourceOwner = top };
    let result = work();
    // SAFETY: as above.
    unsafe { pg_sys::CurrentResourceOwner = owner };
    result
}

/// Has this transaction's commit wait until it is on disk, whatever the settings say.
pub fn force_sync_commit() {
    // SAFETY: sets a global of the backend for this transaction.
    unsafe { pg_sys::ForceSyncCommit() };
}

/// What happens to the transaction, told to whoever listens.
pub struct Listener {
    /// Before the commit record: may fail, and the transaction with it.
    pub before_commit: fn() -> Outcome<()>,
    pub before_prepare: fn() -> Outcome<()>,
    /// A savepoint at this level became part of the one below.
    pub released: fn(u32),
    /// A savepoint at this level and all above it are undone.
    pub rolled_back: fn(u32),
    /// Committed for all to see, and all locks are held still: must not fail in any way, nor wait.
    pub committed: fn(),
    /// Committed, prepared or aborted: must not fail in any way.
    pub ended: fn(),
    /// Committed, and no lock is held any more: may wait, not for long, since nothing can be
    /// cancelled; must not fail in any way; and the catalogues cannot be read.
    pub let_go: fn(),
}

static LISTENERS: OnceLock<Vec<Listener>> = OnceLock::new();

/// Listens; whoever stands first hears first. Once per backend.
pub fn listen(listeners: Vec<Listener>) {
    if LISTENERS.set(listeners).is_ok() {
        // SAFETY: the callback lives as long as the library, which is never unloaded.
        unsafe { pg_sys::RegisterXactCallback(Some(on_event), std::ptr::null_mut()) };
        // SAFETY: as above.
        unsafe { pg_sys::RegisterSubXactCallback(Some(on_sub_event), std::ptr::null_mut()) };
        // SAFETY: as above.
        unsafe { pg_sys::RegisterResourceReleaseCallback(Some(on_release), std::ptr::null_mut()) };
    }
}

fn listeners() -> &'static [Listener] {
    LISTENERS.get().map_or(&[], Vec::as_slice)
}

/// Tells everybody. Nothing may come out of this: after the commit record an error here would take
/// the whole cluster down, and while a savepoint is undone nothing may fail either.
fn tell(what: impl Fn(&Listener)) {
    for listener in listeners() {
        // An ERROR lets go of interrupts that whoever ends the transaction holds, and would let a
        // SIGTERM abort what is committed already.
        let held = Holdoffs::now();
        if catch_unwind(AssertUnwindSafe(|| what(listener))).is_err() {
            held.restore();
        }
    }
}

unsafe extern "C-unwind" fn on_event(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::*;
    let before: fn(&Listener) -> fn() -> Outcome<()> = match event {
        XACT_EVENT_PRE_COMMIT => |listener| listener.before_commit,
        XACT_EVENT_PRE_PREPARE => |listener| listener.before_prepare,
        XACT_EVENT_COMMIT => {
            tell(|listener| (listener.committed)());
            return tell(|listener| (listener.ended)());
        }
        XACT_EVENT_ABORT | XACT_EVENT_PREPARE => return tell(|listener| (listener.ended)()),
        _ => return,
    };
    super::error::enter(|| {
        listeners().iter().try_for_each(|listener| before(listener)())?;
        Ok(pg_sys::Datum::from(0usize))
    });
}

unsafe extern "C-unwind" fn on_sub_event(
    event: pg_sys::SubXactEvent::Type,
    _own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    use pg_sys::SubXactEvent::*;
    match event {
        SUBXACT_EVENT_COMMIT_SUB => tell(|listener| (listener.released)(level())),
        SUBXACT_EVENT_ABORT_SUB => tell(|listener| (listener.rolled_back)(level())),
        _ => {}
    }
}

/// Portals, savepoints and processes without transactions let go of resources too, and an abort
/// does: what counts is told by `committed` before.
unsafe extern "C-unwind" fn on_release(
    phase: pg_sys::ResourceReleasePhase::Type,
    is_commit: bool,
    is_top_level: bool,
    _argument: *mut c_void,
) {
    let last = pg_sys::ResourceReleasePhase::RESOURCE_RELEASE_AFTER_LOCKS;
    if phase == last && is_commit && is_top_level {
        tell(|listener| (listener.let_go)());
    }
}
