//! Owns the dynamic background worker as PostgreSQL sees it: its start, its signals, its waits.
//!
//! Invariant: starting one never raises and never waits, so that any backend may do it at any
//! moment of a transaction; and a worker that waits holds no snapshot and sees SIGTERM at once.
//! Without that, a commit could fail for want of a worker, or a shutdown hang on one.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_long};
use std::panic::{AssertUnwindSafe, catch_unwind};

use pgrx::pg_sys;

use super::error::Outcome;
use super::host;

unsafe extern "C-unwind" {
    // Raw, as signal handlers: pgrx's wrappers are Rust functions.
    fn die(signal: c_int);
    fn SignalHandlerForConfigReload(signal: c_int);
    #[cfg(not(feature = "pg18"))]
    fn pqsignal(signal: c_int, handler: unsafe extern "C-unwind" fn(c_int)) -> *const ();
    #[cfg(feature = "pg18")]
    #[link_name = "pqsignal_be"]
    fn pqsignal(signal: c_int, handler: unsafe extern "C-unwind" fn(c_int));
}

const SIGHUP: c_int = 1;
const SIGTERM: c_int = 15;

const LIBRARY: &CStr = c"pg_cache";
const NAME: &CStr = c"pg_cache worker";
const NAME_ALONE: &CStr = c"pg_cache waiter";
const NAME_LAUNCHER: &CStr = c"pg_cache launcher";

/// How long the postmaster waits before it starts a launcher again that ended with an error.
const RESTART_SECONDS: c_int = 10;

/// Declares the entry of a background worker: the symbol, how it is served, and its body.
macro_rules! background_worker {
    ($symbol:ident, $serve:ident, $body:path) => {
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $symbol(argument: $crate::pg::Datum) {
            $crate::pg::bgworker::$serve(argument, $body)
        }
    };
}

/// What a worker is started for.
#[derive(Clone, Copy, Debug)]
pub struct Errand {
    pub database: u32,
    /// How long somebody waited before it was started.
    pub waited_seconds: u32,
    /// The launcher sent it to look: with nothing to do, it leaves at once.
    pub is_visit: bool,
}

const VISIT_BIT: u64 = 1 << 63;

impl Errand {
    /// At once, in this backend's database.
    pub fn here() -> Self {
        // SAFETY: a global of the backend.
        let database = unsafe { pg_sys::MyDatabaseId };
        Self { database: database.to_u32(), waited_seconds: 0, is_visit: false }
    }

    /// To look whether there is anything to do in a database.
    pub fn visit(database: u32) -> Self {
        Self { database, waited_seconds: 0, is_visit: true }
    }

    fn to_datum(self) -> pg_sys::Datum {
        let visit = if self.is_visit { VISIT_BIT } else { 0 };
        let waited = u64::from(self.waited_seconds) << 32;
        pg_sys::Datum::from(visit | waited | u64::from(self.database))
    }

    fn from_datum(datum: pg_sys::Datum) -> Self {
        let all = datum.value() as u64;
        let waited_seconds = ((all & !VISIT_BIT) >> 32) as u32;
        Self { database: all as u32, waited_seconds, is_visit: all & VISIT_BIT != 0 }
    }
}

/// What a database may have set that would end a worker's transactions or change what they see.
const SETTINGS: &[(&CStr, &CStr)] = &[
    // Whoever a database would have its sessions be.
    (c"role", c"none"),
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"statement_timeout", c"0"),
    (c"lock_timeout", c"0"),
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    (c"transaction_timeout", c"0"),
    (c"idle_in_transaction_session_timeout", c"0"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_deferrable", c"off"),
    (c"session_replication_role", c"origin"),
    (c"row_security", c"off"),
    (c"synchronous_commit", c"local"),
    // Its own requests may take longer than a page should wait for, and not as long as DROP
    // DATABASE waits for it to go.
    (c"pg_cache.timeout_ms", c"2000"),
    (c"pg_cache.connect_timeout_ms", c"1000"),
];

/// Starts a worker that connects to the errand's database; false if there is no free slot.
pub fn start(function: &CStr, errand: Errand) -> bool {
    let worker = described(NAME, function, errand, CONNECTS);
    start_dynamic(worker, std::ptr::null_mut())
}

/// Starts a process that connects to no database, so that it is in nobody's way.
pub fn start_alone(function: &CStr, errand: Errand) -> bool {
    start_dynamic(described(NAME_ALONE, function, errand, 0), std::ptr::null_mut())
}

