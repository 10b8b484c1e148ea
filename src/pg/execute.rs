//! Runs a prepared query under the caller's own snapshot and writes its rows as one JSON array.
//!
//! The text is byte for byte that of `json_agg(row_to_json(x))`: PostgreSQL's own `row_to_json`
//! makes each element, straight from the executor, without a table of tuples in between.

use pgrx::{pg_guard, pg_sys};

use super::error::{Outcome, catch};

unsafe extern "C-unwind" {
    // Without pgrx's guard, so that `catch` keeps the user's error whole.
    fn SPI_execute_plan_extended(
        plan: pg_sys::SPIPlanPtr,
        options: *const pg_sys::SPIExecuteOptions,
    ) -> std::ffi::c_int;
    fn SPI_connect() -> std::ffi::c_int;
    fn SPI_finish() -> std::ffi::c_int;
}

/// Takes the executor's rows. PostgreSQL knows only `base`, so that comes first.
#[repr(C)]
struct JsonReceiver {
    base: pg_sys::DestReceiver,
    output: pg_sys::StringInfo,
    row_context: pg_sys::MemoryContext,
    description: pg_sys::TupleDesc,
    row_to_json: pg_sys::FmgrInfo,
}

/// A palloc'ed JSON text in the server's encoding.
#[derive(Clone, Copy)]
pub struct Json(pg_sys::StringInfo);

impl Json {
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: made by makeStringInfo in the caller's context, which outlives the statement.
        let text = unsafe { &*self.0 };
        let length = usize::try_from(text.len).unwrap_or(0);
        // SAFETY: `len` bytes are written.
        unsafe { std::slice::from_raw_parts(text.data.cast(), length) }
    }
}

/// Runs the plan; read-only, so the active snapshot is used and no transaction id is taken.
pub fn run(plan: pg_sys::SPIPlanPtr, parameters: pg_sys::ParamListInfo) -> Outcome<Json> {
    // SAFETY: a palloc'ed, empty buffer in the current context.
    let output = unsafe { pg_sys::makeStringInfo() };
    append(output, b"[");
    let mut receiver = JsonReceiver {
        base: pg_sys::DestReceiver {
            receiveSlot: Some(receive_row),
            rStartup: Some(start_rows),
            rShutdown: Some(end_rows),
            rDestroy: Some(end_rows),
            mydest: pg_sys::CommandDest::DestNone,
        },
        output,
        row_context: std::ptr::null_mut(),
        description: std::ptr::null_mut(),
        row_to_json: pg_sys::FmgrInfo::default(),
    };
    let options = pg_sys::SPIExecuteOptions {
        params: parameters,
        read_only: true,
        must_return_tuples: true,
        dest: std::ptr::from_mut(&mut receiver).cast(),
        ..pg_sys::SPIExecuteOptions::default()
    };
    // SAFETY: the plan is kept, and the options and the receiver live on this stack.
    let execute = || unsafe { SPI_execute_plan_extended(plan, &raw const options) };
    // SAFETY: one C call over plain pointers; an error ends the statement.
    let code = unsafe { in_spi(execute) }?;
    if code < 0 {
        pgrx::error!("SPI_execute_plan_extended failed: error code {code}");
    }
    append(output, b"]");
    Ok(Json(output))
}

/// One call between SPI_connect and SPI_finish; an ERROR comes back whole.
///
/// # Safety
/// As for [`catch`].
pub unsafe fn in_spi<T: Copy>(call: impl FnOnce() -> T) -> Outcome<T> {
    let connected = || {
        // SAFETY: SPI keeps a stack of its own; an abort empties it.
        unsafe { SPI_connect() };
        let result = call();
        // SAFETY: closes what was opened above.
        unsafe { SPI_finish() };
        result
    };
    // SAFETY: promised by the caller.
    unsafe { catch(connected) }
}

fn append(output: pg_sys::StringInfo, bytes: &[u8]) {
    let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
    // SAFETY: copies; raises a program limit error above 1 GB.
    unsafe { pg_sys::appendBinaryStringInfo(output, bytes.as_ptr().cast(), length) };
}

#[pg_guard]
unsafe extern "C-unwind" fn start_rows(
    receiver: *mut pg_sys::DestReceiver,
    _operation: std::ffi::c_int,
    description: pg_sys::TupleDesc,
) {
    // SAFETY: PostgreSQL hands back the receiver that it was given.
    let receiver = unsafe { &mut *receiver.cast::<JsonReceiver>() };
    // SAFETY: a palloc'ed copy that may be registered as a record type.
    let copy = unsafe { pg_sys::CreateTupleDescCopy(description) };
    // SAFETY: gives anonymous rows an identity, which `row_to_json` looks their columns up by.
    receiver.description = unsafe { pg_sys::BlessTupleDesc(copy) };
    // SAFETY: a global of the backend.
    let parent = unsafe { pg_sys::CurrentMemoryContext };
    // SAFETY: freed with its parent at the end of the SPI call.
    receiver.row_context = unsafe {
        pg_sys::AllocSetContextCreateInternal(
            parent,
            c"pg_cache row".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        )
    };
    let function = pg_sys::Oid::from(pg_sys::F_ROW_TO_JSON_RECORD);
    // SAFETY: a built-in function.
    unsafe { pg_sys::fmgr_info(function, &raw mut receiver.row_to_json) };
}

#[pg_guard]
unsafe extern "C-unwind" fn receive_row(
    slot: *mut pg_sys::TupleTableSlot,
    receiver: *mut pg_sys::DestReceiver,
) -> bool {
    // SAFETY: PostgreSQL hands back the receiver that it was given.
    let receiver = unsafe { &mut *receiver.cast::<JsonReceiver>() };
    // SAFETY: empties the context of the row before; nothing of it is kept.
    unsafe { pg_sys::MemoryContextReset(receiver.row_context) };
    // SAFETY: a context made in start_rows.
    let outer = unsafe { pg_sys::MemoryContextSwitchTo(receiver.row_context) };
    let mut should_free = false;
    // SAFETY: the slot holds a row; what must be freed goes with the row's context.
    let tuple = unsafe { pg_sys::ExecFetchSlotHeapTuple(slot, false, &raw mut should_free) };
    // SAFETY: the description has the same columns as the slot.
    let row = unsafe { pg_sys::heap_copy_tuple_as_datum(tuple, receiver.description) };
    // SAFETY: row_to_json(record) takes one composite datum and is strict.
    let json = unsafe {
        pg_sys::FunctionCall1Coll(&raw mut receiver.row_to_json, pg_sys::InvalidOid, row)
    };
    // SAFETY: back to where the executor was.
    unsafe { pg_sys::MemoryContextSwitchTo(outer) };
    // SAFETY: a buffer made in `run`; reads a plain field.
    if unsafe { (*receiver.output).len } > 1 {
        append(receiver.output, b", ");
    }
    append(receiver.output, super::text::bytes(json));
    true
}

#[pg_guard]
unsafe extern "C-unwind" fn end_rows(_receiver: *mut pg_sys::DestReceiver) {}
