//! Pays a debt of all keys: deletes every entry of this database, of whatever generation.
//!
//! Somebody owed more than could be written down: then every key may be old. What stands beside it
//! for the catalogue's tag has its readers compute, and is paid like any other debt. Here that tag
//! is bumped again, by a transaction that is committed before anything else: whoever does not see
//! it, and might not see the one that owed, fills nothing any more, so the keys can go in steps,
//! over many passes.
//!
//! Invariant: the leases of all from before go first, and then the entries. Who has one may have
//! looked before what is owed was bumped, and would fill what is old behind us; whoever takes one
//! from now on fills what is new. So what Redis refused is all that is left by a walk, and the next
//! try looks at nothing else: it would delete what was filled since, each time.

use std::collections::HashSet;

use pg_cache_core::key::{LEASE_PATTERN, SIDECAR_PATTERN};
use pg_cache_core::left::Left;
use pg_cache_core::sidecar::Sidecar;

use crate::client::failure::Failure;
use crate::flush::unlink_noting;
use crate::pg::{activity, host};
use crate::{connection, entries};

use super::sweep;

/// How long a step goes on.
const STEP_MS: u64 = 50;

/// Entries deleted between two looks at the clock: some round trips for each.
const ENTRIES_A_LOOK: usize = 8;

/// What is known of such debts from one pass to the next.
#[derive(Default)]
pub struct AllKeys {
    generation: u128,
    /// Those who owe and for whom the catalogue's tag was bumped: never again, however often Redis
    /// refuses an entry.
    bumped: HashSet<u64>,
    walk: Option<Walk>,
    /// The sidecars that walks which are over have left, and of whose debts.
    left: Left,
    left_of: HashSet<u64>,
}

/// A walk through all keys, or through what another one has left.
struct Walk {
    /// On whose behalf.
    xids: Vec<u64>,
    is_of_all: bool,
    /// Whose entries.
    generations: HashSet<u128>,
    phase: Phase,
    cursor: u64,
    /// Sidecars that were found, whose entries are yet to be deleted.
    found: Vec<Vec<u8>>,
    deleted: u64,
    refused: Option<Failure>,
    left: Left,
}

#[derive(Clone, Copy)]
enum Phase {
    /// Nobody knows yet whose entries.
    Generations,
    Leases,
    Entries,
    /// All entries were found.
    Found,
    Over,
}

/// What a step came to.
pub enum Stepped {
    GoesOn,
    /// What these owe is done; the walk is over once they are told to be paid.
    Done(Vec<u64>),
    /// Something was left of what some owe, who are among the unpaid.
    Refused {
        failure: Failure,
        /// Whether that is new of one of them.
        is_news: bool,
    },
}

impl AllKeys {
    /// Whether a walk is under way. One of another generation is not, nor does it count for whom
    /// was bumped then, or what was left.
    pub fn is_under_way(&mut self, generation: u128) -> bool {
        if self.generation != generation {
            *self = Self { generation, ..Self::default() };
        }
        self.walk.is_some()
    }

    /// Whose debts are known not to be paid soon, by a walk that goes on or one that is over:
    /// nobody else's events are to wait for them.
    pub fn unpaid(&self) -> impl Iterator<Item = u64> {
        let of_walk = self.walk.iter().flat_map(|walk| &walk.xids);
        of_walk.chain(&self.left_of).copied()
    }

    /// Whether the catalogue's tag is still to be bumped for this one.
    pub fn is_unbumped(&self, xid: u64) -> bool {
        !self.bumped.contains(&xid)
    }

    /// That was done for these, and committed.
    pub fn bumped(&mut self, xids: &[u64]) {
        self.bumped.extend(xids);
    }

    /// Begins a walk for these. Those for whom all keys were walked need no more than what was
    /// left.
    pub fn begin(&mut self, xids: Vec<u64>) {
        let were_walked_for = xids.iter().all(|xid| self.left_of.contains(xid));
        let left = if were_walked_for { self.left.names() } else { None };
        self.walk = Some(Walk {
            xids,
            is_of_all: left.is_none(),
            generations: HashSet::new(),
            phase: Phase::Generations,
            cursor: 0,
            found: left.unwrap_or_default(),
            deleted: 0,
            refused: None,
            left: Left::default(),
        });
    }

