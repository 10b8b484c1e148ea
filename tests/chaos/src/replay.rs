//! Follows how far the standby has replayed the changes of the catalogue.
//!
//! Owns that clock: a difference on a standby may be PostgreSQL's own only near such a change. The
//! invariant: it says less than was replayed, never more. Break it and the oracle sees ghosts.

use std::time::Duration;

use crate::world::{Side, World};

const POSITION: &str = "SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint";

/// Looks until the run is over.
pub fn watch(world: &World, _: fastrand::Rng) {
    while !world.tally.is_over() {
        let Some(mut client) = world.connect(Side::Standby) else {
            world.changes.replayed_to(None);
            world.tally.rest(Duration::from_millis(30));
            continue;
        };
        while !world.tally.is_over() {
            let Ok(row) = client.query_one(POSITION, &[]) else { break };
            world.changes.replayed_to(u64::try_from(row.get::<_, i64>(0)).ok());
            world.tally.rest(Duration::from_millis(10));
        }
        // It may come back with less than it had.
        world.changes.replayed_to(None);
    }
}
