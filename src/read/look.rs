//! What a look comes to: what it is judged by, and the two moments when it is taken.
//!
//! Invariant: the tag table is looked at after the snapshot was taken, and for a fill behind the
//! lease. A table in Redis is asked in the same pipeline; one in memory is read beside it. On the
//! hit path that may be before the entry comes: what was filled since by a newer snapshot has other
//! versions.

use std::rc::Rc;

use pg_cache_core::fence::{self, Judgement, Look, Table, Wanted, judge};
use pg_cache_core::reason::Reason;
use pg_cache_core::sidecar::{Dep, Sidecar};
use pg_cache_core::tagtable::{Field, Fields};

use crate::client::failure::Failure;
use crate::client::scripts::{self, LeaseAsk};
use crate::client::session::{Ask, Found};
use crate::entry::Entry;
use crate::listed;
use crate::pg::snapshot::Snapshot;
use crate::pg::{Datum, guc, host, text, wal};
use crate::registry::{self, Registration};
use crate::{catalogue, connection, stats, worker};

use super::standing::{self, Standing};
use super::{Reading, moved};

/// What the call is judged by: its snapshot, and what counts under it.
pub struct Under {
    snapshot: Snapshot,
    pub(super) registration: Rc<Registration>,
    pub entry: Entry,
}

impl Under {
    fn ask(&self) -> Ask<'_> {
        listed::ask(&self.registration, &self.entry)
    }

    /// The entry's part of the tag table, if that is in memory.
    fn memory(&self) -> Result<Option<Fields>, Reason> {
        listed::fields(&self.registration, &self.entry, &self.snapshot)
    }

    fn wanted(&self, table: &Table<'_>) -> Wanted<'_> {
        let generation = self.registration.generation;
        // Without this guard, whatever generation the table has is taken for the registered one.
        let own = table.generation().filter(|_| host::skips("guard.generation"));
        let catalogue_seen = match host::skips("guard.catalogue") {
            true => table.catalogue_version(),
            false => catalogue::seen(generation),
        };
        Wanted {
            generation: own.unwrap_or(generation),
            fingerprint: &self.entry.fingerprint,
            buckets: &self.entry.buckets,
            catalogue_seen,
        }
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
        if moved::is_outmoded(registration.home) && !wal::is_standby() {
            worker::wake();
        }
        let entry = Entry::new(&registration, &self.request.key, self.plan, self.bound);
        if !is_free_of_debts && registry::debts::owes(&snapshot, &entry.tags) {
            return Err(Reason::Debt);
        }
        Ok(Under { snapshot, registration, entry })
    }

    /// The hit path: one round trip; none if the tag table is in memory and forbids a hit.
    pub fn look(&self, under: &Under) -> Result<Looked, Failure> {
        host::fault_point("read.look");
        let memory = match under.memory() {
            Ok(memory) => memory,
            Err(reason) => return Ok(Looked::Compute(reason)),
        };
        if let Some(looked) = memory.as_ref().and_then(|fields| self.forbidden(under, fields)) {
            return Ok(looked);
        }
        let ask = under.ask();
        connection::ask(|session| {
            let found = session.look(&ask)?;
            under.registration.check(found.server)?;
            Ok(self.judged(under, found.beside(memory.as_deref()), "guard.hit"))
        })
    }

    /// What the tag table in memory says, if no entry could be served by it.
    fn forbidden(&self, under: &Under, fields: &[Field]) -> Option<Looked> {
        let table = Table::Memory(fields);
        let complete = |xid| host::skips("guard.hit") || under.snapshot.is_complete(xid);
        fence::forbidden(&table, &under.wanted(&table), &complete)
            .map(|judgement| self.looked(under, judgement))
    }

    fn judged(&self, under: &Under, mut look: Look<'_>, guard: &'static str) -> Looked {
        if let Table::Redis { base, .. } = &mut look.table
            && host::skips("guard.base")
        {
            *base = Some(b"0");
        }
        let wanted = under.wanted(&look.table);
        let forged = unguarded(&look, &wanted);
        let look = Look { sidecar: forged.as_deref().or(look.sidecar), ..look };
        let complete = |xid| host::skips(guard) || under.snapshot.is_complete(xid);
        self.looked(under, judge(&look, &wanted, &complete))
    }

    fn looked(&self, under: &Under, judgement: Judgement<'_>) -> Looked {
        match judgement {
            Judgement::Hit { sidecar, value } => self.served(&sidecar, value),
            Judgement::Miss { reason, deps } => Looked::Miss { reason, deps },
            Judgement::Compute(reason) => {
                if reason == Reason::Generation {
                    worker::wake();
                }
                Looked::Compute(reason)
            }
            Judgement::Catalogue { version, xids } => {
                match catalogue::catch_up(under.registration.generation, version, &xids) {
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
            let looked = match under.memory() {
                Ok(memory) => self.judged(under, found.beside(memory.as_deref()), "guard.fill"),
                Err(reason) => Looked::Compute(reason),
            };
            Ok((ours, looked))
        })
    }
}

/// For tests: the sidecar as it would pass without a guard, if one is left out.
fn unguarded(look: &Look<'_>, wanted: &Wanted<'_>) -> Option<Vec<u8>> {
    let of_any_generation = host::skips("guard.sidecar");
    if !of_any_generation && !host::skips("guard.versions") {
        return None;
    }
    let mut sidecar = Sidecar::decode(look.sidecar?).ok()?;
    if of_any_generation {
        sidecar.generation = wanted.generation;
    } else {
        let present = wanted.buckets.iter().enumerate().filter_map(|(place, bucket)| {
            Some(Dep { bucket: bucket.0, version: look.table.version(place)? })
        });
        sidecar.deps = present.collect();
    }
    Some(sidecar.encode())
}