    /// One step of the walk. After an error the next one goes on where this one was.
    pub fn step(&mut self) -> Result<Stepped, Failure> {
        let Some(mut walk) = self.walk.take() else { return Ok(Stepped::Done(Vec::new())) };
        match walk.step(self.generation) {
            Ok(()) => {}
            Err(failure) if failure.is_refusal() => {
                // What another one has left is left by this one too.
                if walk.is_of_all {
                    self.left.note_any();
                }
                return Ok(self.refused(&walk.xids, failure));
            }
            Err(failure) => {
                self.walk = Some(walk);
                return Err(failure);
            }
        }
        Ok(match (walk.phase, walk.refused.take()) {
            (Phase::Over, Some(failure)) => {
                self.left = walk.left;
                self.refused(&walk.xids, failure)
            }
            (Phase::Over, None) => {
                self.left = Left::default();
                let xids = walk.xids.clone();
                self.walk = Some(walk);
                Stepped::Done(xids)
            }
            (_, refused) => {
                walk.refused = refused;
                self.walk = Some(walk);
                Stepped::GoesOn
            }
        })
    }

    fn refused(&mut self, xids: &[u64], failure: Failure) -> Stepped {
        let known = self.left_of.len();
        self.left_of.extend(xids);
        Stepped::Refused { is_news: self.left_of.len() > known, failure }
    }

    /// The debts of these are deleted.
    pub fn paid(&mut self, xids: &[u64]) {
        self.walk = None;
        for xid in xids {
            self.bumped.remove(xid);
            self.left_of.remove(xid);
        }
    }
}

impl Walk {
    fn step(&mut self, generation: u128) -> Result<(), Failure> {
        let until_ms = host::monotonic_ms() + STEP_MS;
        loop {
            let deleted = self.deleted;
            activity::show(&format!("paying a debt of all keys: {deleted} entries deleted"));
            host::fault_point("worker.walking");
            match self.phase {
                Phase::Generations => self.learn_generations(generation)?,
                Phase::Leases => self.end_leases()?,
                Phase::Entries if self.found.is_empty() => self.find_entries()?,
                Phase::Entries | Phase::Found => self.delete_entries()?,
                Phase::Over => return Ok(()),
            }
            if host::monotonic_ms() >= until_ms {
                return Ok(());
            }
            host::check_interrupts();
        }
    }

    fn learn_generations(&mut self, generation: u128) -> Result<(), Failure> {
        self.generations = sweep::former(generation)?.all;
        self.generations.insert(generation);
        self.phase = if self.is_of_all { Phase::Leases } else { Phase::Found };
        Ok(())
    }

    /// Those of other databases too: they cost a fill.
    fn end_leases(&mut self) -> Result<(), Failure> {
        let (next, names) = entries::step(LEASE_PATTERN, self.cursor)?;
        if !names.is_empty() {
            let mut unlink = redis::cmd("UNLINK");
            unlink.arg(names);
            let ended = connection::ask_alone(0, |session| unlink.exec(session))?;
            if let Err(failure) = ended {
                // Who has one may fill behind us what is old, under any name.
                self.left.note_any();
                self.refused.get_or_insert(failure);
            }
        }
        self.goes_on_at(next, Phase::Entries);
        Ok(())
    }

    fn find_entries(&mut self) -> Result<(), Failure> {
        let (next, names) = entries::step(SIDECAR_PATTERN, self.cursor)?;
        self.found = names;
        self.goes_on_at(next, Phase::Found);
        Ok(())
    }

    fn goes_on_at(&mut self, cursor: u64, behind_all: Phase) {
        self.cursor = cursor;
        if cursor == 0 {
            self.phase = behind_all;
        }
    }

    fn delete_entries(&mut self) -> Result<(), Failure> {
        let rest = self.found.len().saturating_sub(ENTRIES_A_LOOK);
        let (generations, left) = (&self.generations, &mut self.left);
        let is_meant = |it: &Sidecar| generations.contains(&it.generation);
        let unlinked = unlink_noting(&self.found[rest..], is_meant, |refused| left.note(refused))?;
        self.found.truncate(rest);
        self.deleted += unlinked.count;
        self.refused = self.refused.take().or(unlinked.refused);
        if rest == 0 && matches!(self.phase, Phase::Found) {
            self.phase = Phase::Over;
        }
        Ok(())
    }
}
