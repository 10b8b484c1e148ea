//! The outbox: what a transaction leaves to the worker to send, in rows that are committed with it.
//!
//! Only the worker sends what stands here. A backend that sent its own after its commit could
//! overtake one that committed before it and has not sent yet.
//!
//! The order is that of `number`, a position in the write-ahead log that each transaction reads
//! after it got its id and before its commit record. Whoever committed before another began to
//! commit has the smaller one; where commits overlap there is no order to keep, but of a row that
//! both changed, and there the second one waited for the first one's commit. So it is read anew for
//! what is written later: the very end of a transaction may have waited for somebody's commit. It
//! needs no sequence, which READ ONLY transactions may not advance and on which all commits would
//! meet.
//!
//! What is written in the middle of a transaction (it would take too much memory) has no number
//! yet, but the negative of its transaction's id; all later rows of that transaction do likewise,
//! until before the commit record a *marker*, a row without a message, takes the place of all of
//! them.
//!
//! Invariant: a row is deleted only when what it says was acknowledged by Redis, in the transaction
//! that found it. Without that, a crash at the wrong moment would lose an event.

use std::cell::Cell;
use std::ffi::CStr;
use std::ops::ControlFlow;
use std::time::Duration;

use pg_cache_core::error::{Error, Outbox};
use pg_cache_core::message::Message;
use pg_cache_core::message::codec;
use pg_cache_core::message::hold;
use pg_cache_core::message::place::Place;

use crate::pg::error::Outcome;
use crate::pg::queue::{Inserter, Spot};
use crate::pg::snapshot::{Fresh, Snapshot};
use crate::pg::table::{self, EXCLUSIVE_LOCK, READ_LOCK, Row, Table, WRITE_LOCK};
use crate::pg::transaction::{self, End};
use crate::pg::{Datum, guc, host, lockers, queue, text, wal, xact};
use crate::{registry, worker};

/// What is put aside has its number less this: below all that are the negative of an id.
const ASIDE: i64 = 1 << 62;

/// What comes as far as the outbox on a standby, where no trigger fires and no job is taken.
const TOO_MUCH: &CStr =
    c"redis_publish() or redis_at_commit() beyond pg_cache.pending_events_bytes_max";

const BYTES_A_MEGABYTE: u64 = 1024 * 1024;

/// What tells how much of the table waits: read in a millisecond or so, and right within a percent
/// or so where rows of one age stand together.
const SAMPLE_BLOCKS: u32 = 256;

/// How long a backend goes by a sample that found room.
const SAMPLE_EVERY_MS: u64 = 500;

/// What this backend has done for the transaction of that id.
#[derive(Clone, Copy, Default)]
struct Written {
    xid: u64,
    has_spilled: bool,
    has_marker: bool,
}

thread_local! {
    static WRITTEN: Cell<Written> = const {
        Cell::new(Written { xid: 0, has_spilled: false, has_marker: false })
    };
    static ROOM_UNTIL_MS: Cell<u64> = const { Cell::new(0) };
    /// Whether this transaction leaves something to the worker.
    static IS_WAITED_FOR: Cell<bool> = const { Cell::new(false) };
}

/// Writes messages down before the commit record, or before the record that prepares; the first
/// has this sequence number within the transaction.
pub fn put(first_seq: u64, messages: &[Message]) -> Outcome<()> {
    write(Written::so_far(), first_seq, messages.iter().map(codec::encode))
}

/// Writes messages down in the middle of a transaction. A savepoint that is rolled back takes them
/// with it.
pub fn spill(first_seq: u64, messages: &[Message]) -> Outcome<()> {
    let written = Written { has_spilled: true, ..Written::so_far() };
    write(written, first_seq, messages.iter().map(codec::encode))
}

/// Gives what was spilled, and what was put since, its place. Must be called before the commit
/// record, outside of any savepoint; what is put afterwards stands behind all of that.
pub fn mark() -> Outcome<()> {
    let written = Written::so_far();
    if !written.has_spilled || written.has_marker {
        return Ok(());
    }
    write(Written { has_marker: true, ..written }, 0, std::iter::once(Vec::new()))
}

/// Refuses a transaction that is to leave something, before it has touched anything else.
pub fn refuse_if_full() -> Outcome<()> {
    if xact::xid() == Some(WRITTEN.get().xid) || !registry::is_installed() {
        return Ok(());
    }
    if let Some(table) = lock()? {
        check_room(&table)?;
        table.keep_lock();
    }
    Ok(())
}

