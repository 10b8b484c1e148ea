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
//! from now on fills what is new.

use std::collections::HashSet;

use pg_cache_core::key::{LEASE_PATTERN, SIDECAR_PATTERN};

use crate::client::failure::Failure;
use crate::flush::unlink_entries;
use crate::pg::{activity, host};
use crate::registry::Registration;
use crate::{connection, entries};

use super::sweep;

/// How long a step goes on.
const STEP_MS: u64 = 50;

/// What is known of such debts from one pass to the next.
#[derive(Default)]
pub struct AllKeys {
    generation: u128,
    /// Those who owe and for whom the catalogue's tag was bumped: never again, however often Redis
    /// refuses an entry.
    bumped: HashSet<u64>,
    walk: Option<Walk>,
}

/// A walk through all keys.
struct Walk {
    /// On whose behalf.
    xids: Vec<u64>,
    /// Who of them was known to be stuck when it began.
    stuck: Vec<u64>,
    /// Whose entries.
    generations: HashSet<u128>,
    phase: Phase,
    cursor: u64,
    deleted: u64,
    refused: Option<Failure>,
}

#[derive(Clone, Copy)]
enum Phase {
    Leases,
    Entries,
    Over,
}

/// What a step came to.
pub enum Stepped {
    GoesOn,
    /// What these owe is done; the walk is over once they are told to be paid.
    Done(Vec<u64>),
    /// Something was left of what these owe.
    Refused(Vec<u64>, Failure),
}

impl AllKeys {
    /// Whether a walk is under way. One of another generation is not, nor does it count for whom
    /// was bumped then.
    pub fn is_under_way(&mut self, generation: u128) -> bool {
        if self.generation != generation {
            *self = Self { generation, ..Self::default() };
        }
        self.walk.is_some()
    }

    /// Who is to stay stuck until the walk is over: nobody's events are to wait for another try.
    pub fn stuck(&self) -> &[u64] {
        self.walk.as_ref().map_or(&[], |walk| &walk.stuck)
    }

    /// Whether the catalogue's tag is still to be bumped for this one.
    pub fn is_unbumped(&self, xid: u64) -> bool {
        !self.bumped.contains(&xid)
    }

    /// That was done for these, and committed.
    pub fn bumped(&mut self, xids: &[u64]) {
        self.bumped.extend(xids);
    }

    /// Begins a walk for these, of whom some are stuck.
    pub fn begin(
        &mut self,
        registration: &Registration,
        xids: Vec<u64>,
        stuck: Vec<u64>,
    ) -> Result<(), Failure> {
        let mut generations = sweep::former(registration.generation)?.all;
        generations.insert(registration.generation);
        self.walk = Some(Walk {
            xids,
            stuck,
            generations,
            phase: Phase::Leases,
            cursor: 0,
            deleted: 0,
            refused: None,
        });
        Ok(())
    }

    /// One step of the walk. After an error the next one goes on where this one was.
    pub fn step(&mut self) -> Result<Stepped, Failure> {
        let Some(mut walk) = self.walk.take() else { return Ok(Stepped::Done(Vec::new())) };
        match walk.step() {
            Ok(()) => {}
            Err(failure) if failure.is_refusal() => {
                return Ok(Stepped::Refused(walk.xids, failure));
            }
            Err(failure) => {
                self.walk = Some(walk);
                return Err(failure);
            }
        }
        Ok(match (walk.phase, walk.refused.take()) {
            (Phase::Over, Some(failure)) => Stepped::Refused(walk.xids, failure),
            (Phase::Over, None) => {
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

    /// The debts of these are deleted.
    pub fn paid(&mut self, xids: &[u64]) {
        self.walk = None;
        xids.iter().for_each(|xid| _ = self.bumped.remove(xid));
    }
}

impl Walk {
    fn step(&mut self) -> Result<(), Failure> {
        let until_ms = host::monotonic_ms() + STEP_MS;
        loop {
            let deleted = self.deleted;
            activity::show(&format!("paying a debt of all keys: {deleted} entries deleted"));
            host::fault_point("worker.walking");
            let next = match self.phase {
                Phase::Leases => self.end_leases()?,
                Phase::Entries => self.delete_entries()?,
                Phase::Over => return Ok(()),
            };
            self.cursor = next;
            if next == 0 {
                self.phase = self.phase.next();
            }
            if host::monotonic_ms() >= until_ms {
                return Ok(());
            }
            host::check_interrupts();
        }
    }

    /// Those of other databases too: they cost a fill.
    fn end_leases(&mut self) -> Result<u64, Failure> {
        let (next, names) = entries::step(LEASE_PATTERN, self.cursor)?;
        if !names.is_empty() {
            let mut unlink = redis::cmd("UNLINK");
            unlink.arg(names);
            let ended = connection::ask_alone(0, |session| unlink.exec(session))?;
            self.refused = self.refused.take().or(ended.err());
        }
        Ok(next)
    }

    fn delete_entries(&mut self) -> Result<u64, Failure> {
        let (next, names) = entries::step(SIDECAR_PATTERN, self.cursor)?;
        let generations = &self.generations;
        let unlinked = unlink_entries(&names, |it| generations.contains(&it.generation))?;
        self.deleted += unlinked.count;
        self.refused = self.refused.take().or(unlinked.refused);
        Ok(next)
    }
}

impl Phase {
    fn next(self) -> Self {
        match self {
            Phase::Leases => Phase::Entries,
            Phase::Entries | Phase::Over => Phase::Over,
        }
    }
}
