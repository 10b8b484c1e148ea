//! Errors on their way between PostgreSQL and Rust.
//!
//! pgrx turns an ERROR raised by a C function into a panic and back, and loses its position, query
//! and context on the way. The user's query must fail as it would alone, so calls that can raise
//! the *user's* errors go through [`catch`], which keeps PostgreSQL's own `ErrorData`, and leave
//! through [`enter`], which throws that very error again.
//!
//! Invariant: no Rust value with a destructor is alive on the stack when an ERROR leaves. If that
//! breaks, sockets and memory leak, or worse, a borrow stays taken for the life of the backend.

use std::any::Any;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pg_cache_core::error::Error;
use pg_cache_core::reason::Reason;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::{CaughtError, ErrorReport, ErrorReportWithLevel, pgrx_extern_c_guard};
use pgrx::{PgLogLevel, PgSqlErrorCode};

/// Why a call ends without a result.
pub enum Raised {
    /// A row of our own catalogue.
    Refused(Error),
    /// PostgreSQL's own error, whole, allocated in the caller's memory context.
    Postgres(*mut pg_sys::ErrorData),
}

impl From<Error> for Raised {
    fn from(error: Error) -> Self {
        Raised::Refused(error)
    }
}

pub type Outcome<T> = Result<T, Raised>;

/// Calls PostgreSQL and keeps an ERROR as it was raised.
///
/// # Safety `call` must do nothing but call C functions declared without pgrx's guard, and own
/// nothing that has a destructor: an ERROR jumps over it. Whoever gets the error must end the
/// transaction with it.
pub unsafe fn catch<T: Copy>(call: impl FnOnce() -> T) -> Outcome<T> {
    let mut result = MaybeUninit::<T>::uninit();
    // SAFETY: plain reads of this thread's globals; the backend has one thread.
    let (context, handler, callbacks) = unsafe { handlers() };
    let jumped = cee_scape::call_with_sigsetjmp(false, |here| {
        let here = std::ptr::from_ref(here).cast_mut().cast();
        // SAFETY: the buffer lives until call_with_sigsetjmp returns, and is taken out below.
        unsafe { pg_sys::PG_exception_stack = here };
        result.write(call());
        0
    });
    // SAFETY: puts back what stood there before, on both ways out.
    unsafe { restore(handler, callbacks) };
    if jumped == 0 {
        // SAFETY: zero means that the closure ran to its end and wrote the result.
        return Ok(unsafe { result.assume_init() });
    }
    // SAFETY: a non-zero return means that an ERROR was raised and stands in ErrorContext.
    Err(Raised::Postgres(unsafe { take_error(context) }))
}

type Handlers = (pg_sys::MemoryContext, *mut pg_sys::sigjmp_buf, *mut pg_sys::ErrorContextCallback);

#[allow(clippy::multiple_unsafe_ops_per_block)]
unsafe fn handlers() -> Handlers {
    // SAFETY: three reads of PostgreSQL's globals, which only this thread uses.
    unsafe {
        (pg_sys::CurrentMemoryContext, pg_sys::PG_exception_stack, pg_sys::error_context_stack)
    }
}

#[allow(clippy::multiple_unsafe_ops_per_block)]
unsafe fn restore(handler: *mut pg_sys::sigjmp_buf, callbacks: *mut pg_sys::ErrorContextCallback) {
    // SAFETY: two writes to PostgreSQL's globals of values that were read from them.
    unsafe {
        pg_sys::PG_exception_stack = handler;
        pg_sys::error_context_stack = callbacks;
    }
}

#[allow(clippy::multiple_unsafe_ops_per_block)]
unsafe fn take_error(context: pg_sys::MemoryContext) -> *mut pg_sys::ErrorData {
    // SAFETY: as PG_CATCH does: leave ErrorContext, copy the error out of it, empty it.
    unsafe {
        pg_sys::CurrentMemoryContext = context;
        let error = pg_sys::CopyErrorData();
        pg_sys::FlushErrorState();
        error
    }
}