/// Has the worker woken when this transaction has committed.
pub fn wake_after_commit() {
    IS_WAITED_FOR.set(true);
}

/// Whether that is so.
pub fn is_waited_for() -> bool {
    IS_WAITED_FOR.get()
}

/// The transaction ended, and if it committed, all see it: nothing here raises, waits, or looks
/// into a catalogue.
pub fn ended() {
    if IS_WAITED_FOR.replace(false) {
        worker::wake_now();
    }
}

impl Written {
    fn so_far() -> Self {
        let written = WRITTEN.get();
        if xact::xid() == Some(written.xid) { written } else { Self::default() }
    }
}

fn write(
    mut written: Written,
    first_seq: u64,
    messages: impl ExactSizeIterator<Item = Vec<u8>>,
) -> Outcome<()> {
    if messages.len() == 0 || !registry::is_installed() {
        return Ok(());
    }
    xact::refuse_on_standby(TOO_MUCH);
    let is_first = written.xid == 0;
    // Assigned before the position is read: who is not in a snapshot has a greater number than all
    // that it shows.
    let xid = transaction::top_xid();
    written.xid = xid;
    let Some(table) = lock()? else { return Ok(()) };
    if is_first {
        check_room(&table)?;
    }
    let at = queue::now();
    let number = match written.has_spilled && !written.has_marker {
        true => -signed(xid),
        false => signed(wal::end()),
    };
    let inserter = Inserter::new(&table);
    for (seq, message) in (first_seq..).zip(messages) {
        let message = text::datum(&message);
        let values = [Datum::from(number), Datum::from(xid), Datum::from(signed(seq)), at, message];
        inserter.insert(values);
        queue::release(message);
    }
    drop(inserter);
    table.keep_lock();
    WRITTEN.set(written);
    Ok(())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The table, with a lock that stays until the transaction ends whatever becomes of the savepoint:
/// the worker does not go while somebody has it. `None`: the extension is gone.
fn lock() -> Outcome<Option<Table>> {
    // A time of its own: who truncates the table is gone in a moment.
    let limit = Duration::from_millis(guc::commit_timeout_ms());
    let taken = host::until(limit, || {
        let taken = xact::with_lasting_locks(registry::lock_outbox);
        match taken.then(|| registry::open_outbox(WRITE_LOCK)).flatten() {
            Some((table, _)) => Some(Some(table)),
            None => registry::is_gone().then_some(None),
        }
    });
    taken.ok_or_else(|| Error::from(Outbox::Locked).into())
}

/// Refuses what would have more wait than the bound says: Redis may be away for long, and the disk
/// is everybody's. What is deleted takes room until VACUUM or the worker has given it back, which
/// somebody's long snapshot can hold up: it is not what the events' bound is about.
fn check_room(table: &Table) -> Outcome<()> {
    let bytes_max = guc::outbox_mb_max() * BYTES_A_MEGABYTE;
    let now_ms = host::monotonic_ms();
    if now_ms < ROOM_UNTIL_MS.get() || table.bytes() < bytes_max {
        return Ok(());
    }
    let bytes = table.bytes_in_use(SAMPLE_BLOCKS);
    if bytes < bytes_max {
        ROOM_UNTIL_MS.set(now_ms + SAMPLE_EVERY_MS);
        return Ok(());
    }
    worker::wake_now();
    let (megabytes, megabytes_max) = (bytes / BYTES_A_MEGABYTE, guc::outbox_mb_max());
    Err(Error::from(Outbox::Full { megabytes, megabytes_max }).into())
}

/// A message that waits.
pub struct Waiting {
    pub place: Place,
    /// Not understood if it is of another release.
    pub message: Result<Message, codec::Unreadable>,
    bytes: Vec<u8>,
    at: i64,
    spot: Spot,
}

impl Waiting {
    /// A row as it stands there, its number moved back to where it was made.
    fn of(fields: Fields, spot: Spot, shift: i64) -> Self {
        let Fields { number, xid, seq, at, message: bytes } = fields;
        let number = u64::try_from(number.saturating_add(shift)).unwrap_or(0);
        let place = Place { number, xid, seq: u64::try_from(seq).unwrap_or(0) };
        Self { place, message: codec::decode(&bytes), bytes, at, spot }
    }

    /// Where a walk over what was put aside goes on.
    pub fn cursor(&self) -> i64 {
        signed(self.place.number) - ASIDE
    }
}

/// How much a step may take.
#[derive(Clone, Copy)]
pub struct Limits {
    pub rows: usize,
    pub bytes: usize,
}

/// What a step found.
#[derive(Default)]
pub struct Batch {
    pub waiting: Vec<Waiting>,
    /// The marker that stands for all of these: to be deleted when they are gone.
    marker: Option<Spot>,
    bytes: usize,
    /// Whether there may be more.
    pub is_full: bool,
}

/// The outbox, open.
pub struct Queue {
    table: Table,
    index: Table,
}

impl Queue {
    /// `None` if somebody is in the way.
    pub fn open(lock: u32) -> Option<Self> {
        let (table, index) = registry::open_outbox(lock)?;
        Some(Self { table, index })
    }

    pub fn open_for_relay() -> Option<Self> {
        Self::open(WRITE_LOCK)
    }

    fn walk(
        &self,
        from: i64,
        to: i64,
        snapshot: &Snapshot,
        each: impl FnMut(&Row) -> ControlFlow<()>,
    ) {
        let _ = self.table.walk(&self.index, from..=to, snapshot, each);
    }

    /// The next to be sent, in order, from a number on.
    pub fn next(&self, from: u64, limits: Limits, snapshot: &Snapshot) -> Batch {
        let mut batch = Batch::default();
        let mut spilled = None;
        self.walk(signed(from.max(1)), i64::MAX, snapshot, |row| {
            let fields = Fields::of(row);
            if fields.message.is_empty() {
                // What it stands for comes in steps of its own, by itself.
                batch.is_full = true;
                if batch.waiting.is_empty() {
                    spilled = Some((fields.number, fields.xid, row.spot()));
                }
                return ControlFlow::Break(());
            }
            batch.add(Waiting::of(fields, row.spot(), 0), limits)
        });
        if let Some((number, xid, marker)) = spilled {
            batch.is_full = false;
            self.walk(-signed(xid), -signed(xid), snapshot, |row| {
                let shift = number + signed(xid);
                batch.add(Waiting::of(Fields::of(row), row.spot(), shift), limits)
            });
            // More of it, or more behind it.
            batch.marker = (!batch.is_full).then_some(marker);
            batch.is_full = true;
        }
        batch
    }

    /// What was put aside, in order, from a cursor on; and where it goes on. What is passed over
    /// takes no room: else a transaction of which much is refused would hide all behind it.
    pub fn aside(
        &self,
        from: i64,
        limits: Limits,
        snapshot: &Snapshot,
        is_passed_over: impl Fn(&Waiting) -> bool,
    ) -> Batch {
        let mut batch = Batch::default();
        self.walk(from.max(-ASIDE), -ASIDE / 2, snapshot, |row| {
            let waiting = Waiting::of(Fields::of(row), row.spot(), ASIDE);
            match is_passed_over(&waiting) {
                true => ControlFlow::Continue(()),
                false => batch.add(waiting, limits),
            }
        });
        batch
    }

    /// Deletes a message that was delivered.
    pub fn delete(&self, waiting: &Waiting) {
        self.table.delete(waiting.spot);
    }

    /// Puts a message aside that Redis refuses: it is tried again later, and in nobody's way.
    pub fn put_aside(&self, waiting: &Waiting) {
        let place = waiting.place;
        let message = text::datum(&waiting.bytes);
        Inserter::new(&self.table).insert([
            Datum::from(signed(place.number) - ASIDE),
            Datum::from(place.xid),
            Datum::from(signed(place.seq)),
            Datum::from(waiting.at),
            message,
        ]);
        queue::release(message);
        self.table.delete(waiting.spot);
    }

    /// All of a batch is gone, so what stood for it goes too.
    pub fn finish(&self, batch: &Batch) {
        if let Some(marker) = batch.marker {
            self.table.delete(marker);
        }
    }

    /// The table alone: its index is closed.
    fn into_table(self) -> Table {
        self.table
    }

    pub fn bytes(&self) -> u64 {
        self.table.bytes()
    }

    pub fn is_empty(&self, snapshot: &Snapshot) -> bool {
        let mut found = false;
        self.walk(i64::MIN, i64::MAX, snapshot, |_| {
            found = true;
            ControlFlow::Break(())
        });
        !found
    }
}

/// Gives the room of deleted rows back, if there are no others and nobody is in the way: VACUUM
/// comes too seldom for a table through which so much passes.
pub fn shrink() -> Outcome<End<()>> {
    let Some(schema) = table::extension_schema_name() else { return Ok(End::Abort(())) };
    if registry::outbox_table().is_none_or(lockers::is_used) {
        return Ok(End::Abort(()));
    }
    let Some(queue) = Queue::open(EXCLUSIVE_LOCK) else { return Ok(End::Abort(())) };
    // Behind the lock: nobody has rows there that are yet to be committed.
    let is_empty = queue.is_empty(&Fresh::push().snapshot);
    if !is_empty {
        return Ok(End::Abort(()));
    }
    host::fault_point("outbox.shrink");
    queue.into_table().truncate(&schema, "redis_outbox")
}

impl Batch {
    pub fn is_something(&self) -> bool {
        !self.waiting.is_empty() || self.marker.is_some()
    }

    /// Whose messages these are.
    pub fn xids(&self) -> impl Iterator<Item = u64> {
        self.waiting.iter().map(|one| one.place.xid)
    }

    /// Leaves out what must not go yet, and all behind it.
    pub fn hold(&mut self, is_owing: impl Fn(u64) -> bool) {
        let batch = self.waiting.iter().map(|one| (one.place.xid, one.message.as_ref().ok()));
        let count = hold::sendable(batch, is_owing);
        if count < self.waiting.len() {
            self.waiting.truncate(count);
            self.marker = None;
            self.is_full = true;
        }
    }

    fn add(&mut self, waiting: Waiting, limits: Limits) -> ControlFlow<()> {
        let bytes = self.bytes + waiting.bytes.len();
        let has_some = !self.waiting.is_empty();
        if self.waiting.len() >= limits.rows || (has_some && bytes > limits.bytes) {
            self.is_full = true;
            return ControlFlow::Break(());
        }
        self.bytes = bytes;
        self.waiting.push(waiting);
        ControlFlow::Continue(())
    }
}

/// A row as it stands there.
struct Fields {
    number: i64,
    xid: u64,
    seq: i64,
    at: i64,
    message: Vec<u8>,
}

impl Fields {
    fn of(row: &Row) -> Self {
        let [number, xid, seq, at, message] = row.values::<5>();
        let value = |datum: Option<Datum>| datum.map_or(0, |datum| datum.value() as i64);
        Self {
            number: value(number),
            xid: xid.map_or(0, |xid| xid.value() as u64),
            seq: value(seq),
            at: value(at),
            message: message.map(text::to_vec).unwrap_or_default(),
        }
    }
}

/// How the outbox stands, for `redis_health`.
pub struct Standing {
    /// What the table takes, and about how much of that waits.
    pub bytes: u64,
    pub waiting_bytes: u64,
    /// What waits, and what was put aside: counted up to a limit.
    pub waiting: usize,
    pub aside: usize,
    /// When the oldest that waits was made, as a timestamptz.
    pub oldest: Option<i64>,
}

/// Counted no further than this.
pub const COUNTED_MAX: usize = 10_000;

/// How the outbox stands for a snapshot; `None` if it is locked.
pub fn standing(snapshot: &Snapshot) -> Option<Standing> {
    let queue = Queue::open(READ_LOCK)?;
    let (bytes, waiting_bytes) = (queue.bytes(), queue.table.bytes_in_use(SAMPLE_BLOCKS));
    let mut standing = Standing { bytes, waiting_bytes, waiting: 0, aside: 0, oldest: None };
    let count = |from: i64, to: i64, oldest: &mut Option<i64>| {
        let mut rows = 0;
        queue.walk(from, to, snapshot, |row| {
            let at = row.values::<4>()[3].map_or(0, |at| at.value() as i64);
            *oldest = Some(oldest.map_or(at, |known| known.min(at)));
            rows += 1;
            if rows < COUNTED_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        rows
    };
    standing.aside = count(-ASIDE, -ASIDE / 2, &mut None);
    standing.waiting = count(-ASIDE / 2, i64::MAX, &mut standing.oldest);
    Some(standing)
}