thread_local! {
    /// What is started when this process ends.
    static AT_EXIT: Cell<Option<(&'static CStr, Errand)>> = const { Cell::new(None) };
}

/// Has a process without a database started when this one ends, however it ends short of a crash.
/// The last call counts.
pub fn start_alone_at_exit(function: &'static CStr, errand: Errand) {
    if AT_EXIT.replace(Some((function, errand))).is_some() {
        return;
    }
    let nothing = pg_sys::Datum::from(0usize);
    // SAFETY: the callback lives as long as the library, which is never unloaded. It comes when the
    // transaction is aborted and its locks are gone.
    unsafe { pg_sys::on_shmem_exit(Some(start_at_exit), nothing) };
}

/// Not any more.
pub fn start_none_at_exit() {
    AT_EXIT.set(None);
}

unsafe extern "C-unwind" fn start_at_exit(_code: c_int, _nothing: pg_sys::Datum) {
    if let Some((function, errand)) = AT_EXIT.take() {
        start_alone(function, errand);
    }
}

/// A worker whose end somebody wants to know.
pub struct Started(*mut pg_sys::BackgroundWorkerHandle);

/// The same as `start`, for a caller that goes on living.
pub fn start_watched(function: &CStr, errand: Errand) -> Option<Started> {
    let mut worker = described(NAME, function, errand, CONNECTS);
    // SAFETY: a global of the process.
    worker.bgw_notify_pid = unsafe { pg_sys::MyProcPid };
    let mut handle = std::ptr::null_mut();
    let is_started = start_dynamic(worker, &raw mut handle);
    // Not made before: it would be dropped without a handle.
    is_started.then(|| Started(handle))
}

impl Started {
    pub fn is_over(&self) -> bool {
        let mut pid = 0;
        // SAFETY: made when the worker was registered.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &raw mut pid) };
        status == pg_sys::BgwHandleStatus::BGWH_STOPPED
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // SAFETY: palloc'ed when the worker was registered; the worker does not know of it.
        unsafe { pg_sys::pfree(self.0.cast()) };
    }
}

/// Has the postmaster start the launcher with the server, and again after an error. While
/// libraries are preloaded; not while pg_upgrade runs, which wants nobody but itself.
pub fn register_launcher(function: &CStr) {
    // SAFETY: a global of the process.
    if unsafe { pg_sys::IsBinaryUpgrade } {
        return;
    }
    let mut worker = described(NAME_LAUNCHER, function, Errand::visit(0), CONNECTS);
    worker.bgw_restart_time = RESTART_SECONDS;
    // SAFETY: copies the description.
    unsafe { pg_sys::RegisterBackgroundWorker(&raw mut worker) };
}

const CONNECTS: u32 = pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION;

fn described(name: &CStr, function: &CStr, errand: Errand, flags: u32) -> pg_sys::BackgroundWorker {
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | flags) as c_int,
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
        bgw_restart_time: pg_sys::BGW_NEVER_RESTART,
        bgw_main_arg: errand.to_datum(),
        ..pg_sys::BackgroundWorker::default()
    };
    write(&mut worker.bgw_name, name);
    write(&mut worker.bgw_type, name);
    write(&mut worker.bgw_library_name, LIBRARY);
    write(&mut worker.bgw_function_name, function);
    worker
}

fn start_dynamic(
    mut worker: pg_sys::BackgroundWorker,
    handle: *mut *mut pg_sys::BackgroundWorkerHandle,
) -> bool {
    let register = || {
        // SAFETY: copies the description into shared memory; without a handle nothing is allocated.
        unsafe { pg_sys::RegisterDynamicBackgroundWorker(&raw mut worker, handle) }
    };
    catch_unwind(AssertUnwindSafe(register)).unwrap_or(false)
}

fn write(field: &mut [c_char], text: &CStr) {
    // The description is zeroed, and what stays of it ends the text.
    for (to, from) in field.iter_mut().zip(text.to_bytes_with_nul()) {
        *to = *from as c_char;
    }
}

/// Runs a worker: signals, the connection to its database, the body. An error ends the process.
pub fn serve(argument: pg_sys::Datum, body: fn(Errand) -> Outcome<()>) {
    super::error::enter(|| {
        let errand = Errand::from_datum(argument);
        accept_signals();
        connect(pg_sys::Oid::from(errand.database));
        body(errand)?;
        Ok(pg_sys::Datum::from(0usize))
    });
}

/// Runs a process without a database.
pub fn serve_alone(argument: pg_sys::Datum, body: fn(Errand) -> Outcome<()>) {
    super::error::enter(|| {
        accept_signals();
        body(Errand::from_datum(argument))?;
        Ok(pg_sys::Datum::from(0usize))
    });
}

