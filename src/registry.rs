//! Which Redis server, generation and mapping count: `redis_server` and `redis_alive`.
//!
//! Readers ask under their own snapshot, writers under one taken before their commit, so nobody
//! depends on when a setting or a failover reached whom. A row of another cluster or database (a
//! copy, a template) is none. If a reader took a generation that its snapshot does not see, the
//! proof in `commit` would not hold for it.

pub mod debts;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use pg_cache_core::error::Error;
use pg_cache_core::reason::Reason;
use pg_cache_core::recipe::Secret;
use pg_cache_core::tag::{Bucket, Tag};
use pg_cache_core::{tagtable, token};

use crate::client::failure::Failure;
use crate::client::server::Server;
use crate::client::session::Generations;
use crate::pg::error::Outcome;
use crate::pg::guc::TagTable;
use crate::pg::snapshot::{Fresh, Snapshot};
use crate::pg::table::{READ_LOCK, Row, Table, Tables, WRITE_LOCK};
use crate::pg::tags::{self, Tags};
use crate::pg::{Datum, Oid, guc, host, identity, standbys, text, wal};

/// What this release writes into `redis_server.format`.
const FORMAT: i32 = 1;

/// Where a registration has its tag table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Home {
    #[default]
    Redis,
    /// Of the run of the server that registered it.
    Memory,
}

impl Home {
    /// As it stands in `redis_server.tag_table`.
    pub fn as_str(self) -> &'static str {
        match self {
            Home::Redis => "redis",
            Home::Memory => "memory",
        }
    }

    fn of(text: &str) -> Option<Self> {
        [Home::Redis, Home::Memory].into_iter().find(|home| home.as_str() == text)
    }

    /// Where a new registration is to have it.
    pub fn wanted() -> Self {
        let is_wanted = match guc::tag_table() {
            TagTable::Auto => !standbys::is_any(),
            TagTable::Memory => true,
            TagTable::Redis => false,
        };
        if is_wanted && Tags::here().is_some() { Home::Memory } else { Home::Redis }
    }

    /// Whether a new registration is worth a cold cache, as this one has it in the wrong place. One
    /// that has it in Redis for a standby's sake keeps it there when the standby has gone.
    pub fn is_outmoded(self) -> bool {
        match self {
            Home::Redis => guc::tag_table() == TagTable::Memory && Tags::here().is_some(),
            Home::Memory => Home::wanted() == Home::Redis,
        }
    }
}

/// The row of `redis_server`, if it is one of this database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registration {
    pub generation: u128,
    /// `run_id:replication_id/database` of the Redis server; empty while none is known.
    pub server: String,
    pub timeline: u64,
    /// Stands before every key of this database in Redis.
    pub prefix: Vec<u8>,
    pub buckets: u32,
    pub home: Home,
    /// The tag table's key, if it is in Redis.
    pub table: Vec<u8>,
    /// The key of the tokens that prepared transactions laid.
    pub book: Vec<u8>,
    /// Under which recipes are written.
    pub secret: Secret,
}

impl Registration {
    /// Whether a worker has ever registered a server. Before that there is nothing in Redis that
    /// anybody could use, and the generation that the worker will make has a base of its own.
    pub fn is_made(&self) -> bool {
        !self.server.is_empty()
    }

    /// Refuses any server but the registered one, and that one too once it is no primary.
    pub fn check(&self, server: &Server) -> Result<(), Failure> {
        let is_registered = server.is_primary() && server.is_known_by(&self.server);
        if is_registered || host::skips("guard.proof") {
            return Ok(());
        }
        let detail = format!("role {}, {}", server.role, server.identity());
        Err(Failure::new(Reason::Identity, detail))
    }

    /// The same of the answer to BUMP for one who ended a former run's table: it has no generation.
    pub fn check_told(
        &self,
        server: &Server,
        found: &Generations,
        is_former: bool,
    ) -> Result<(), Failure> {
        if is_former { self.check(server) } else { self.check_settled(server, found) }
    }