/// Forgets an error that an own one replaces: the transaction ends all the same.
pub fn replace(raised: Raised, with: Error) -> Raised {
    if let Raised::Postgres(error) = raised {
        // SAFETY: made by CopyErrorData in `catch`, and nobody else holds it.
        unsafe { pg_sys::FreeErrorData(error) };
    }
    Raised::Refused(with)
}

/// Whether an error of PostgreSQL's own has this SQLSTATE.
pub fn is(raised: &Raised, state: &str) -> bool {
    let Raised::Postgres(error) = raised else { return false };
    // SAFETY: made by CopyErrorData in `catch`, and nobody has freed it.
    let found = unsafe { (**error).sqlerrcode };
    PgSqlErrorCode::from(found) == sqlstate(state)
}

/// The class of an error's SQLSTATE.
pub fn class(raised: &Raised) -> String {
    let state = match raised {
        Raised::Refused(error) => error.sqlstate().to_owned(),
        Raised::Postgres(error) => {
            // SAFETY: made by CopyErrorData in `catch`, and nobody has freed it.
            let code = unsafe { (**error).sqlerrcode };
            unpacked(code)
        }
    };
    state.chars().take(2).collect()
}

/// The five characters of which PostgreSQL packs six bits each.
fn unpacked(code: std::ffi::c_int) -> String {
    (0..5).map(|place| char::from(((code >> (6 * place)) & 0x3f) as u8 + b'0')).collect()
}

/// How work failed that its caller can do without.
pub struct Failed {
    message: String,
    is_cancel: bool,
    cause: Cause,
}

enum Cause {
    Raised(Raised),
    Panic(Box<dyn Any + Send>),
}

impl Failed {
    /// The error's message; a cancel and a defect of ours go on instead.
    pub fn message_unless_cancelled(self) -> Outcome<String> {
        match self.cause {
            _ if !self.is_cancel => Ok(self.message),
            Cause::Raised(raised) => Err(raised),
            Cause::Panic(panic) => resume_unwind(panic),
        }
    }

    /// The error itself, to go on.
    pub fn again(self) -> Raised {
        match self.cause {
            Cause::Raised(raised) => raised,
            Cause::Panic(panic) => resume_unwind(panic),
        }
    }
}

/// Runs work of which an ERROR is not the end. Its caller must roll a subtransaction back.
pub fn attempt<T>(work: impl FnOnce() -> Outcome<T>) -> Result<T, Failed> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(raised)) => {
            let (message, is_cancel) = told(&raised);
            Err(Failed { message, is_cancel, cause: Cause::Raised(raised) })
        }
        Err(panic) => {
            let (message, is_cancel) = match panic.downcast_ref::<CaughtError>() {
                Some(CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) => {
                    let is_cancel = report.sql_error_code() == CANCELLED;
                    (report.message().to_owned(), is_cancel)
                }
                _ => (String::new(), true),
            };
            Err(Failed { message, is_cancel, cause: Cause::Panic(panic) })
        }
    }
}

const CANCELLED: PgSqlErrorCode = PgSqlErrorCode::ERRCODE_QUERY_CANCELED;

fn told(raised: &Raised) -> (String, bool) {
    match raised {
        Raised::Refused(error) => (error.message(), false),
        Raised::Postgres(error) => {
            // SAFETY: made by CopyErrorData in `catch`, and nobody has freed it.
            let error = unsafe { &**error };
            let is_cancel = PgSqlErrorCode::from(error.sqlerrcode) == CANCELLED;
            (super::text::c_string(error.message), is_cancel)
        }
    }
}

unsafe extern "C-unwind" {
    /// Declared here without pgrx's guard, which would turn the error into a lossy panic again.
    fn ReThrowError(edata: *mut pg_sys::ErrorData) -> !;
}

/// The door of every SQL function: runs the body, and lets an error out as PostgreSQL wants it.
pub fn enter(body: impl FnOnce() -> Outcome<pg_sys::Datum>) -> pg_sys::Datum {
    let guarded = || match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(datum)) => Ok(datum),
        Ok(Err(Raised::Postgres(error))) => Err(error),
        Ok(Err(Raised::Refused(error))) => raise(&error),
        Err(panic) => raise_panic(panic),
    };
    // SAFETY: called at the outermost frame of an extern function, which owns nothing.
    match unsafe { pgrx_extern_c_guard(guarded) } {
        Ok(datum) => datum,
        // SAFETY: the error comes from CopyErrorData, and no frame up to here has a destructor.
        Err(error) => unsafe { ReThrowError(error) },
    }
}

