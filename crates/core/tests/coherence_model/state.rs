//! Owns what there is: PostgreSQL's transactions and tables, Redis, and how far everybody has come.
//!
//! Invariant: a state holds everything that decides what can happen next, and nothing else; what is
//! over is set back to nothing, so that states which go on alike are one.

use crate::world::{FIELDS, KEYS, READERS, WRITERS, World};

/// A transaction ID. Xid 1 installed the extension, xid 2 made the first table.
pub type Xid = u8;

pub const INSTALLER: Xid = 1;
pub const FIRST_BASE: Xid = 2;
/// The xid of a row whose transaction was lost by a crash.
pub const NEVER: Xid = 31;

/// What nobody may see: the value under a key that is not there.
pub const ABSENT: u8 = 0xff;
/// A value that another program put there.
pub const FOREIGN: u8 = 0xfe;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Xids(pub u32);

impl Xids {
    pub fn has(self, xid: Xid) -> bool {
        self.0 & 1 << xid != 0
    }

    pub fn add(&mut self, xid: Xid) {
        self.0 |= 1 << xid;
    }

    pub fn remove(&mut self, xid: Xid) {
        self.0 &= !(1 << xid);
    }

    pub fn iter(self) -> impl Iterator<Item = Xid> {
        (0..32).filter(move |xid| self.has(*xid))
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Snapshot {
    pub running: Xids,
    pub next: Xid,
}

impl Snapshot {
    pub fn is_complete(&self, xid: Xid) -> bool {
        xid < self.next && !self.running.has(xid)
    }
}

/// A server as registered: which one, and its replication id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    pub server: u8,
    pub epoch: u8,
}

/// The extension is installed, and no server is registered yet.
pub const NOBODY: Identity = Identity { server: 9, epoch: 0 };

/// A version of the row in `redis_server`: generation n is the n-th.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Registration {
    pub xid: Xid,
    pub identity: Identity,
}

pub const GENERATIONS: usize = 5;

