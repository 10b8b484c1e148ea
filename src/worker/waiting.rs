//! Waiting for those who write: everybody who holds a lock on `redis_server` now.
//!
//! Invariant: when it is over, each of them has let go of its locks, hence committed or not, and
//! has sent its messages about the schema. If one were still to send them, a reader of a new
//! generation would trust caches that lack them, and no list would tell it not to.

use std::collections::HashSet;

use crate::pg::error::{self, Outcome};
use crate::pg::transaction::{self, End};
use crate::pg::{Oid, activity, bgworker, host, lockers, utility};

const POLL_MS: u64 = 20;

/// Who waits for so long does something else meanwhile.
const PATIENCE_MS: u64 = 1_000;

/// Waits until everybody who holds a lock on `redis_server` for writing has ended. Prepared
/// transactions are left out. Somebody may go on for hours: then the rest of the work goes on too.
pub fn outwait_writers(server: Oid, meanwhile: &mut dyn FnMut() -> Outcome<()>) -> Outcome<()> {
    let patient_until_ms = host::monotonic_ms() + PATIENCE_MS;
    let mut left = lockers::holders(server);
    while !left.is_empty() {
        if host::monotonic_ms() >= patient_until_ms {
            meanwhile()?;
        }
        activity::show(&format!("waiting for {} transactions that write", left.len()));
        bgworker::wait(POLL_MS);
        let still = lockers::holders(server);
        left.retain(|holder| still.contains(holder));
    }
    let mut leaving = leaving(server)?;
    while !leaving.is_empty() {
        activity::show(&format!("waiting for {} transactions that end", leaving.len()));
        bgworker::wait(POLL_MS);
        let still = self::leaving(server)?;
        leaving.retain(|process| still.contains(process));
    }
    Ok(())
}

/// The processes whose transactions are over for every snapshot, but hold their locks still: they
/// have no number any more, so `lockers` does not know them.
fn leaving(server: Oid) -> Outcome<HashSet<i64>> {
    transaction::run(|| {
        let found = utility::look(&format!(
            "SELECT coalesce(pg_catalog.json_agg(l.pid), '[]')
               FROM pg_catalog.pg_locks l
              WHERE l.locktype = 'relation' AND l.relation = {} AND l.granted
                AND l.mode = 'RowExclusiveLock' AND l.pid IS NOT NULL
                AND l.virtualtransaction LIKE '%/0'",
            server.to_u32()
        ))?;
        let processes = serde_json::from_value(found);
        Ok(End::Commit(processes.map_err(|error| error::defect_in(&error.to_string()))?))
    })
}
