//! Runs statements of ours: about views, tables and triggers, as the caller would, and about the
//! tables of the registry.

use std::ffi::{CStr, c_char, c_int, c_long, c_void};

use pgrx::pg_sys;

use super::error::Outcome;
use super::execute::in_spi;

unsafe extern "C-unwind" {
    // Without pgrx's guard, so that `catch` keeps the error whole.
    fn SPI_execute(statement: *const c_char, read_only: bool, count: c_long) -> c_int;
    fn SPI_getvalue(
        row: pg_sys::HeapTuple,
        description: pg_sys::TupleDesc,
        column: c_int,
    ) -> *mut c_char;
    fn SPI_palloc(bytes: usize) -> *mut c_void;
    fn CommandCounterIncrement();
    fn GetLatestSnapshot() -> pg_sys::Snapshot;
    fn PushActiveSnapshot(snapshot: pg_sys::Snapshot);
    fn PopActiveSnapshot();
}

pub fn run(statement: &str) -> Outcome<()> {
    let statement = super::text::statement(statement);
    let text = statement.as_ptr();
    // SAFETY: a C string that outlives the call.
    let execute = || unsafe { SPI_execute(text, false, 0) };
    // SAFETY: one C call over a plain pointer; an error ends the statement.
    let code = unsafe { in_spi(execute) }?;
    if code < 0 {
        pgrx::error!("SPI_execute failed: error code {code}");
    }
    Ok(())
}

/// The text of the one value that a statement gives; `None` for NULL or no row. Each statement sees
/// what was committed before it, as in any READ COMMITTED transaction.
pub fn ask(statement: &str) -> Outcome<Option<String>> {
    value_of(statement, false)
}

/// As [`ask`], under the active snapshot: it may run on a standby.
pub fn ask_read_only(statement: &str) -> Outcome<Option<String>> {
    value_of(statement, true)
}

fn value_of(statement: &str, read_only: bool) -> Outcome<Option<String>> {
    let statement = super::text::statement(statement);
    let text = statement.as_ptr();
    let execute = || {
        // SAFETY: a C string that outlives the call.
        let code = unsafe { SPI_execute(text, read_only, 1) };
        // SAFETY: the result of that statement, in the caller's memory.
        (code, unsafe { first_value() })
    };
    // SAFETY: C calls over plain pointers; an error ends the statement.
    let (code, value) = unsafe { in_spi(execute) }?;
    if code < 0 {
        pgrx::error!("SPI_execute failed: error code {code}");
    }
    Ok((!value.is_null()).then(|| super::text::c_string(value)))
}

/// The query of a view as a text that means the same under any settings.
pub fn view_definition(view: &str) -> Outcome<String> {
    let name = super::quote::literal(view);
    let ask = format!("SELECT pg_catalog.pg_get_viewdef({name}::pg_catalog.regclass)");
    let _plain = PlainSettings::start();
    let statement = super::text::statement(&ask);
    let text = statement.as_ptr();
    let execute = || {
        // SAFETY: a C string that outlives the call; not read-only, so that it sees the view that
        // was created a moment ago.
        unsafe { SPI_execute(text, false, 1) };
        // SAFETY: the one row and column that the statement gives, in the caller's memory.
        unsafe { first_value() }
    };
    // SAFETY: C calls over plain pointers; an error ends the statement.
    let value = unsafe { in_spi(execute) }?;
    Ok(super::text::c_string(value))
}

/// The one JSON value that a SELECT of ours gives; null if it gives none.
///
/// It sees what is committed at this moment and what this transaction did, whatever the isolation:
/// a child or a trigger that an older snapshot does not see is there all the same.
pub fn look(select: &str) -> Outcome<serde_json::Value> {
    let _plain = PlainSettings::start();
    let statement = super::text::statement(select);
    let text = statement.as_ptr();
    let execute = || {
        // SAFETY: makes this transaction's own changes visible to what follows.
        unsafe { CommandCounterIncrement() };
        // SAFETY: a snapshot of this moment, copied when it is pushed.
        let snapshot = unsafe { GetLatestSnapshot() };
        // SAFETY: popped below; an abort empties the stack.
        unsafe { PushActiveSnapshot(snapshot) };
        // SAFETY: a C string that outlives the call; read-only, so under the snapshot pushed above.
        unsafe { SPI_execute(text, true, 1) };
        // SAFETY: the one row and column that the statement gives, in the caller's memory.
        let value = unsafe { first_value() };
        // SAFETY: the one pushed above.
        unsafe { PopActiveSnapshot() };
        value
    };
    // SAFETY: C calls over plain pointers; an error ends the statement.
    let value = unsafe { in_spi(execute) }?;
    Ok(serde_json::from_str(&super::text::c_string(value)).unwrap_or_default())
}

/// Waits for a lock on a relation that keeps writers and DDL out until the transaction ends.
pub fn lock(relation: pg_sys::Oid) {
    let mode = pg_sys::ShareRowExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: released with the transaction.
    unsafe { pg_sys::LockRelationOid(relation, mode) };
}

/// The text of the first row's first column, copied out of SPI's memory; NULL if there is none.
unsafe fn first_value() -> *mut c_char {
    // SAFETY: the result of the statement that ran last.
    let table = unsafe { pg_sys::SPI_tuptable };
    if table.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: as above.
    let table = unsafe { &*table };
    if table.numvals == 0 {
        return std::ptr::null_mut();
    }
    // SAFETY: there is a first row.
    let row = unsafe { *table.vals };
    // SAFETY: a row and its description.
    let value = unsafe { SPI_getvalue(row, table.tupdesc, 1) };
    if value.is_null() {
        return value;
    }
    // SAFETY: a C string.
    let bytes = unsafe { CStr::from_ptr(value) }.count_bytes() + 1;
    // SAFETY: room in the context outside SPI.
    let copy = unsafe { SPI_palloc(bytes) }.cast::<c_char>();
    // SAFETY: both have that many bytes, and do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(value, copy, bytes) };
    copy
}

/// Settings under which a query's or a value's text means the same to everybody, as for
/// postgres_fdw and pg_dump: every name qualified, every constant unambiguous. Until it is dropped;
/// an error restores them with the transaction.
pub struct PlainSettings(c_int);

const PLAIN: [(&CStr, &CStr); 7] = [
    (c"TimeZone", c"UTC"),
    (c"bytea_output", c"hex"),
    (c"search_path", c""),
    (c"DateStyle", c"ISO"),
    (c"IntervalStyle", c"postgres"),
    (c"extra_float_digits", c"3"),
    (c"lc_monetary", c"C"),
];

impl PlainSettings {
    pub fn start() -> Self {
        // SAFETY: opens a level of settings, closed by Drop or by the abort.
        let level = unsafe { pg_sys::NewGUCNestLevel() };
        for (name, value) in PLAIN {
            // SAFETY: sets one setting on that level, as a function's SET clause does.
            unsafe {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
        }
        Self(level)
    }
}

impl Drop for PlainSettings {
    fn drop(&mut self) {
        // SAFETY: the level opened by `start`.
        unsafe { pg_sys::AtEOXact_GUC(true, self.0) };
    }
}
