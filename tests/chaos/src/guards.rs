//! The guards of the protocol that a build with the cargo feature `faults` can do without.
//!
//! Owns their names and what brings each one's absence to light. A checker that cannot fail proves
//! nothing: for each guard a test removes it and demands a violation.

use std::time::Duration;

/// Most are found within seconds; the moments that some need come by chance.
const TIME_MAX: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    Hit,
    Fill,
    DropList,
    KeepLease,
    Debt,
    Base,
    Generation,
    Proof,
    OwnXid,
    Savepoint,
    Flush,
    Catalogue,
    Ahead,
    Covers,
    Listing,
}

/// What a run without the guard needs, so that it fails soon.
pub struct Plan {
    pub troubles: &'static [&'static str],
    /// Whether the catalogue changes meanwhile: every entry depends on it, and an old snapshot that
    /// does not see the last change computes, whatever else it does not see.
    pub changes: bool,
    pub standby: bool,
    pub time: Duration,
}

impl Guard {
    pub const ALL: [Guard; 15] = [
        Guard::Hit,
        Guard::Fill,
        Guard::DropList,
        Guard::KeepLease,
        Guard::Debt,
        Guard::Base,
        Guard::Generation,
        Guard::Proof,
        Guard::OwnXid,
        Guard::Savepoint,
        Guard::Flush,
        Guard::Catalogue,
        Guard::Ahead,
        Guard::Covers,
        Guard::Listing,
    ];

    /// As the fault point is called.
    pub fn name(self) -> &'static str {
        match self {
            Guard::Hit => "guard.hit",
            Guard::Fill => "guard.fill",
            Guard::DropList => "guard.droplist",
            Guard::KeepLease => "guard.keeplease",
            Guard::Debt => "guard.debt",
            Guard::Base => "guard.base",
            Guard::Generation => "guard.generation",
            Guard::Proof => "guard.proof",
            Guard::OwnXid => "guard.ownxid",
            Guard::Savepoint => "guard.savepoint",
            Guard::Flush => "guard.flush",
            Guard::Catalogue => "guard.catalogue",
            Guard::Ahead => "guard.ahead",
            Guard::Covers => "guard.covers",
            Guard::Listing => "guard.listing",
        }
    }

    pub fn named(name: &str) -> Option<Guard> {
        Guard::ALL.into_iter().find(|guard| guard.name() == name)
    }

    /// Whether it is one of a tag table in shared memory.
    pub fn is_of_memory(self) -> bool {
        self == Guard::Listing
    }

    /// Whether the gap between a bump and its commit must be made wide.
    pub fn wants_slow_commits(self) -> bool {
        self == Guard::DropList
    }

    /// Whether the gap between the last change and the commit must be made wide.
    pub fn wants_late_commits(self) -> bool {
        self == Guard::Ahead
    }

    /// Whether the gap between a change of the catalogue and its messages must be made wide.
    pub fn wants_late_messages(self) -> bool {
        self == Guard::Catalogue
    }

    /// Whether nobody may flush the log, so that a crash takes commits with it.
    pub fn wants_lost_commits(self) -> bool {
        self == Guard::Flush
    }

    /// How the violations begin that a run without it must show: each promise has a checker of its
    /// own, and each of these must be able to fail.
    pub fn shows(self) -> &'static str {
        match self {
            // Programs that read Redis find what is old.
            Guard::KeepLease | Guard::Savepoint => "S2:",
            // They find what was never committed.
            Guard::OwnXid | Guard::Flush => "S3:",
            _ => "S1:",
        }
    }

    pub fn plan(self) -> Plan {
        let troubles: &[&str] = match self {
            Guard::Debt => &["freeze", "cutting"],
            Guard::Base => &["between_tables"],
            Guard::Generation => &["before_an_old_table", "restart_old"],
            Guard::Proof => &["rolled_back", "lagging_master"],
            Guard::Flush => &["crash"],
            Guard::Ahead => &["flushall"],
            Guard::Hit
            | Guard::Fill
            | Guard::DropList
            | Guard::KeepLease
            | Guard::OwnXid
            | Guard::Savepoint
            | Guard::Catalogue
            | Guard::Covers
            | Guard::Listing => &[],
        };
        let changes = !matches!(self, Guard::Base | Guard::Generation);
        Plan { troubles, changes, standby: false, time: TIME_MAX }
    }
}
