//! Owns the configurations: who takes part, what may go wrong how often, and which guards are off.
//!
//! Invariant: everything that a configuration allows is explored in every order. So a world must be
//! small, and what it leaves out is written in its name rather than assumed.

use crate::state::Home;

pub const WRITERS: usize = 3;
pub const READERS: usize = 2;

/// A transaction that changes the one table of the model, whose one query has the one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writing {
    /// A trigger names the key.
    pub names: bool,
    /// It ends by PREPARE, and somebody else decides about it later.
    pub prepares: bool,
}

/// A backend that reads the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Statements in a row.
    pub calls: u8,
    /// All under the snapshot of the first: REPEATABLE READ.
    pub keeps: bool,
}

/// A rule of the protocol that can be taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// P is a fresh snapshot, not the own one of the transaction.
    FreshP,
    /// A writer lists itself.
    Listing,
    /// Before its commit record.
    ListFirst,
    /// Whatever is registered.
    ListAlways,
    /// It drops from the list only who is complete in its snapshot.
    KeepList,
    /// And lets go of what the bucket holds only if all of that is.
    KeepHeld,
    /// Which server counts for it, it reads behind its listing, not under the snapshot of before.
    RegistrationLast,
    /// A hit needs every listed writer complete in S.
    HitCheck,
    /// So does a fill.
    FillCheck,
    /// Both need those complete that the bucket holds.
    HeldRange,
    /// An entry counts only while its bucket has the version that it was filled with.
    Version,
    /// And in its own generation.
    SidecarGeneration,
    /// A generation counts in the run of the server that registered it.
    Alive,
    /// The versions that a fill stores are read behind the lease.
    LookAgain,
    /// A fill needs its token in the lease.
    Token,
    /// WAL is flushed before a fill.
    Flush,
    /// Readers compute where a debt is owed.
    Debt,
    /// Readers prove the identity of their server.
    ReaderProof,
    /// A key is deleted behind the listing.
    DeleteBehind,
    /// Its lease goes with it.
    DeleteLease,
    /// The deletion is confirmed before COMMIT returns.
    Confirm,
    /// By the server that is registered.
    WriterProof,
    /// Names of keys whose deletion is not confirmed are left to the worker.
    LeaveNames,
    /// A key that could not be deleted before the commit record is owed.
    OweSilence,
    /// A prepared transaction owes.
    PrepareOwes,
    /// The worker forgets what was left once that is owed.
    ForgetLast,
    /// A debt is paid under an id that is listed.
    PayBump,
    /// Its key is deleted behind that.
    PayDeleteBehind,
    /// On the registered server.
    PayProof,
    /// Redis knows of a generation before anybody can fill an entry of it.
    RememberFirst,
    /// And is told of the one before once more: it may have lost what it knew.
    RememberFormer,
    /// A sweep forgets none of them.
    RememberLong,
    /// A table in Redis is no generation's any more before one in memory is registered.
    EndTable,
    /// Entries of former generations are swept away.
    Sweep,
}

/// One configuration.
#[derive(Debug, Clone, Copy)]
pub struct World {
    pub writers: &'static [Writing],
    pub readers: &'static [Reading],
    pub without: &'static [Guard],
    /// The key has been filled already, and nothing was written since.
    pub filled: bool,
    /// A bucket has room for one writer.
    pub narrow: bool,
    /// Commits may be lost by a crash until WAL is flushed.
    pub asynchronous: bool,
    /// Where readers look in the first generation. Only that one ever has a table in Redis.
    pub home: Home,
    /// How often the setting moves the table into memory, or out of it.
    pub switches: u8,
    pub crashes: u8,
    /// How often Redis loses everything.
    pub losses: u8,
    /// How often it saves what it has, and how often it restarts from that.
    pub saves: u8,
    pub restarts: u8,
    /// How often everybody is told to use another Redis; the old one goes on.
    pub moves: u8,
    pub expiries: u8,
    /// How often a writer gets no answer.
    pub silences: u8,
    /// How often the worker may die, and be started again.
    pub deaths: u8,
}

pub const MUTE: Writing = Writing { names: false, prepares: false };
pub const PLAIN: Writing = Writing { names: true, prepares: false };
pub const PREPARED: Writing = Writing { names: true, prepares: true };

pub const ONCE: Reading = Reading { calls: 1, keeps: false };
pub const TWICE: Reading = Reading { calls: 2, keeps: false };
pub const REPEATABLE: Reading = Reading { calls: 2, keeps: true };

/// Nobody takes part and nothing goes wrong.
pub const CALM: World = World {
    writers: &[],
    readers: &[],
    without: &[],
    filled: false,
    narrow: false,
    asynchronous: false,
    home: Home::Memory,
    switches: 0,
    crashes: 0,
    losses: 0,
    saves: 0,
    restarts: 0,
    moves: 0,
    expiries: 0,
    silences: 0,
    deaths: 0,
};

impl World {
    pub fn has(&self, guard: Guard) -> bool {
        !self.without.contains(&guard)
    }

    /// The servers that a client may be connected to.
    pub fn servers(&self) -> std::ops::Range<u8> {
        0..if self.moves > 0 { 2 } else { 1 }
    }

    /// The writers that name the key, as bits.
    pub fn naming(&self) -> u8 {
        let names = |place: &usize| self.writers[*place].names;
        (0..self.writers.len()).filter(names).fold(0, |bits, place| bits | 1 << place)
    }
}
