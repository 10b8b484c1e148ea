//! Up to which schema change this backend knows every one.
//!
//! A transaction's changes are visible before its invalidation messages are sent, so a backend may
//! see the rows of another's DDL and still hold the old catalogue. A new version of the catalogue
//! tag says that somebody changed the schema: nothing is used or filled before the messages of all
//! who are listed must have arrived, and every plan is analysed anew. If that were left out, an
//! entry could be served by yesterday's view, policy or trigger.

use std::cell::Cell;

use pg_cache_core::reason::Reason;

use crate::pg::{host, surroundings, wal, xact};

thread_local! {
    /// The generation, and the catalogue's version in it.
    static SEEN: Cell<Option<(u128, u64)>> = const { Cell::new(None) };
    /// On a standby: a version that was met, and the position that replay must have passed.
    static MET: Cell<Option<(u128, u64, u64)>> = const { Cell::new(None) };
}

/// The version up to which this backend knows the schema, if it does.
pub fn seen(generation: u128) -> Option<u64> {
    SEEN.get().filter(|(of, _)| *of == generation).map(|(_, version)| version)
}

/// Catches up with a version that was met in the tag table, whose listed writers the caller's
/// snapshot sees as complete. All plans are void afterwards.
pub fn catch_up(generation: u128, version: u64, xids: &[u64]) -> Result<(), Reason> {
    let arrived = match wal::is_standby() {
        _ if host::skips("guard.cataloguewait") => true,
        true => replay_has_passed(generation, version),
        // A transaction lets go of the lock on its id after it has sent its messages.
        false => xids.iter().all(|xid| xact::has_let_go(*xid)),
    };
    if !arrived {
        return Err(Reason::Catalogue);
    }
    surroundings::renew();
    SEEN.set(Some((generation, version)));
    Ok(())
}

/// The startup process shows a commit first and sends its messages then, both while it replays the
/// same record.
fn replay_has_passed(generation: u128, version: u64) -> bool {
    let position = match MET.get() {
        Some((of, met, position)) if of == generation && met == version => position,
        _ => {
            let position = wal::replaying();
            MET.set(Some((generation, version, position)));
            position
        }
    };
    wal::replayed() >= position
}
