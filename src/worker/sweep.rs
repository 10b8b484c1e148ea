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

use pg_cache_core::key::{LEASE_PATTERN, SIDECAR_PATTERN};
use pg_cache_core::tagtable;

use crate::client::failure::Failure;
use crate::client::making::{GenerationKeys, Remembered, remember, remembered, set_apart};
use crate::flush::unlink_entries;
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
    deleted: u64,
}

impl Sweep {
    /// One step; false if there is nothing to sweep.
    pub fn step(&mut self, registration: &Registration) -> Result<bool, Failure> {
        let generation = registration.generation;
        let now_ms = host::monotonic_ms();
        if self.done_for.is_some_and(|(done, until)| done == generation && now_ms < until) {
            return Ok(false);
        }
        let mut sweep = match self.under_way.take().filter(|way| way.generation == generation) {
            Some(sweep) => sweep,
            None => UnderWay { generation, former: former(generation)?, cursor: 0, deleted: 0 },
        };
        let is_over = sweep.former.unswept.is_empty() || {
            let former = &sweep.former.all;
            let (next, names) = entries::step(SIDECAR_PATTERN, sweep.cursor)?;
            sweep.deleted += unlink_entries(&names, |it| former.contains(&it.generation))?;
            sweep.cursor = next;
            activity::show(&format!("sweeping: {} entries deleted", sweep.deleted));
            next == 0
        };
        if is_over {
            set_all_apart(sweep.former.unswept)?;
            self.done_for = Some((generation, now_ms + REMEMBER_EVERY_MS));
            return Ok(false);
        }
        self.under_way = Some(sweep);
        Ok(true)
    }
}

/// Deletes every entry of this database, of whatever generation, and first the leases of all: who
/// has one may have looked before what is owed was bumped, and would fill what is old behind us.
/// Whoever takes one from now on fills what is new.
pub fn delete_all(registration: &Registration) -> Result<(), Failure> {
    delete_leases()?;
    let mut ours = former(registration.generation)?.all;
    ours.insert(registration.generation);
    let mut deleted = 0;
    entries::walk(SIDECAR_PATTERN, |names| {
        deleted += unlink_entries(names, |sidecar| ours.contains(&sidecar.generation))?;
        activity::show(&format!("paying a debt of all keys: {deleted} entries deleted"));
        Ok(())
    })
}

/// Those of other databases too: they cost a fill.
fn delete_leases() -> Result<(), Failure> {
    entries::walk(LEASE_PATTERN, |names| match names {
        [] => Ok(()),
        names => connection::ask(|session| Ok(redis::cmd("UNLINK").arg(names).exec(session)?)),
    })
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
struct Former {
    /// Those for whose sake a sweep begins.
    unswept: Vec<Vec<u8>>,
    /// Those for whose entries it looks.
    all: HashSet<u128>,
}

/// Has Redis know this one too, if it does not.
fn former(generation: u128) -> Result<Former, Failure> {
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

fn set_all_apart(swept: Vec<Vec<u8>>) -> Result<(), Failure> {
    if swept.is_empty() {
        return Ok(());
    }
    let at = generations();
    connection::ask(|session| Ok(set_apart(session, &at, &swept)?))
}
