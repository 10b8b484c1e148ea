//! Sweeps away what former generations left, so that programs that read Redis do not live with what
//! a failover or an old copy of Redis' data brought back.
//!
//! Readers of ours never use such entries, so nothing hangs on when this happens, and it happens in
//! small steps. A sidecar tells its generation but not its database: a set in Redis holds the
//! generations that this database had, beside the entries, so that a copy of one brings the other.
//! Not found: values whose sidecar was evicted or deleted before them.
//!
//! Invariant: what was swept is set apart and not forgotten. Whoever looked under a generation may
//! fill behind its sweep. The next commit that names the key deletes that; but a crash may lose the
//! deletion, and an old copy of Redis' data bring the entry back. Either begins a generation, whose
//! sweep looks for all former ones.

use std::collections::HashSet;

use pg_cache_core::key::SIDECAR_PATTERN;
use pg_cache_core::tagtable;

use crate::client::failure::Failure;
use crate::client::making::{GenerationKeys, Remembered, remember, remembered, set_apart};
use crate::flush::{Unlinked, unlink_entries};
use crate::pg::{activity, host, identity};
use crate::registry::Registration;
use crate::{connection, entries};

/// How often it is seen to that Redis knows the generation at hand. FLUSHALL takes the name away,
/// and with the tag table in memory the generation lives on and fills more entries.
const REMEMBER_EVERY_MS: u64 = 60_000;

/// Where a sweep stands.
#[derive(Default)]
pub struct Sweep {
    under_way: Option<UnderWay>,
    /// The generation whose forerunners are gone, and until when that need not be asked again.
    done_for: Option<(u128, u64)>,
}

struct UnderWay {
    generation: u128,
    former: Former,
    cursor: u64,
    /// All keys were looked at.
    is_walked: bool,
    deleted: u64,
    /// Why an entry is still there.
    refused: Option<Failure>,
}

impl Sweep {
    /// One step; false if there is nothing to sweep. After an error the next one goes on where this
    /// one was.
    pub fn step(&mut self, registration: &Registration) -> Result<bool, Failure> {
        let generation = registration.generation;
        let now_ms = host::monotonic_ms();
        if self.done_for.is_some_and(|(done, until)| done == generation && now_ms < until) {
            return Ok(false);
        }
        let mut sweep = match self.under_way.take().filter(|way| way.generation == generation) {
            Some(sweep) => sweep,
            None => {
                UnderWay::new(generation).inspect_err(|failure| self.heed(failure, generation))?
            }
        };
        match sweep.step() {
            Ok(false) => {
                self.rest(generation);
                sweep.refused.map_or(Ok(false), Err)
            }
            goes_on => {
                self.under_way = Some(sweep);
                goes_on.inspect_err(|failure| self.heed(failure, generation))
            }
        }
    }

    /// It may not look at all: others are not to wait for each try.
    fn heed(&mut self, failure: &Failure, generation: u128) {
        if failure.is_refusal() {
            self.rest(generation);
        }
    }

    fn rest(&mut self, generation: u128) {
        self.done_for = Some((generation, host::monotonic_ms() + REMEMBER_EVERY_MS));
    }
}

impl UnderWay {
    fn new(generation: u128) -> Result<Self, Failure> {
        let former = former(generation)?;
        let is_walked = former.unswept.is_empty();
        Ok(Self { generation, former, cursor: 0, is_walked, deleted: 0, refused: None })
    }

    /// Whether it goes on. Where an entry was refused it is for nothing that all were looked at: a
    /// later sweep begins for the same generations.
    fn step(&mut self) -> Result<bool, Failure> {
        if !self.is_walked {
            let former = &self.former.all;
            let (next, names) = entries::step(SIDECAR_PATTERN, self.cursor)?;
            let Unlinked { count, refused } =
                unlink_entries(&names, |it| former.contains(&it.generation))?;
            self.deleted += count;
            self.refused = self.refused.take().or(refused);
            (self.cursor, self.is_walked) = (next, next == 0);
            activity::show(&format!("sweeping: {} entries deleted", self.deleted));
        }
        if self.is_walked && self.refused.is_none() {
            set_all_apart(&self.former.unswept)?;
        }
        Ok(!self.is_walked)
    }
}

/// Where the generations stand that have been.
pub fn generations() -> GenerationKeys {
    let (system, database) = identity::origin();
    GenerationKeys {
        known: tagtable::generations_key(system, database, 0),
        swept: tagtable::swept_key(system, database, 0),
    }
}

/// The generations that this database had before this one.
pub(super) struct Former {
    /// Those for whose sake a sweep begins.
    unswept: Vec<Vec<u8>>,
    /// Those for whose entries it looks.
    pub all: HashSet<u128>,
}

/// Has Redis know this one too, if it does not.
pub(super) fn former(generation: u128) -> Result<Former, Failure> {
    let at = generations();
    let found = connection::ask(|session| Ok(remembered(session, &at)?))?;
    let Remembered { mut unswept, swept } = found;
    let own = tagtable::generation_text(generation);
    if !unswept.iter().any(|text| **text == own) {
        connection::ask(|session| Ok(remember(session, &at, &own)?))?;
    }
    unswept.retain(|text| other(generation, text).is_some());
    let all = unswept.iter().chain(&swept).filter_map(|text| other(generation, text)).collect();
    Ok(Former { unswept, all })
}

/// The generation that a text names, if it is another one.
fn other(generation: u128, text: &[u8]) -> Option<u128> {
    tagtable::parse_generation(text).filter(|found| *found != generation)
}

fn set_all_apart(swept: &[Vec<u8>]) -> Result<(), Failure> {
    if swept.is_empty() {
        return Ok(());
    }
    let at = generations();
    connection::ask(|session| Ok(set_apart(session, &at, swept)?))
}
