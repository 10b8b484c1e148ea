//! What a look comes to: what it is judged by, and the two moments when it is taken.
//!
//! Invariant: the tag table is looked at after the snapshot was taken, and for a fill behind the
//! lease. A table in Redis is asked in the same pipeline; one in memory is read beside it. On the
//! hit path that may be before the entry comes: what was filled since by a newer snapshot has other
//! versions.

use std::rc::Rc;

use pg_cache_core::fence::{Judgement, Look, Wanted, judge};
use pg_cache_core::reason::Reason;
use pg_cache_core::sidecar::{Dep, Sidecar};
use pg_cache_core::tag::Bucket;
use pg_cache_core::tagtable;

use crate::client::failure::Failure;
use crate::client::scripts::{self, LeaseAsk};
use crate::client::session::{Ask, Found};
use crate::entry::Entry;
use crate::listed::{self, Listed};
use crate::pg::snapshot::Snapshot;
use crate::pg::{Datum, guc, host, text, wal};
use crate::registry::{self, Registration};
use crate::{catalogue, connection, stats, worker};

use super::Reading;
use super::standing::{self, Standing};

/// What the call is judged by: its snapshot, and what counts under it.
pub struct Under {
    snapshot: Snapshot,
    pub(super) registration: Rc<Registration>,
    pub entry: Entry,
    /// Behind all that the snapshot sees.
    pub(super) position: wal::Position,
}

impl Under {
    fn ask(&self) -> Ask<'_> {
        listed::ask(&self.registration, &self.entry)
    }

    /// What the tag table says, if it is in memory.
    fn listed(&self) -> Result<Option<Listed>, Reason> {
        Listed::of(&self.registration, &self.entry, &self.snapshot)
    }
}

/// What a look came to.
pub enum Looked {
    Hit(Datum),
    Miss { reason: Reason, deps: Vec<Dep> },
    Compute(Reason),
    Anew,
}

impl Reading<'_> {
    /// What counts under the snapshot; or why this call can use nothing of Redis.
    pub fn under(&self, snapshot: Snapshot) -> Result<Under, Reason> {
        let Standing { registration, is_free_of_debts } = standing::of(&snapshot)?;
        if registration.home.is_outmoded() && !wal::is_standby() {
            worker::wake();
        }
        let entry = Entry::new(&registration, &self.request.key, self.plan, self.bound);
        if !is_free_of_debts && registry::owes(&snapshot, &entry.tags) {
            return Err(Reason::Debt);
        }
        Ok(Under { snapshot, registration, entry, position: wal::Position::now() })
    }

    /// The hit path: one round trip; none if the tag table is in memory and forbids a hit.
    pub fn look(&self, under: &Under) -> Result<Looked, Failure> {
        host::fault_point("read.look");
        let listed = match under.listed() {
            Ok(listed) => listed,
            Err(reason) => return Ok(Looked::Compute(reason)),
        };
        if let Some(listed) = &listed {
            let without_entry =
                listed.with(&Look::default(), |look| self.judged(under, look, "guard.hit"));
            if !matches!(without_entry, Looked::Miss { .. }) {
                return Ok(without_entry);
            }
        }
        let ask = under.ask();
        connection::ask(|session| {
            let found = session.look(&ask)?;
            under.registration.check(found.server)?;
            Ok(self.judged_by(under, listed.as_ref(), &found, "guard.hit"))
        })
    }

    fn judged_by(
        &self,
        under: &Under,
        listed: Option<&Listed>,
        found: &Found<'_>,
        guard: &'static str,
    ) -> Looked {
        Listed::beside(listed, &found.judged(), |look| self.judged(under, look, guard))
    }

    fn judged(&self, under: &Under, look: &Look<'_>, guard: &'static str) -> Looked {
        let generation = under.registration.generation;
        // Without this guard, whatever generation the table has is taken for the registered one.
        let own = look.generation.and_then(tagtable::parse_generation);
        let trusted = own.filter(|_| host::skips("guard.generation")).unwrap_or(generation);
        let mut look = *look;
        if host::skips("guard.base") {
            look.base = Some(b"0");
        }
        let seen = match host::skips("guard.catalogue") {
            true => look.catalogue_version(),
            false => catalogue::seen(generation),
        };
        let forged = unguarded(&look, trusted, &under.entry.buckets);
        look.sidecar = forged.as_deref().or(look.sidecar);
        let wanted = Wanted {
            generation: trusted,
            fingerprint: &under.entry.fingerprint,
            buckets: &under.entry.buckets,
            catalogue_seen: seen,
        };
        let complete = |xid| host::skips(guard) || under.snapshot.is_complete(xid);
        match judge(&look, &wanted, &complete) {
            Judgement::Hit { sidecar, value } => self.served(&sidecar, value),
            Judgement::Miss { reason, deps } => Looked::Miss { reason, deps },
            Judgement::Compute(reason) => {
                if reason == Reason::Generation {
                    worker::wake();
                }
                Looked::Compute(reason)
            }
            Judgement::Catalogue { version, xids } => {
                match catalogue::catch_up(generation, version, &xids) {
                    Ok(()) => Looked::Anew,
                    Err(reason) => Looked::Compute(reason),
                }
            }
        }
    }

    /// The value as a datum.
    fn served(&self, sidecar: &Sidecar, value: &[u8]) -> Looked {
        let Some(json) = text::json_from_utf8(value) else {
            return Looked::Compute(Reason::Foreign);
        };
        if self.counts {
            stats::hit(
                &self.request.key,
                value.len(),
                stats::us_since(self.started),
                sidecar.cost_us,
            );
        }
        Looked::Hit(json)
    }

    /// Takes the lease if it is free and looks again, in one round trip: between the first look and
    /// the lease, another backend may have filled the entry, or a writer bumped and deleted it.
    pub(super) fn lease(&self, under: &Under, token: &[u8]) -> Result<(bool, Looked), Failure> {
        host::fault_point("read.lease");
        let ask = LeaseAsk {
            look: under.ask(),
            lease: &under.entry.keys.lease(),
            token,
            lease_ms: guc::lease_timeout_ms(),
        };
        connection::ask(|session| {
            let (ours, parts) = scripts::lease(session, &ask)?;
            let found = Found::new(session.server(), parts.iter().map(Option::as_deref));
            under.registration.check(found.server)?;
            // Behind the lease: whoever bumped before it is listed.
            let looked = match under.listed() {
                Ok(listed) => self.judged_by(under, listed.as_ref(), &found, "guard.fill"),
                Err(reason) => Looked::Compute(reason),
            };
            Ok((ours, looked))
        })
    }
}

/// For tests: the sidecar as it would pass without a guard, if one is left out.
fn unguarded(look: &Look<'_>, generation: u128, buckets: &[Bucket]) -> Option<Vec<u8>> {
    let of_any_generation = host::skips("guard.sidecar");
    if !of_any_generation && !host::skips("guard.versions") {
        return None;
    }
    let mut sidecar = Sidecar::decode(look.sidecar?).ok()?;
    if of_any_generation {
        sidecar.generation = generation;
    } else {
        let present = buckets.iter().zip(look.fields).filter_map(|(bucket, field)| {
            Some(Dep { bucket: bucket.0, version: tagtable::version(*field)? })
        });
        sidecar.deps = present.collect();
    }
    Some(sidecar.encode())
}
