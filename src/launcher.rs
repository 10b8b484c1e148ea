//! The launcher: sends a worker to look into each database, where the library was preloaded.
//!
//! Connected to no database, so that it is in nobody's way: which databases there are stands in a
//! shared catalogue, whether one has the extension only the database itself knows, so a worker goes
//! and looks, and leaves at once if it has nothing to do. Invariant: it opens no connection to
//! Redis, has few workers under way at a time, and between two looks it sleeps. Without it a
//! database waits for its first reader after each restart of PostgreSQL or of Redis; were it to
//! start all workers at once, parallel queries would find no slot.

use pg_cache_core::counters::Shared;
use pg_cache_core::rounds::Rounds;

use crate::pg::bgworker::{self, Errand, Started};
use crate::pg::error::Outcome;
use crate::pg::{activity, databases, host, lockers, shmem};
use crate::worker::WORKER;

/// Workers that it has under way at most.
const VISITS_MAX: usize = 2;

/// Between two looks at the list of databases, if nothing is due.
const LOOK_EVERY_MS: u64 = 5_000;

/// The same while workers are under way, or are wanted and have no slot.
const BUSY_MS: u64 = 500;

background_worker!(pg_cache_launcher, serve_all, launch);

/// Asks the postmaster for it.
pub fn register() {
    bgworker::register_launcher(c"pg_cache_launcher");
}

fn launch() -> Outcome<()> {
    let mut rounds = Rounds::default();
    let mut under_way: Vec<Started> = Vec::new();
    loop {
        under_way.retain(|visit| !visit.is_over());
        activity::show("looking for databases");
        let is_busy = send(&mut rounds, &mut under_way)?;
        activity::idle();
        // The end of a worker wakes us.
        bgworker::wait(if is_busy { BUSY_MS } else { LOOK_EVERY_MS });
    }
}

/// Sends workers to where they are due, and says whether more are.
fn send(rounds: &mut Rounds, under_way: &mut Vec<Started>) -> Outcome<bool> {
    let now_ms = host::monotonic_ms();
    let known = |database| shmem::shared()?.databases.find(database)?.has_extension();
    for database in rounds.due(now_ms, &open_ones()?, known) {
        if !lockers::is_running_in(database) {
            if under_way.len() >= VISITS_MAX {
                return Ok(true);
            }
            match bgworker::start_watched(WORKER, Errand::visit(database)) {
                Some(visit) => under_way.push(visit),
                None => return Ok(true),
            }
        }
        rounds.looked(now_ms, database);
    }
    Ok(!under_way.is_empty())
}

/// The databases that a worker may look into. What dropped ones had in shared memory is given to
/// others: known before the list was read, a database that is not in it is gone.
fn open_ones() -> Outcome<Vec<u32>> {
    let known = shmem::shared().map(Shared::databases_known).unwrap_or_default();
    let found = databases::list()?;
    for gone in known.iter().filter(|oid| found.iter().all(|one| one.oid != **oid)) {
        shmem::shared().inspect(|shared| shared.forget(*gone));
    }
    Ok(found.iter().filter(|one| one.is_open).map(|one| one.oid).collect())
}
