//! Sweeps away what former generations left, so that programs that read Redis do not live with what
//! a failover or an old copy of Redis' data brought back.
//!
//! Readers of ours never use such entries, so nothing hangs on when this happens, and it happens in
//! small steps. A sidecar tells its generation but not its database: a set in Redis holds the
//! generations that this database had, beside the entries, so that a copy of one brings the other.
//! Not found: values whose sidecar was evicted or deleted before them.

use pg_cache_core::key::{SIDECAR_PATTERN, key_of_sidecar};
use pg_cache_core::sidecar::Sidecar;
use pg_cache_core::tagtable;

use crate::client::failure::Failure;
use crate::client::making::{forget, remembered};
use crate::flush::unlink_entries;
use crate::pg::{activity, host, identity};
use crate::registry::Registration;
use crate::{connection, entries};

/// Where a sweep stands.
#[derive(Default)]
pub struct Sweep {
    under_way: Option<UnderWay>,
    /// The generation whose forerunners are gone.
    done_for: Option<u128>,
}

struct UnderWay {
    generation: u128,
    former: Vec<u128>,
    cursor: u64,
    deleted: u64,
}

impl Sweep {
    /// One step; false if there is nothing to sweep.
    pub fn step(&mut self, registration: &Registration) -> Result<bool, Failure> {
        let generation = registration.generation;
        if self.done_for == Some(generation) {
            return Ok(false);
        }
        let mut sweep = match self.under_way.take().filter(|way| way.generation == generation) {
            Some(sweep) => sweep,
            None => UnderWay { generation, former: former(generation)?, cursor: 0, deleted: 0 },
        };
        let is_over = sweep.former.is_empty() || {
            let (former, step) = (&sweep.former, sweep.cursor);
            let is_former = |sidecar: &Sidecar| former.contains(&sidecar.generation);
            let (next, deleted) = walk(step, |names| unlink_entries(names, is_former))?;
            sweep.cursor = next;
            sweep.deleted += deleted;
            activity::show(&format!("sweeping: {} entries deleted", sweep.deleted));
            next == 0
        };
        if is_over {
            forget_all(&sweep.former)?;
            self.done_for = Some(generation);
            return Ok(false);
        }
        self.under_way = Some(sweep);
        Ok(true)
    }
}

/// Deletes every entry of this database, of whatever generation.
pub fn delete_all(registration: &Registration) -> Result<(), Failure> {
    let mut ours = former(registration.generation)?;
    ours.push(registration.generation);
    let (mut cursor, mut deleted) = (0, 0);
    loop {
        let is_ours = |sidecar: &Sidecar| ours.contains(&sidecar.generation);
        let (next, count) = walk(cursor, |names| unlink_entries(names, is_ours))?;
        deleted += count;
        activity::show(&format!("paying a debt of all keys: {deleted} entries deleted"));
        if next == 0 {
            return Ok(());
        }
        cursor = next;
        host::check_interrupts();
    }
}

type Unlinked = Result<u64, Failure>;

/// One step over the sidecars from a cursor on: the next cursor, and how many entries went.
fn walk(cursor: u64, unlink: impl FnOnce(&[Vec<u8>]) -> Unlinked) -> Result<(u64, u64), Failure> {
    let (next, mut names) = entries::step(SIDECAR_PATTERN, cursor)?;
    names.retain(|name| key_of_sidecar(name).is_some());
    Ok((next, unlink(&names)?))
}

/// The set of generations that have been.
pub fn generations_key() -> Vec<u8> {
    let (system, database) = identity::origin();
    tagtable::generations_key(system, database, 0)
}

/// The generations that this database had before this one and whose entries may still be there.
fn former(generation: u128) -> Result<Vec<u128>, Failure> {
    let set = generations_key();
    let found = connection::ask(|session| Ok(remembered(session, &set)?))?;
    let found = found.iter().filter_map(|text| tagtable::parse_generation(text));
    Ok(found.filter(|former| *former != generation).collect())
}

fn forget_all(former: &[u128]) -> Result<(), Failure> {
    if former.is_empty() {
        return Ok(());
    }
    let set = generations_key();
    let texts: Vec<Vec<u8>> =
        former.iter().map(|former| tagtable::generation_text(*former).to_vec()).collect();
    connection::ask(|session| Ok(forget(session, &set, &texts)?))
}
