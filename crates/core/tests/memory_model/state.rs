//! Owns what there is: PostgreSQL's transactions, tables and shared memory, Redis, and how far
//! everybody has come.
//!
//! Invariant: a state holds everything that decides what can happen next, and nothing else; what is
//! over is set back to nothing, so that states which go on alike are one.

use crate::world::{Guard, READERS, WRITERS, World};

/// A transaction ID. Xid 1 registered the first generation.
pub type Xid = u8;

/// The value under a key that is not there.
pub const ABSENT: u8 = 0xff;

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

/// A bucket of the table in shared memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Cell {
    pub version: u8,
    pub xids: Xids,
    pub held: (Xid, Xid),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Home {
    /// Readers look at a table in Redis, and writers tell it, too.
    Redis,
    #[default]
    Memory,
}

/// Which server, and which of its lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    pub server: u8,
    pub epoch: u8,
}

/// A version of the row in `redis_server`: generation n is the n-th.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Registration {
    pub xid: Xid,
    pub identity: Identity,
    pub home: Home,
}

pub const GENERATIONS: usize = 4;

/// What is owed for a writer: one row of `redis_debt`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Debt {
    /// Who wrote it: the writer itself, or the worker in its place. 0: nobody.
    pub owner: Xid,
    /// The transaction that deleted it, once committed.
    pub payer: Xid,
}

/// What stands under the key and beside it. A value is the set of writers that it shows, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    pub value: u8,
    pub generation: u8,
    pub version: u8,
}

pub const NO_ENTRY: Entry = Entry { value: ABSENT, generation: 0, version: 0 };

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Data {
    pub entry: Entry,
    /// 0: nobody's.
    pub lease: u8,
    /// The generations whose entries a sweep finds, as bits.
    pub remembered: u8,
    /// The bucket in the first generation's table.
    pub table: Option<Cell>,
}