    /// Refuses an answer to BUMP of another server, or of a table of another generation.
    pub fn check_settled(&self, server: &Server, found: &Generations) -> Result<(), Failure> {
        self.check(server)?;
        let ours = tagtable::generation_text(self.generation);
        match found.iter().all(|found| found.as_deref() == Some(&ours[..])) {
            true => Ok(()),
            false => Err(Failure::new(Reason::Generation, "the tag table is not ours")),
        }
    }

    /// The bucket of a tag, for readers.
    pub fn bucket(&self, tag: Tag) -> Bucket {
        match self.home {
            Home::Redis => tag.bucket(self.buckets),
            Home::Memory => tags::bucket(tag),
        }
    }

    /// The buckets of these tags in Redis, each once: those that writers have to bump there.
    pub fn buckets_of(&self, tags: impl Iterator<Item = Tag>) -> Vec<Bucket> {
        match self.home {
            Home::Redis => each_once(tags.map(|tag| tag.bucket(self.buckets))),
            Home::Memory => Vec::new(),
        }
    }
}

/// These buckets, each once.
pub fn each_once(buckets: impl Iterator<Item = Bucket>) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = buckets.collect();
    buckets.sort_unstable();
    buckets.dedup();
    buckets
}

/// A row's bytes and what they say.
struct Decoded {
    bytes: Vec<u8>,
    registration: Option<Rc<Registration>>,
}

thread_local! {
    /// The last row: it changes about never, and is read at every call.
    static LAST: RefCell<Option<Decoded>> = const { RefCell::new(None) };
    /// The generation that was found alive, and whether this server was a standby then.
    static ALIVE: Cell<Option<(u128, bool)>> = const { Cell::new(None) };
}

/// The registration that the snapshot sees, for a writer that holds the lock already: opened in the
/// same mode, for which nobody who waits behind us is in the way. A table that cannot be opened is
/// not one without a row: taken for that, the writer would tell nobody of its changes.
pub fn seen_by_writer(snapshot: &Snapshot) -> Result<Option<Rc<Registration>>, Failure> {
    let table = open_for(WRITE_LOCK, |tables| tables.server)
        .ok_or_else(|| Failure::new(Reason::Timeout, "redis_server is locked"))?;
    let found = snapshot.first(&table, decoded).flatten();
    Ok(found.filter(|found| found.is_made()))
}

/// The registration that the snapshot sees.
pub fn seen(snapshot: &Snapshot) -> Option<Rc<Registration>> {
    let table = open(|tables| tables.server)?;
    snapshot.first(&table, decoded)?
}

/// What stands before every key of this database, as of this moment; where PostgreSQL takes no new
/// snapshots, as of the statement's. In a copy of a database, as in the one that it was made from:
/// whoever registers the copy keeps it.
pub fn prefix() -> Option<Vec<u8>> {
    let fresh = Fresh::try_push();
    let snapshot = fresh.as_ref().map_or_else(Snapshot::active, |fresh| fresh.snapshot);
    let table = open(|tables| tables.server)?;
    snapshot.first(&table, prefix_of)?
}

/// The same, waiting for it as long as a commit may. VACUUM FULL may hold the table that says so
/// for longer: then nobody knows what the keys are called, and it is an error. `None`: the
/// extension is gone with this transaction.
pub fn prefix_in_time() -> Outcome<Option<Vec<u8>>> {
    let limit = Duration::from_millis(guc::commit_timeout_ms());
    let found = host::until(limit, || match prefix() {
        Some(prefix) => Some(Some(prefix)),
        None => is_gone().then_some(None),
    });
    let detail = "No registration of this database can be read.";
    found.ok_or_else(|| Error::Unsettled { detail: detail.to_owned() }.into())
}

/// The registration that the snapshot sees, if a reader may use it.
pub fn usable(snapshot: &Snapshot) -> Result<Rc<Registration>, Reason> {
    let registration = standing(snapshot)?;
    check_reach(snapshot, &registration)?;
    Ok(registration)
}

