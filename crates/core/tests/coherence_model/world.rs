//! Owns the configurations: who takes part, what may go wrong how often, and which guards are off.
//!
//! Invariant: everything that a configuration allows is explored in every order. So a world must be
//! small, and what it leaves out is written in its name rather than assumed.

pub const WRITERS: usize = 3;
pub const READERS: usize = 3;
pub const KEYS: usize = 2;

/// The fields of the tag table that the model uses.
pub const FIELDS: usize = 5;
pub const CATALOGUE: u8 = 0;
pub const A: u8 = 1;
pub const B: u8 = 2;

/// The field of a key's own tag.
pub const fn key_field(key: u8) -> u8 {
    3 + key
}

/// What a transaction does, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Changes rows of a relation, and notes its tag.
    Write(u8),
    /// A trigger names a key.
    Name(u8),
    /// DDL that changes every result; notes the catalogue tag.
    Schema,
    Savepoint,
    Release,
    RollBack,
    /// Too many keys are pending: they are settled at once.
    Settle,
    /// By experience the commit is near: what is noted is told ahead of it, without the lock.
    Ahead,
    /// Reads through the cache in a transaction that has an xid.
    Read(u8),
    /// The transaction ends by PREPARE, and somebody else decides about it later. Always the last.
    Prepare,
}

/// A backend that reads one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    pub key: u8,
    /// Its snapshots are those of a standby: by the order of commit records.
    pub standby: bool,
    /// Statements in a row, each under a snapshot of its own.
    pub calls: u8,
}

/// Whether there is another Redis, or another state of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Second {
    None,
    /// A replica that is as far behind as it likes, and may be promoted.
    Replica,
    /// An RDB file, from which Redis may be restarted.
    Rdb,
}

/// A rule of the protocol that can be taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// A hit needs every listed xid complete in S.
    HitCheck,
    /// So does a fill.
    FillCheck,
    /// The base belongs to every list.
    Base,
    /// The table's generation must be the registered one.
    Generation,
    /// So must that of the sidecar.
    SidecarGeneration,
    /// An entry counts only while its dependencies have the versions that it was filled with.
    Version,
    /// A sidecar binds one value.
    Binding,
    /// The versions that a fill stores are read after the lease was taken.
    LookAgain,
    /// A query depends on the tag of its own key.
    KeyTag,
    /// A fill needs its token in the lease.
    Token,
    /// A fill does not replace what another program put there.
    FillSparesForeign,
    /// Readers compute where they see a debt.
    Debt,
    /// On a primary a generation counts only while it is alive.
    Alive,
    /// Readers prove the identity of their server.
    ReaderProof,
    /// The proof is asked for behind the data, not before.
    ProofLast,
    /// WAL is flushed before a fill.
    Flush,
    /// Who has an xid computes.
    OwnXid,
    /// A new version of the catalogue makes a backend look at the schema anew.
    Catalogue,
    /// It uses nothing before those who changed the schema have let go of their locks.
    CatalogueWait,
    /// A version of the catalogue that was seen counts in its generation only.
    CatalogueGeneration,
    /// BUMP keeps the writers that are in progress in P.
    KeepList,
    /// P is taken after the lock, not the transaction's own snapshot.
    FreshP,
    /// The lock comes before P.
    LockFirst,
    /// BUMP goes to a table of any generation, and makes a stub where there is none.
    Spoil,
    /// Who bumped a table of another generation owes.
    OweGeneration,
    /// Who could not prove the server owes.
    OweProof,
    /// Who got no reply owes.
    OweSilence,
    /// A prepared transaction owes.
    OwePrepared,
    /// It does so in a generation too that was never made, where others need not.
    OwePreparedFresh,
    /// A prepared transaction that settled keys in mid-transaction owes them again.
    OwePreparedSettled,
    /// Who failed to settle in mid-transaction owes all keys.
    Coarse,
    /// A change of the schema waits for the messages of those that it drops from the list.
    MessagesPass,
    /// BUMP drops nobody from the lists of another generation: after a crash, xids mean other
    /// transactions.
    OwnGeneration,
    /// BUMP comes before DEL.
    BumpFirst,
    /// DEL takes the lease too.
    DeleteLease,
    /// So does every other writer of ours under the key.
    StoreDeletesLease,
    /// The lock of a settlement in mid-transaction outlives ROLLBACK TO.
    LockKept,
    /// What was told ahead of the commit counts in the generation of the commit's P only.
    AheadGeneration,
    /// It counts only if the server proved itself behind it.
    AheadProof,
    /// It counts only if it tells all that is owed.
    AheadCovers,
    /// ROLLBACK TO takes away the notes of its own level only.
    RollBackLevel,
    /// The worker makes a table only while its claim stands.
    Claim,
    /// It waits for everybody who holds the lock.
    Lockers,
    /// The base is committed after the lockers are gone.
    BaseAfterLockers,
    /// It keeps the lists.
    KeepLists,
    /// It drops the xids of the future from the lists of before its claim only.
    PruneBefore,
    /// Debts are paid with a BUMP.
    PayBump,
    /// Only a proven server does.
    PayProof,
}