fn raise(error: &Error) -> ! {
    let (detail, hint) = (error.detail().map(said), error.hint().map(said));
    let code = sqlstate(error.sqlstate());
    plain(code, &said(error.message()), detail.as_deref(), hint.as_deref())
        .report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// An ERROR that came through pgrx's guard, or a defect of ours: raised again without the Rust
/// backtrace that pgrx would put into DETAIL.
fn raise_panic(panic: Box<dyn Any + Send>) -> ! {
    let report = match panic.downcast::<CaughtError>() {
        Ok(caught) => match *caught {
            CaughtError::PostgresError(report)
            | CaughtError::ErrorReport(report)
            | CaughtError::RustPanic { ereport: report, .. } => without_backtrace(&report),
        },
        Err(panic) => match panic.downcast::<ErrorReportWithLevel>() {
            Ok(report) => without_backtrace(&report),
            Err(panic) => defect(&*panic),
        },
    };
    report.report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

fn without_backtrace(report: &ErrorReportWithLevel) -> ErrorReport {
    plain(report.sql_error_code(), report.message(), report.detail(), report.hint())
}

fn said(text: String) -> String {
    super::text::message(&text)
}

fn plain(
    code: PgSqlErrorCode,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) -> ErrorReport {
    let mut report = ErrorReport::new(code, message.to_owned(), "");
    if let Some(detail) = detail {
        report = report.set_detail(detail);
    }
    if let Some(hint) = hint {
        report = report.set_hint(hint);
    }
    report
}

fn defect(panic: &(dyn Any + Send)) -> ErrorReport {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown");
    let message = format!("pg_cache failed: {said}");
    ErrorReport::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, message, "")
        .set_hint("This is a defect in pg_cache. The backend goes on; please report it.")
}

/// MAKE_SQLSTATE: five characters, six bits each.
fn sqlstate(code: &str) -> PgSqlErrorCode {
    let packed = code.bytes().enumerate().fold(0i32, |packed, (place, byte)| {
        packed | ((i32::from(byte) - 0x30) & 0x3f) << (6 * place)
    });
    PgSqlErrorCode::from(packed)
}

/// One WARNING for a Redis in trouble; how often is decided by the caller.
pub fn warn_unusable(reason: Reason, detail: &str) {
    warn("redis is not usable, computing without the cache", reason, detail);
}

/// One WARNING for a commit that goes on without Redis.
pub fn warn_unsettled(reason: Reason, detail: &str) {
    warn("redis is not usable, the change is noted in redis_debt", reason, detail);
}

/// One WARNING for rate limits that nobody counts.
pub fn warn_unlimited(reason: Reason, detail: &str, allowed: bool) {
    let what = if allowed { "allows all requests" } else { "denies all requests" };
    warn(&format!("redis is not usable, redis_rate_limit {what}"), reason, detail);
}

/// One WARNING for messages that a committed transaction could not send.
pub fn warn_lost(reason: Reason, detail: &str, lost: usize) {
    let messages = if lost == 1 { "message is" } else { "messages are" };
    warn(&format!("redis is not usable, {lost} {messages} lost"), reason, detail);
}

fn warn(message: &str, reason: Reason, detail: &str) {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message.to_owned(), "")
        .set_detail(said(format!("{} ({detail})", reason.sentence())))
        .report(PgLogLevel::WARNING);
}

/// A line for the server's log: what the worker did.
pub fn log(message: &str) {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, said(message.to_owned()), "")
        .report(PgLogLevel::LOG);
}

/// Tells the caller how something went.
pub fn notice(text: &str, detail: Option<&str>) {
    let code = PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION;
    let (text, detail) = (said(text.to_owned()), detail.map(|detail| said(detail.to_owned())));
    plain(code, &text, detail.as_deref(), None).report(PgLogLevel::NOTICE);
}

/// What our own statements and texts should have ruled out.
pub fn defect_in(what: &str) -> Raised {
    panic!("{what}")
}