/// The registration that the snapshot sees, if it is one that writers tell of their changes.
pub fn standing(snapshot: &Snapshot) -> Result<Rc<Registration>, Reason> {
    let table = open(|tables| tables.server).ok_or(Reason::Unregistered)?;
    let found = snapshot.first(&table, |row| (decoded(row), row.is_replaced()));
    let (registration, is_replaced) = found.ok_or(Reason::Unregistered)?;
    let registration = registration.filter(|found| found.is_made()).ok_or(Reason::Unregistered)?;
    // Once another is registered, nobody tells this one's table of changes. What its snapshot does
    // not see of them does not matter, but for commands that leave it: see `owes`.
    if is_replaced && !is_registered(&table, registration.generation) {
        return Err(Reason::Generation);
    }
    Ok(registration)
}

/// Refuses a registration that this server cannot use, whatever its tables say. Asked after the
/// snapshot was taken.
pub fn check_reach(snapshot: &Snapshot, registration: &Registration) -> Result<(), Reason> {
    if is_former(snapshot, registration) {
        return Err(Reason::Unregistered);
    }
    let is_out_of_reach = registration.home == Home::Memory && wal::is_standby();
    if is_out_of_reach { Err(Reason::PrimaryMemory) } else { Ok(()) }
}

/// Whether this generation is the registered one as of this moment; where PostgreSQL takes no new
/// snapshots, nobody knows.
fn is_registered(table: &Table, generation: u128) -> bool {
    Fresh::try_push().is_some_and(|fresh| {
        let now = fresh.snapshot.first(table, decoded).flatten();
        now.is_some_and(|now| now.generation == generation)
    })
}

/// Whether a registration that the snapshot sees is one of a former run or timeline of this server.
pub fn is_former(snapshot: &Snapshot, registration: &Registration) -> bool {
    registration.timeline != wal::timeline() || !is_alive(snapshot, registration.generation)
}

/// Why a reader may not use the registration that the snapshot sees, in words.
pub fn flaw(snapshot: &Snapshot) -> Option<&'static str> {
    let Some(registration) = seen(snapshot) else {
        return Some("there is no registration of this database in this cluster");
    };
    if !registration.is_made() {
        return Some("no Redis server is registered yet");
    }
    if registration.timeline != wal::timeline() {
        return Some("registered on another timeline: this server was promoted or recovered");
    }
    let is_alive = is_alive(snapshot, registration.generation);
    (!is_alive).then_some("registered before the last start of this server")
}

/// Whether the generation was registered, or found good, by this run of the server: not so after a
/// crash, which may lose commits and hand out their ids again, nor in a copy of the files. An
/// unlogged table cannot be read on a standby, and need not be: nothing is lost there.
fn is_alive(snapshot: &Snapshot, generation: u128) -> bool {
    let is_standby = wal::is_standby();
    if ALIVE.get() == Some((generation, is_standby)) {
        return true;
    }
    let alive = is_standby
        || host::skips("guard.alive")
        || open(|tables| tables.alive).is_some_and(|table| {
            let seen = snapshot.first(&table, |row| {
                let [_, alive, started] = row.values();
                alive.map(text::uuid) == Some(generation)
                    && started.map(Datum::value) == Some(host::started_at().value())
            });
            seen == Some(true)
        });
    if alive {
        ALIVE.set(Some((generation, is_standby)));
    }
    alive
}

/// Locks all the tables for writing until the transaction ends, if nobody is in the way: a worker
/// that waits for DROP EXTENSION with one of them in hand would be a deadlock. Gives the oid of
/// `redis_server`.
pub fn lock_all() -> Option<Oid> {
    let tables = Tables::find()?;
    let all: [fn(&Tables) -> Oid; 3] =
        [|tables| tables.server, |tables| tables.alive, |tables| tables.debt];
    for which in all {
        open_for(WRITE_LOCK, which)?.keep_lock();
    }
    Some(tables.server)
}