/// One configuration.
#[derive(Debug, Clone, Copy)]
pub struct World {
    pub writers: &'static [&'static [Op]],
    pub readers: &'static [Reading],
    /// The relations that each key depends on, as bits of their fields.
    pub keys: [u8; KEYS],
    /// The keys that every writer of their relations names, as bits: S2 is promised for them.
    pub named: u8,
    /// The keys have been filled already, and nothing was written since.
    pub filled: bool,
    /// No worker has come since the extension was installed: no server is registered.
    pub is_fresh: bool,
    /// Redis has lost a table in which the catalogue had version 1, which all readers have seen.
    pub has_lost: bool,
    pub without: &'static [Guard],
    pub second: Second,
    /// Commits may be lost by a crash until WAL is flushed.
    pub asynchronous: bool,
    /// A commit record is written some time before the commit is visible on the primary.
    pub records: bool,
    /// The worker drops xids from lists that are not assigned yet.
    pub prunes: bool,
    /// How often Redis may lose something.
    pub losses: u8,
    /// How often a lease may expire.
    pub expiries: u8,
    /// How often the worker may make the table anew.
    pub makes: u8,
    /// How often it may begin to pay.
    pub pays: u8,
    /// How often it may die, and be started again.
    pub deaths: u8,
    /// How often a writer may find Redis unreachable; its commands may arrive later.
    pub silences: u8,
    /// How often a replica may be promoted, or Redis restarted from its RDB.
    pub failovers: u8,
    /// How often the replica catches up, or the RDB is written.
    pub copies: u8,
    pub crashes: u8,
    /// How often PostgreSQL may be replaced by a cold backup from the beginning.
    pub restores: u8,
    /// Transactions that have an xid and nothing to do with the cache, and leave nothing on disk.
    pub bystanders: u8,
    /// So many of them were over before the beginning.
    pub bystanders_before: u8,
    /// How often another writer of ours puts or deletes something under a key.
    pub stores: u8,
    /// How often another program does so, which knows nothing of leases.
    pub strangers: u8,
    /// How long a reader waits for another's fill, in pauses.
    pub waits: u8,
    /// Explores no more states than this: one over it is a failure.
    pub states_max: usize,
}

pub const K0: Reading = Reading { key: 0, standby: false, calls: 1 };
pub const K1: Reading = Reading { key: 1, standby: false, calls: 1 };
pub const STANDBY: Reading = Reading { key: 0, standby: true, calls: 1 };
pub const TWICE: Reading = Reading { key: 0, standby: false, calls: 2 };
pub const THRICE: Reading = Reading { key: 0, standby: false, calls: 3 };

/// Writes the relation and names the key that depends on it.
pub const PLAIN: &[Op] = &[Op::Write(A), Op::Name(0)];

/// Nobody takes part and nothing goes wrong.
pub const CALM: World = World {
    writers: &[],
    readers: &[],
    keys: [1 << A, 1 << B],
    named: 1,
    filled: false,
    is_fresh: false,
    has_lost: false,
    without: &[],
    second: Second::None,
    asynchronous: false,
    records: false,
    prunes: false,
    losses: 0,
    expiries: 0,
    makes: 0,
    pays: 0,
    deaths: 0,
    silences: 0,
    failovers: 0,
    copies: 0,
    crashes: 0,
    restores: 0,
    bystanders: 0,
    bystanders_before: 0,
    stores: 0,
    strangers: 0,
    waits: 0,
    states_max: 20_000_000,
};

impl World {
    pub fn has(&self, guard: Guard) -> bool {
        !self.without.contains(&guard)
    }

    /// The servers that a client may be connected to.
    pub fn servers(&self) -> std::ops::Range<usize> {
        0..if self.second == Second::Replica { 2 } else { 1 }
    }

    /// What a transaction has changed when it commits, as bits of fields: what was rolled back to
    /// a savepoint never happened.
    pub fn effect(&self, writer: usize) -> u8 {
        let mut levels = vec![0u8];
        for op in self.writers[writer] {
            match op {
                Op::Write(field) => *levels.last_mut().unwrap() |= 1 << field,
                Op::Schema => *levels.last_mut().unwrap() |= 1 << CATALOGUE,
                Op::Savepoint => levels.push(0),
                Op::Release => {
                    let released = levels.pop().unwrap();
                    *levels.last_mut().unwrap() |= released;
                }
                Op::RollBack => {
                    levels.pop();
                }
                _ => {}
            }
        }
        assert_eq!(levels.len(), 1, "savepoints that are left open");
        levels[0]
    }

    /// The writers whose commit changes the value of a key, as bits.
    pub fn writers_of(&self, key: usize) -> u8 {
        let depends = self.keys[key] | 1 << CATALOGUE;
        let of = |writer: &usize| self.effect(*writer) & depends != 0;
        (0..self.writers.len()).filter(of).fold(0, |bits, writer| bits | 1 << writer)
    }

    /// The writers that change the schema, as bits.
    pub fn schema_writers(&self) -> u8 {
        let of = |writer: &usize| self.effect(*writer) & 1 << CATALOGUE != 0;
        (0..self.writers.len()).filter(of).fold(0, |bits, writer| bits | 1 << writer)
    }

    /// The fields that a query of this key depends on, the catalogue first.
    pub fn wanted(&self, key: u8) -> Vec<u8> {
        let mut fields = vec![CATALOGUE];
        fields.extend([A, B].into_iter().filter(|field| self.keys[key as usize] & 1 << field != 0));
        if self.has(Guard::KeyTag) {
            fields.push(key_field(key));
        }
        fields
    }
}