pub const NO_DATA: Data = Data { entry: NO_ENTRY, lease: 0, remembered: 0, table: None };

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Server {
    pub data: Data,
    pub epoch: u8,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum WriterAt {
    #[default]
    New,
    /// Has its snapshot, and the lock.
    Begun,
    List,
    Delete,
    End,
    Prepared,
    /// Committed, its locks are free, and COMMIT has not returned.
    Confirm,
    Over,
}

/// Where the deletion that a writer sent is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Flight {
    #[default]
    None,
    Sent(Identity),
    Executed(Identity),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Writer {
    pub at: WriterAt,
    pub xid: Xid,
    pub snapshot: Snapshot,
    pub generation: u8,
    /// Its generation has a table in Redis.
    pub is_told_there: bool,
    pub has_listed: bool,
    /// Or has told the table in Redis, and deleted.
    pub has_deleted: bool,
    pub owes: bool,
    pub flight: Flight,
    /// COMMIT has returned to the client.
    pub has_returned: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ReaderAt {
    #[default]
    New,
    List,
    Entry,
    Lease,
    ListAgain,
    Fill,
    Done,
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
    pub holds_lease: bool,
    pub entry: Entry,
    pub version: u8,
}

pub const NEW_READER: Reader = Reader {
    at: ReaderAt::New,
    calls: 0,
    snapshot: Snapshot { running: Xids(0), next: 0 },
    expected: 0,
    generation: 0,
    server: 0,
    holds_lease: false,
    entry: NO_ENTRY,
    version: 0,
};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum WorkerAt {
    #[default]
    Idle,
    Remember,
    Register,
    Adopt,
    Forget,
    PayList,
    PayDelete,
    PayCommit,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Worker {
    pub at: WorkerAt,
    pub xid: Xid,
    pub snapshot: Snapshot,
    pub generation: u8,
    pub registration: Registration,
    /// What it adopts or pays, as bits of writers.
    pub debts: u8,
    pub has_listed: bool,
    pub has_deleted: bool,
}

/// How much has happened of what a world allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Used {
    pub switches: u8,
    pub crashes: u8,
    pub losses: u8,
    pub saves: u8,
    pub restarts: u8,
    pub moves: u8,
    pub expiries: u8,
    pub silences: u8,
    pub deaths: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    pub next: Xid,
    pub running: Xids,
    pub committed: Xids,
    /// Committed or aborted, and of these whose end is on disk.
    pub finished: Xids,
    pub durable: Xids,
    pub registrations: [Registration; GENERATIONS],
    pub generations: u8,
    /// The first generation that was registered since PostgreSQL started.
    pub alive_from: u8,
    pub debts: [Debt; WRITERS],
    /// In shared memory: the table, and names of keys that were left to the worker, as bits of the
    /// writers who left them.
    pub cell: Cell,
    pub lost: u8,
    /// What the setting says.
    pub wanted: Home,
    pub servers: [Server; 2],
    /// What Redis has saved.
    pub saved: Data,
    /// The server that everybody is meant to use.
    pub head: u8,
    /// Writers for whom S2 waits for a sweep, as bits.
    pub unswept: u8,
    pub writers: [Writer; WRITERS],
    pub readers: [Reader; READERS],
    pub worker: Worker,
    pub used: Used,
}

impl State {
    /// The first generation is registered, and alive.
    pub fn first(world: &World) -> State {
        let entry = Entry { value: 0, generation: 0, version: 0 };
        let entry = if world.filled { entry } else { NO_ENTRY };
        let table = (world.home == Home::Redis).then(Cell::default);
        let data = Data { entry, lease: 0, remembered: 1, table };
        let first = Registration { xid: 1, home: world.home, ..Registration::default() };
        let mut registrations = [Registration::default(); GENERATIONS];
        registrations[0] = first;
        State {
            next: 2,
            running: Xids(0),
            committed: Xids(0b10),
            finished: Xids(0b10),
            durable: Xids(0b10),
            registrations,
            generations: 1,
            alive_from: 0,
            debts: [Debt::default(); WRITERS],
            cell: Cell::default(),
            lost: 0,
            wanted: world.home,
            servers: [Server { data, epoch: 0 }; 2],
            saved: data,
            head: 0,
            unswept: 0,
            writers: [Writer::default(); WRITERS],
            readers: [NEW_READER; READERS],
            worker: Worker::default(),
            used: Used::default(),
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot { running: self.running, next: self.next }
    }

    pub fn assign(&mut self) -> Xid {
        let xid = self.next;
        assert!(xid < 31, "more transactions than the model has numbers for");
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

    pub fn abort(&mut self, xid: Xid) {
        self.running.remove(xid);
        self.finished.add(xid);
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

    pub fn home(&self, generation: u8) -> Home {
        self.registrations[generation as usize].home
    }

    pub fn is_alive(&self, world: &World, generation: u8) -> bool {
        generation >= self.alive_from || !world.has(Guard::Alive)
    }

    /// The writers for whom a snapshot sees a debt, as bits.
    pub fn debts_under(&self, snapshot: &Snapshot) -> u8 {
        let is_seen = |writer: &usize| {
            let Debt { owner, payer } = self.debts[*writer];
            let is_paid = payer != 0 && self.sees(snapshot, payer);
            owner != 0 && self.sees(snapshot, owner) && !is_paid
        };
        (0..WRITERS).filter(is_seen).fold(0, |bits, writer| bits | 1 << writer)
    }

    pub fn identity(&self, server: u8) -> Identity {
        Identity { server, epoch: self.servers[server as usize].epoch }
    }

    /// Whether a client of this server finds the one that a generation was registered with.
    pub fn is_proven(&self, generation: u8, server: u8) -> bool {
        self.registrations[generation as usize].identity == self.identity(server)
    }

    pub fn data(&mut self, server: u8) -> &mut Data {
        &mut self.servers[server as usize].data
    }

    /// DEL of value, sidecar and lease.
    pub fn delete(&mut self, world: &World, server: u8) {
        let data = self.data(server);
        data.entry = NO_ENTRY;
        if world.has(Guard::DeleteLease) {
            data.lease = 0;
        }
    }

    /// The writers that have committed, as bits.
    pub fn committed_writers(&self) -> u8 {
        self.writers_where(|writer| writer.xid != 0 && self.committed.has(writer.xid))
    }

    pub fn writers_where(&self, is_meant: impl Fn(&Writer) -> bool) -> u8 {
        let meant = |place: &usize| is_meant(&self.writers[*place]);
        (0..WRITERS).filter(meant).fold(0, |bits, place| bits | 1 << place)
    }
}
