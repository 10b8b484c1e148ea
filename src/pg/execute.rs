//! Runs a prepared query under the caller's own snapshot and writes its rows as one JSON array.
//!
//! The text is byte for byte that of `json_agg(row_to_json(x))`: PostgreSQL's own `row_to_json`
//! makes each element, straight from the executor, without a table of tuples in between.

use std::ffi::{c_char, c_int};

use pgrx::{pg_guard, pg_sys};

use super::error::{Outcome, catch};

unsafe extern "C-unwind" {
    // Without pgrx's guard, so that an error of the user's query, or of what turns its values into
    // JSON, jumps to `catch` as it was raised.
    fn SPI_execute_plan_extended(
        plan: pg_sys::SPIPlanPtr,
        options: *const pg_sys::SPIExecuteOptions,
    ) -> c_int;
    fn SPI_connect() -> c_int;
    fn SPI_finish() -> c_int;
    fn MemoryContextReset(context: pg_sys::MemoryContext);
    fn ExecFetchSlotHeapTuple(
        slot: *mut pg_sys::TupleTableSlot,
        materialize: bool,
        should_free: *mut bool,
    ) -> pg_sys::HeapTuple;
    fn heap_copy_tuple_as_datum(
        tuple: pg_sys::HeapTuple,
        description: pg_sys::TupleDesc,
    ) -> pg_sys::Datum;
    fn FunctionCall1Coll(
        function: *mut pg_sys::FmgrInfo,
        collation: pg_sys::Oid,
        argument: pg_sys::Datum,
    ) -> pg_sys::Datum;
    fn text_to_cstring(text: *const pg_sys::text) -> *mut c_char;
    fn appendStringInfoString(output: pg_sys::StringInfo, text: *const c_char);
}

/// Takes the executor's rows. PostgreSQL knows only `base`, so that comes first.
#[repr(C)]
struct JsonReceiver {
    base: pg_sys::DestReceiver,
    output: pg_sys::StringInfo,
    row_context: pg_sys::MemoryContext,
    description: pg_sys::TupleDesc,
    row_to_json: pg_sys::FmgrInfo,
    is_first: bool,
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
        is_first: true,
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
    _operation: c_int,
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

/// Calls C functions and owns nothing: an error in here jumps over it to `catch`.
unsafe extern "C-unwind" fn receive_row(
    slot: *mut pg_sys::TupleTableSlot,
    receiver: *mut pg_sys::DestReceiver,
) -> bool {
    // SAFETY: PostgreSQL hands back the receiver that it was given.
    let receiver = unsafe { &mut *receiver.cast::<JsonReceiver>() };
    // SAFETY: empties the context of the row before; nothing of it is kept.
    unsafe { MemoryContextReset(receiver.row_context) };
    // SAFETY: a context made in start_rows; what is allocated from here on goes with the row.
    let outer = unsafe { pg_sys::MemoryContextSwitchTo(receiver.row_context) };
    let mut should_free = false;
    // SAFETY: the slot holds a row.
    let tuple = unsafe { ExecFetchSlotHeapTuple(slot, false, &raw mut should_free) };
    // SAFETY: the description has the same columns as the slot.
    let row = unsafe { heap_copy_tuple_as_datum(tuple, receiver.description) };
    let function = &raw mut receiver.row_to_json;
    // SAFETY: row_to_json(record) takes one composite datum and is strict.
    let json = unsafe { FunctionCall1Coll(function, pg_sys::InvalidOid, row) };
    // SAFETY: the result is a text.
    let json = unsafe { text_to_cstring(json.cast_mut_ptr()) };
    let separator = if receiver.is_first { c"" } else { c", " };
    receiver.is_first = false;
    // SAFETY: the buffer made in `run` grows in its own context.
    unsafe { appendStringInfoString(receiver.output, separator.as_ptr()) };
    // SAFETY: as above; JSON holds no NUL.
    unsafe { appendStringInfoString(receiver.output, json) };
    // SAFETY: back to where the executor was.
    unsafe { pg_sys::MemoryContextSwitchTo(outer) };
    true
}

#[pg_guard]
unsafe extern "C-unwind" fn end_rows(_receiver: *mut pg_sys::DestReceiver) {}