/// Takes the lock that tells the worker of a writer, if nobody is in the way, and keeps it until
/// the transaction ends.
pub fn lock_for_writing() -> bool {
    lock_to_the_end(|tables| tables.server)
}

/// The same for what is to be sent: the worker does not go while somebody may yet commit some.
pub fn lock_outbox() -> bool {
    lock_to_the_end(|tables| tables.outbox)
}

fn lock_to_the_end(which: impl Fn(&Tables) -> Oid) -> bool {
    open_for(WRITE_LOCK, which).map(Table::keep_lock).is_some()
}

/// The oid of `redis_server`.
pub fn server_table() -> Option<Oid> {
    Tables::find().map(|tables| tables.server)
}

/// The outbox and the index by which it is ordered, if they can be had without a wait.
pub fn open_outbox(lock: u32) -> Option<(Table, Table)> {
    let table = open_for(lock, |tables| tables.outbox)?;
    // REINDEX may hold the index, or have put another in its place.
    let index = open(|tables| tables.outbox_index)?;
    Some((table, index))
}

/// What was acknowledged, and the index by which it is found, if they can be had without a wait.
pub fn open_job_done(lock: u32) -> Option<(Table, Table)> {
    let table = open_for(lock, |tables| tables.job_done)?;
    let index = open(|tables| tables.job_done_index)?;
    Some((table, index))
}

/// The oid of `redis_outbox`, as it is remembered.
pub fn outbox_table() -> Option<Oid> {
    Tables::known().map(|tables| tables.outbox)
}

/// Whether the extension stands in this database, as far as this backend remembers.
pub fn is_installed() -> bool {
    Tables::find().is_some()
}

/// Whether it is gone, dropped by this very transaction at the latest.
pub fn is_gone() -> bool {
    Tables::find_again().is_none()
}

fn open(which: impl Fn(&Tables) -> Oid) -> Option<Table> {
    open_for(READ_LOCK, which)
}

fn open_for(lock: u32, which: impl Fn(&Tables) -> Oid) -> Option<Table> {
    let tables = Tables::find()?;
    Table::try_open(which(&tables), lock).or_else(|| {
        // Locked, or the extension was dropped and created again.
        let again = Tables::find_again().filter(|again| *again != tables)?;
        Table::try_open(which(&again), lock)
    })
}

fn decoded(row: &Row) -> Option<Rc<Registration>> {
    let known = LAST.with_borrow(|last| match last {
        Some(last) if last.bytes == row.bytes() => Some(last.registration.clone()),
        _ => None,
    });
    if let Some(registration) = known {
        return registration;
    }
    let registration = decode(row).map(Rc::new);
    let decoded = Decoded { bytes: row.bytes().to_vec(), registration: registration.clone() };
    LAST.set(Some(decoded));
    registration
}

/// Whatever database the row is of.
fn prefix_of(row: &Row) -> Option<Vec<u8>> {
    let [_, _, _, _, _, _, prefix] = row.values();
    prefix.map(|prefix| text::owned(prefix).into_bytes())
}

fn decode(row: &Row) -> Option<Registration> {
    let values = row.values::<13>();
    let [_, system, database, generation, servers, timeline, prefix, buckets, ..] = values;
    let [.., shards, format, _, secret, home] = values;
    let (own_system, own_database) = identity::origin();
    let is_ours = system?.value() as u64 == own_system && database?.value() as u32 == own_database;
    if !is_ours || format?.value() as i32 != FORMAT || shards?.value() as i32 != 1 {
        return None;
    }
    Some(Registration {
        generation: text::uuid(generation?),
        server: text::owned(servers?),
        timeline: timeline?.value() as u64,
        prefix: text::owned(prefix?).into_bytes(),
        buckets: u32::try_from(buckets?.value() as i32).ok().filter(|count| *count > 0)?,
        home: Home::of(&text::owned(home?))?,
        table: tagtable::key(own_system, own_database, 0),
        book: token::book(own_system, own_database, 0),
        secret: Secret::of(&text::owned(secret?)),
    })
}
