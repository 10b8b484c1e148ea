//! `redis_verify` beside everything else: it must always be empty.
//!
//! Owns the calls and what they find. An operator runs it on a living database, so it must neither
//! overlook what is wrong nor cry wolf when somebody writes meanwhile.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use postgres::{Config, NoTls};

use crate::world::{Side, World};

const CALL: &str = "SELECT key, detail FROM redis_verify(NULL)";

/// Calls it until the run is over.
pub fn prove(world: &World, mut random: Rng) {
    while !world.tally.is_over() {
        world.tally.rest(Duration::from_millis(random.u64(200..3000)));
        // A standby is asked as often as all others who read there are.
        let side = if random.u32(..3) == 0 { Side::Standby } else { Side::Primary };
        once(world, side);
    }
}

/// Calls it; each row is a violation.
pub fn once(world: &World, side: Side) {
    let Some(address) = world.address(side) else { return };
    let recomputed = Arc::new(AtomicU64::new(0));
    let heard = recomputed.clone();
    let Ok(mut config) = Config::from_str(&address) else { return };
    config.notice_callback(move |notice| heard.store(number(notice.message()), Ordering::Relaxed));
    // The process may be gone, or the statement cancelled: it says nothing then.
    let Ok(mut client) = config.connect(NoTls) else { return };
    let timeout = client.batch_execute("SET statement_timeout = '15s'");
    let rows = match timeout.and_then(|()| client.query(CALL, &[])) {
        Ok(rows) => rows,
        Err(error) => return world.tally.error(&error),
    };
    world.tally.verified.fetch_add(recomputed.load(Ordering::Relaxed), Ordering::Relaxed);
    for row in rows {
        let (key, detail): (String, String) = (row.get(0), row.get(1));
        let recent = world.changes.recent();
        world.tally.violation(format!(
            "verify: {key} differs on the {side:?}: {detail}\n  last changes: {recent}"
        ));
    }
}

/// The first one in `recomputed 5 entries, …`.
fn number(message: &str) -> u64 {
    message.split(' ').find_map(|word| word.parse().ok()).unwrap_or(0)
}