/// Runs a process that reads what all databases share, and is connected to none of them.
pub fn serve_all(_argument: pg_sys::Datum, body: fn() -> Outcome<()>) {
    super::error::enter(|| {
        accept_signals();
        let none = std::ptr::null();
        // SAFETY: once, at the start of the process; without a database and as nobody in
        // particular.
        unsafe { pg_sys::BackgroundWorkerInitializeConnection(none, none, 0) };
        body()?;
        Ok(pg_sys::Datum::from(0usize))
    });
}

fn accept_signals() {
    // SAFETY: PostgreSQL's own handler, which only sets flags; it replaces one that ends the
    // process in the middle of whatever it does.
    unsafe { pqsignal(SIGTERM, die) };
    // SAFETY: as above.
    unsafe { pqsignal(SIGHUP, SignalHandlerForConfigReload) };
    // SAFETY: the handlers are in place.
    unsafe { pg_sys::BackgroundWorkerUnblockSignals() };
}

fn connect(database: pg_sys::Oid) {
    let superuser = pg_sys::InvalidOid;
    // SAFETY: once, at the start of the process; raises if the database is gone.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, superuser, 0) };
    for (name, value) in SETTINGS {
        let (context, source) = (pg_sys::GucContext::PGC_SUSET, pg_sys::GucSource::PGC_S_OVERRIDE);
        // SAFETY: sets a setting that exists in every version, for this process.
        unsafe { pg_sys::SetConfigOption(name.as_ptr(), value.as_ptr(), context, source) };
    }
}

/// Waits; a signal ends the wait, SIGTERM the process, and SIGHUP reads the settings anew.
pub fn wait(milliseconds: u64) {
    host::check_interrupts();
    let wakes = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let timeout = c_long::try_from(milliseconds).unwrap_or(c_long::MAX);
    let event = host::number(host::Event::Worker);
    // SAFETY: a global of the process, set at its start.
    let latch = unsafe { pg_sys::MyLatch };
    // SAFETY: our own latch.
    unsafe { pg_sys::WaitLatch(latch, wakes as c_int, timeout, event) };
    // SAFETY: as above.
    unsafe { pg_sys::ResetLatch(latch) };
    host::check_interrupts();
    // SAFETY: a flag that the SIGHUP handler sets.
    if unsafe { pg_sys::ConfigReloadPending } != 0 {
        // SAFETY: as above.
        unsafe { pg_sys::ConfigReloadPending = 0 };
        // SAFETY: outside of any transaction and of the signal handler.
        unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
    }
}

/// Ends the wait of every background worker of this database, ours among them: which one it is
/// stands nowhere, and a wait that ends for nothing is looked at and begun again. Never raises or
/// waits.
pub fn nudge() {
    // SAFETY: a global of the backend.
    let database = unsafe { pg_sys::MyDatabaseId };
    // SAFETY: set before any backend runs.
    let processes = unsafe { pg_sys::ProcGlobal };
    // SAFETY: as above; the count never changes.
    let count = unsafe { (*processes).allProcCount } as usize;
    // SAFETY: as above.
    let all = unsafe { (*processes).allProcs };
    for place in 0..count {
        // SAFETY: within the array, which stays where it is.
        let process = unsafe { all.add(place) };
        // SAFETY: shared memory; whoever has the slot by now, a look at it does no harm.
        let is_ours = is_worker(unsafe { &*process }, database);
        if is_ours {
            // SAFETY: as above.
            let latch = unsafe { &raw mut (*process).procLatch };
            // SAFETY: as above; a latch that nobody owns is left alone.
            unsafe { pg_sys::SetLatch(latch) };
        }
    }
}

#[cfg(not(feature = "pg18"))]
fn is_worker(process: &pg_sys::PGPROC, database: pg_sys::Oid) -> bool {
    process.databaseId == database && process.isBackgroundWorker
}

#[cfg(feature = "pg18")]
fn is_worker(process: &pg_sys::PGPROC, database: pg_sys::Oid) -> bool {
    process.databaseId == database && !process.isRegularBackend
}

/// Whether this server may start a worker at all: not single-user, not while pg_upgrade runs.
pub fn is_possible() -> bool {
    // SAFETY: a global of the process.
    let under_postmaster = unsafe { pg_sys::IsUnderPostmaster };
    // SAFETY: as above.
    under_postmaster && !unsafe { pg_sys::IsBinaryUpgrade }
}
