//! Owns the judgement of what a look at Redis found: may this value be served, may it be filled?
//!
//! *Claim.* An entry that is served shows what the caller's snapshot S shows: it was filled with
//! version v of each of its buckets, each bucket still has version v, and every writer listed in
//! them, the base of the table included, is complete in S. A writer bumps before it commits, so one
//! that committed since would have made another version; one that S does not see yet is listed, or
//! was dropped from the list by a later writer that saw it complete and is listed itself.
//!
//! Invariant: nothing is served or filled unless generation, base and every list have been judged
//! first; and a hit is a value that our sidecar binds, of our fingerprint. Without this, somebody
//! would receive what another query, another role's row security or another program put under the
//! same key, or what a transaction wrote that they must not see yet.

use crate::reason::Reason;
use crate::sidecar::{Dep, Sidecar};
use crate::tag::Bucket;
use crate::tagtable::{self, Field};

/// The replies of one look: value and sidecar, and of the tag table the generation, the base, and
/// the buckets in the order in which they were wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Look<'a> {
    pub value: Option<&'a [u8]>,
    pub sidecar: Option<&'a [u8]>,
    pub generation: Option<&'a [u8]>,
    pub base: Option<&'a [u8]>,
    pub fields: &'a [Option<&'a [u8]>],
}

/// What the caller knows under its snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The registered one.
    pub generation: u128,
    pub fingerprint: &'a [u8; 16],
    /// What the query depends on, the catalogue first.
    pub buckets: &'a [Bucket],
    /// The version of the catalogue up to which this backend knows every schema change.
    pub catalogue_seen: Option<u64>,
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement<'a> {
    Hit {
        sidecar: Sidecar,
        value: &'a [u8],
    },
    /// A fill may follow, and stores these versions.
    Miss {
        reason: Reason,
        deps: Vec<Dep>,
    },
    /// Neither serve nor fill nor wait: compute.
    Compute(Reason),
    /// The schema may have changed: look at it first, and use or fill nothing before these
    /// transactions have let go of their locks. Then judge anew, with this version as seen.
    Catalogue {
        version: u64,
        xids: Vec<u64>,
    },
}

/// Judges a look by the snapshot of which `complete` tells who is complete in it.
pub fn judge<'a>(
    look: &Look<'a>,
    wanted: &Wanted<'_>,
    complete: &dyn Fn(u64) -> bool,
) -> Judgement<'a> {
    if let Some(reason) = obstacle(look, wanted, complete) {
        return Judgement::Compute(reason);
    }
    let catalogue = look.fields.first().copied().flatten();
    if tagtable::version(catalogue) != wanted.catalogue_seen {
        let Field { version, xids } = Field::parse(catalogue).unwrap_or_default();
        return Judgement::Catalogue { version, xids };
    }
    let found = entry(look.value, look.sidecar, wanted.generation, wanted.fingerprint);
    match found {
        Ok((sidecar, value))
            if present(look, wanted).eq(sidecar.deps.iter().copied().map(Some)) =>
        {
            Judgement::Hit { sidecar, value }
        }
        Ok(_) => miss(Reason::Changed, look, wanted),
        Err(reason) => miss(reason, look, wanted),
    }
}

/// Why the tag table cannot tell what this snapshot may see.
fn obstacle(
    look: &Look<'_>,
    wanted: &Wanted<'_>,
    complete: &dyn Fn(u64) -> bool,
) -> Option<Reason> {
    if look.fields.len() != wanted.buckets.len()
        || wanted.buckets.first() != Some(&Bucket::CATALOGUE)
    {
        return Some(Reason::Protocol);
    }
    if look.generation.and_then(tagtable::parse_generation) != Some(wanted.generation) {
        return Some(Reason::Generation);
    }
    let base = look.base.and_then(tagtable::parse_xid);
    if !base.is_some_and(complete) {
        return Some(Reason::RunningWriter);
    }
    let settled = |field: &Option<&[u8]>| {
        tagtable::all_complete(*field, complete).is_some_and(|(_, complete)| complete)
    };
    if look.fields.iter().all(settled) { None } else { Some(Reason::RunningWriter) }
}

/// The entry that stands under the key, if it is ours: whether it is still true, the tag table
/// knows.
pub fn entry<'a>(
    value: Option<&'a [u8]>,
    sidecar: Option<&[u8]>,
    generation: u128,
    fingerprint: &[u8; 16],
) -> Result<(Sidecar, &'a [u8]), Reason> {
    let (value, sidecar) = match (value, sidecar) {
        (Some(value), Some(sidecar)) => (value, sidecar),
        // Somebody else's value: an entry of ours never stands without its sidecar for longer
        // than their common expiry takes.
        (Some(_), None) => return Err(Reason::Foreign),
        (None, _) => return Err(Reason::Cold),
    };
    let Ok(sidecar) = Sidecar::decode(sidecar) else { return Err(Reason::Format) };
    // First whose it is, then which: what another program put there must not be replaced.
    if !sidecar.binds(value) {
        return Err(Reason::Foreign);
    }
    if sidecar.generation != generation || sidecar.fingerprint != *fingerprint {
        return Err(Reason::Fingerprint);
    }
    Ok((sidecar, value))
}

/// The wanted buckets and their versions; None where a field is malformed.
fn present<'l>(
    look: &'l Look<'_>,
    wanted: &'l Wanted<'_>,
) -> impl Iterator<Item = Option<Dep>> + 'l {
    wanted.buckets.iter().zip(look.fields).map(|(bucket, field)| {
        tagtable::version(*field).map(|version| Dep { bucket: bucket.0, version })
    })
}

fn miss<'a>(reason: Reason, look: &Look<'_>, wanted: &Wanted<'_>) -> Judgement<'a> {
    Judgement::Miss { reason, deps: present(look, wanted).flatten().collect() }
}