/// What a writer could not settle: rows in `redis_debt`, one for each writer of the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Debt {
    pub tags: u8,
    pub keys: u8,
    /// Keys whose DEL may not have been executed: S2 waits for the payment.
    pub undeleted: u8,
    /// The debt of all keys: paid in two transactions, with the deletion between them.
    pub is_coarse: bool,
    /// The transaction that deleted the rows, once committed.
    pub payer: Xid,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Cell {
    pub version: u8,
    pub xids: Xids,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Table {
    pub generation: Option<u8>,
    /// 0: none.
    pub base: Xid,
    pub counter: u8,
    /// 0: none.
    pub claim: u8,
    /// The value of the counter when the claim was made.
    pub claimed_at: u8,
    pub cells: [Cell; FIELDS],
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Sidecar {
    pub generation: u8,
    pub value: u8,
    pub versions: [u8; FIELDS],
}

/// What stands under a key and beside it. A value is the set of writers that it shows, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    pub value: u8,
    pub sidecar: Option<Sidecar>,
}

pub const NO_ENTRY: Entry = Entry { value: ABSENT, sidecar: None };

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Data {
    pub table: Option<Table>,
    pub entries: [Entry; KEYS],
    /// Tokens; 0: none.
    pub leases: [u8; KEYS],
}

pub const NO_DATA: Data = Data { table: None, entries: [NO_ENTRY; KEYS], leases: [0; KEYS] };

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Server {
    pub data: Data,
    /// Its replication id: a new one with each promotion and each restart.
    pub epoch: u8,
    /// What it takes itself for.
    pub is_master: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum WriterAt {
    #[default]
    New,
    Running,
    Lock,
    Look,
    /// Waits for the messages of schema changes that its BUMP will drop.
    Messages,
    Bump,
    Delete,
    End,
    Prepared,
    /// Its commit record is written; on the primary nobody sees it yet.
    Recorded,
    /// Everybody sees it; its messages are not sent and its locks not released yet.
    Visible,
    Committed,
    Aborted,
}

/// Commands that are still on their way after their client gave up on them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Flight {
    #[default]
    None,
    Bump,
    Delete,
}

/// What was told ahead of the commit, and has arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Told {
    pub generation: u8,
    pub tags: u8,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Writer {
    pub at: WriterAt,
    pub xid: Xid,
    /// How far in its program.
    pub op: u8,
    pub has_lock: bool,
    /// Tells ahead of the commit what is noted so far.
    pub tells_ahead: bool,
    pub told: Option<Told>,
    /// Settles keys in mid-transaction.
    pub settles: bool,
    /// Has settled some.
    pub has_settled: bool,
    /// Has failed to: what was to be deleted is forgotten.
    pub is_coarse: bool,
    /// P; before, the transaction's own snapshot.
    pub snapshot: Snapshot,
    pub generation: u8,
    pub server: u8,
    pub tags: u8,
    pub keys: u8,
    /// Keys of these that are not deleted yet.
    pub keys_left: u8,
    pub bumped: bool,
    /// Found a generation that is not alive, and ends it.
    pub ends: bool,
    pub owes: bool,
    pub flight: Flight,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ReaderAt {
    #[default]
    New,
    Values,
    Tags,
    Proof,
    Lease,
    TagsAgain,
    ProofAgain,
    Fill,
    Done,
}

/// What a look came to, while the proof is awaited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Judged {
    #[default]
    Nothing,
    Hit,
    Miss,
    Foreign,
    Compute,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reader {
    pub at: ReaderAt,
    pub calls: u8,
    pub snapshot: Snapshot,
    /// What the query returns under the snapshot.
    pub expected: u8,
    pub generation: u8,
    pub server: u8,
    pub is_proven: bool,
    pub pauses: u8,
    pub holds_lease: bool,
    /// One of our own writers stored or deleted something under the key after the lease.
    pub overtaken: bool,
    pub entry: Entry,
    pub judged: Judged,
    pub versions: [u8; FIELDS],
    /// The schema changes that this backend's plan knows, as bits of writers.
    pub plan: u8,
    /// The generation and version of the catalogue that the plan is of.
    pub seen: Option<(u8, u8)>,
}

pub const NEW_READER: Reader = Reader {
    at: ReaderAt::New,
    calls: 0,
    snapshot: Snapshot { running: Xids(0), next: 0 },
    expected: 0,
    generation: 0,
    server: 0,
    is_proven: false,
    pauses: 0,
    holds_lease: false,
    overtaken: false,
    entry: NO_ENTRY,
    judged: Judged::Nothing,
    versions: [0; FIELDS],
    plan: 0,
    seen: None,
};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum WorkerAt {
    #[default]
    Idle,
    Register,
    Claim,
    Lockers,
    Wait,
    Base,
    BaseCommit,
    Next,
    Make,
    PayBump,
    PayAll,
    PayAllDelete,
    PayDelete,
    PayCommit,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Worker {
    pub at: WorkerAt,
    pub server: u8,
    pub xid: Xid,
    pub generation: u8,
    pub base: Xid,
    pub nonce: u8,
    pub lockers: u8,
    /// The next xid, read after the claim.
    pub next: Xid,
    pub snapshot: Snapshot,
    pub debts: u8,
}

/// How much has happened of what a world allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Used {
    pub losses: u8,
    pub expiries: u8,
    pub makes: u8,
    pub pays: u8,
    pub deaths: u8,
    pub silences: u8,
    pub failovers: u8,
    pub copies: u8,
    pub crashes: u8,
    pub restores: u8,
    pub bystanders: u8,
    pub stores: u8,
    pub strangers: u8,
    pub claims: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    pub next: Xid,
    pub running: Xids,
    pub committed: Xids,
    /// Committed or aborted.
    pub finished: Xids,
    /// Of these, whose end is on disk.
    pub durable: Xids,
    pub registrations: [Registration; GENERATIONS],
    pub generations: u8,
    /// The first generation that was registered since PostgreSQL started.
    pub alive_from: u8,
    pub debts: [Debt; WRITERS],
    pub servers: [Server; 2],
    /// The server that clients are meant to use.
    pub head: u8,
    pub epochs: u8,
    /// Redis went back to an earlier state, and the sweep has not come by yet: no S2.
    pub is_unswept: bool,
    /// Writers that were lost with all that had been on disk: their values go with the sweep.
    pub lost: u8,
    pub writers: [Writer; WRITERS],
    pub readers: [Reader; READERS],
    pub worker: Worker,
    /// A MAKE of a worker that is dead.
    pub late_make: Option<Worker>,
    pub used: Used,
}

impl State {
    /// The extension is installed, its table made.
    pub fn first(world: &World) -> State {
        let table = Table { generation: Some(0), base: FIRST_BASE, ..Table::default() };
        let server = |data, is_master| Server { data, epoch: 0, is_master };
        let mut data = Data { table: Some(table), ..NO_DATA };
        if world.filled {
            data.entries = [Entry { value: 0, sidecar: Some(Sidecar::default()) }; KEYS];
        }
        let mut first = State {
            next: 3 + world.bystanders_before,
            running: Xids(0),
            committed: Xids(0b110),
            finished: Xids(0b110),
            durable: Xids(0b110),
            registrations: [Registration::default(); GENERATIONS],
            generations: 1,
            alive_from: 0,
            debts: [Debt::default(); WRITERS],
            servers: [server(data, true), server(data, false)],
            head: 0,
            epochs: 0,
            is_unswept: false,
            lost: 0,
            writers: [Writer::default(); WRITERS],
            readers: [NEW_READER; READERS],
            worker: Worker::default(),
            late_make: None,
            used: Used::default(),
        };
        first.registrations[0].xid = INSTALLER;
        if world.is_fresh {
            first.registrations[0].identity = NOBODY;
        }
        if world.has_lost {
            first.readers.iter_mut().for_each(|reader| reader.seen = Some((0, 1)));
        }
        if world.is_fresh || world.has_lost {
            first.servers.iter_mut().for_each(|server| server.data.table = None);
        }
        first
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot { running: self.running, next: self.next }
    }

    pub fn abort(&mut self, xid: Xid) {
        self.running.remove(xid);
        self.finished.add(xid);
    }

    /// What a standby knows: the ends of transactions that are on disk.
    pub fn standby_snapshot(&self) -> Snapshot {
        let mut finished = self.durable;
        for writer in self.writers.iter().filter(|one| one.at == WriterAt::Recorded) {
            finished.add(writer.xid);
        }
        let started = Xids(self.running.0 | self.finished.0);
        let next = finished.iter().max().unwrap_or(0) + 1;
        Snapshot { running: Xids(started.0 & !finished.0 & ((1 << next) - 1)), next }
    }

    pub fn assign(&mut self) -> Xid {
        let xid = self.next;
        assert!(xid < NEVER, "more transactions than the model has numbers for");
        self.next += 1;
        self.running.add(xid);
        xid
    }

    pub fn commit(&mut self, xid: Xid, is_durable: bool) {
        self.running.remove(xid);
        self.committed.add(xid);
        self.finished.add(xid);
        if is_durable {
            self.durable = self.finished;
        }
    }

    fn sees(&self, snapshot: &Snapshot, xid: Xid) -> bool {
        snapshot.is_complete(xid) && self.committed.has(xid)
    }

    /// The registration that a snapshot sees.
    pub fn generation_under(&self, snapshot: &Snapshot) -> u8 {
        let rows = 0..self.generations;
        let seen =
            rows.rev().find(|row| self.sees(snapshot, self.registrations[*row as usize].xid));
        seen.unwrap_or(0)
    }

    /// The writers whose debts a snapshot sees, as bits.
    pub fn debts_under(&self, snapshot: &Snapshot) -> u8 {
        let is_seen = |writer: &usize| {
            let debt = &self.debts[*writer];
            let is_paid = debt.payer != 0 && self.sees(snapshot, debt.payer);
            debt.tags != 0 && self.sees(snapshot, self.writers[*writer].xid) && !is_paid
        };
        (0..WRITERS).filter(is_seen).fold(0, |bits, writer| bits | 1 << writer)
    }

    /// Whether a server was ever registered for a generation.
    pub fn is_made(&self, generation: u8) -> bool {
        self.registrations[generation as usize].identity != NOBODY
    }

    /// Whether a client on this connection finds the server that a generation was registered with.
    pub fn is_proven(&self, generation: u8, server: u8) -> bool {
        let found = &self.servers[server as usize];
        let identity = Identity { server, epoch: found.epoch };
        found.is_master && self.registrations[generation as usize].identity == identity
    }

    /// The writers that have committed, as bits; with `recorded` those too whose commit record is
    /// written although the primary does not show them yet.
    pub fn committed_writers(&self, recorded: bool) -> u8 {
        let is_committed = |writer: &usize| match self.writers[*writer].at {
            WriterAt::Committed | WriterAt::Visible => true,
            WriterAt::Recorded => recorded,
            _ => false,
        };
        (0..WRITERS).filter(is_committed).fold(0, |bits, writer| bits | 1 << writer)
    }
}
