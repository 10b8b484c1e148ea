//! Lists this transaction in the tag table of shared memory.
//!
//! Whatever is registered, as soon as the library was preloaded: it costs next to nothing, and so
//! no transaction of this run of the server is missing there, whenever a registration makes readers
//! look. Invariant: it happens under a snapshot P of its own and before the commit record, as BUMP
//! does; what could not be listed is owed.

use pg_cache_core::pending::Owed;
use pg_cache_core::reason::Reason;
use pg_cache_core::tag::Tag;

use crate::client::failure::Failure;
use crate::listed;
use crate::pg::snapshot::{Fresh, Snapshot};
use crate::pg::tags::Tags;
use crate::pg::{host, xact};

use super::Deadline;

/// Gives all that is owed its next version, and lists the transaction there. Gives how many buckets
/// that were.
///
/// The registration is to be read by a snapshot from behind this. Nobody waits for us with a new
/// one; so who finds another server registered, and us not listed yet, may fill there what we would
/// delete on this one.
pub fn list(xid: u64, owed: &Owed, deadline: &Deadline) -> Result<usize, Failure> {
    let Some(table) = Tags::here().filter(|_| !host::skips("guard.listing")) else { return Ok(0) };
    let fresh = Fresh::push();
    if owed.tags.contains(&Tag::CATALOGUE) && !host::skips("guard.messages") {
        let_messages_pass(table.catalogue_writers(), &fresh.snapshot, deadline)?;
    }
    let all = owed.tags.iter().copied().chain(owed.keys.iter().map(|(tag, _)| tag));
    listed::enter(table, all, xid, &fresh.snapshot)
}

/// A reader trusts its caches once those who are listed for the catalogue have let go of their
/// locks, hence sent their messages. Our bump drops from that list who is complete in our snapshot,
/// and one may be complete and about to send: so before a schema change bumps, it waits for them.
/// Whoever is complete in our snapshot bumped before it was taken, so is found here, unless another
/// schema change dropped it, which waited likewise. We may be listed ourselves, by what was settled
/// earlier, and pass for complete: a snapshot does not list whose it is.
pub fn let_messages_pass(
    listed: Vec<u64>,
    snapshot: &Snapshot,
    deadline: &Deadline,
) -> Result<(), Failure> {
    let own = xact::xid();
    let is_awaited = |xid: &u64| Some(*xid) != own && snapshot.is_complete(*xid);
    for xid in listed.into_iter().filter(is_awaited) {
        let ended = || xact::has_let_go(xid).then_some(());
        if host::until(deadline.left(), ended).is_none() {
            return Err(Failure::new(Reason::Timeout, "another schema change is ending"));
        }
    }
    Ok(())
}
