//! Read-through: look, lease, compute, fill; falls back to the plain query.
//!
//! Decisions are core's (`fence` judges what a look found, `fill` says what to do next); this file
//! carries them out. Whatever goes wrong with Redis, the answer is the query's own: a failure here
//! costs time and a counter, never a result.

mod lease;
mod look;
mod moved;
mod standing;

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use pg_cache_core::error::Error;
use pg_cache_core::fill::{Effect, Event, Fill};
use pg_cache_core::reason::Reason;
use pg_cache_core::sidecar::{Dep, Sidecar, value_hash};

use crate::client::failure::Failure;
use crate::client::scripts::{self, Filled};
use crate::entry::Entry;
use crate::pg::arguments::{Argument, Bound};
use crate::pg::error::Outcome;
use crate::pg::execute::Json;
use crate::pg::plan::{self, Plan};
use crate::pg::snapshot::Snapshot;
use crate::pg::{Datum, guc, host, text, wal, xact};
use crate::{connection, recipe, stats, worker};

use self::lease::{Lease, release};
pub use self::look::{Looked, Under};

/// One call of `redis_cached`, borrowed from its arguments.
pub struct Request<'a> {
    /// In UTF-8, as it stands in Redis.
    pub key: Cow<'a, [u8]>,
    pub ttl_ms: u64,
    pub query: &'a [u8],
    pub arguments: Vec<Argument>,
}

/// The answer, and the plan that gave or would have given it.
pub struct Answer {
    pub json: Datum,
    pub plan: Rc<Plan>,
}

thread_local! {
    static COMPUTING: Cell<bool> = const { Cell::new(false) };
}

/// How often one call analyses its query anew because the schema changes under it.
pub const PASSES_MAX: usize = 4;

pub fn read(request: &Request<'_>) -> Outcome<Answer> {
    if Computing::is_under_way() {
        return Err(Error::Nested.into());
    }
    let started = Instant::now();
    let mut passes = 0;
    loop {
        let plan = plan::get(request.query, &request.arguments)?;
        if let Some(error) = &plan.analysis.refusal {
            return Err(error.clone().into());
        }
        let bound = {
            // The input function of a user's type is the user's code, and might read through the
            // cache.
            let _computing = Computing::start();
            plan.bind(&request.arguments)?
        };
        passes += 1;
        let reading = Reading { request, plan: &plan, bound: &bound, started, counts: true };
        let json = match reading.answer()? {
            Step::Done(json) => json,
            Step::Anew if passes < PASSES_MAX => continue,
            Step::Anew => reading.compute(Reason::Catalogue)?.0,
        };
        return Ok(Answer { json, plan });
    }
}

/// Why this call is computed without a look at Redis, if it is.
pub fn obstacle(plan: &Plan) -> Option<Reason> {
    if !guc::enabled() {
        return Some(Reason::Disabled);
    }
    xact::obstacle().or(plan.analysis.obstacle)
}

pub struct Reading<'a> {
    pub request: &'a Request<'a>,
    pub plan: &'a Plan,
    pub bound: &'a [Bound],
    pub started: Instant,
    /// Whether a hit stands in the statistics.
    pub counts: bool,
}

enum Step {
    Done(Datum),
    /// The schema has changed: analyse the query again.
    Anew,
}

impl Reading<'_> {
    fn answer(&self) -> Outcome<Step> {
        if let Some(reason) = obstacle(self.plan) {
            return self.computed(reason);
        }
        // Reading an argument may have run the user's code: what it changed, the plan does not
        // know.
        let undisturbed = self.bound.is_empty() || self.plan.is_current();
        if !undisturbed || !self.plan.may_read()? {
            // The executor knows best which function is refused, or whether it is reached at all.
            return self.computed(Reason::Cold);
        }
        let under = match self.under(Snapshot::active()) {
            Ok(under) => under,
            Err(reason) => {
                worker::wake();
                return self.computed(reason);
            }
        };
        match self.look(&under) {
            Ok(Looked::Hit(json)) => Ok(Step::Done(json)),
            Ok(Looked::Compute(reason)) => self.computed(reason),
            Ok(Looked::Anew) => Ok(Step::Anew),
            // Another program's value: ours to read past, not to replace, so no lease is needed.
            Ok(Looked::Miss { reason: Reason::Foreign, .. }) => self.computed(Reason::Foreign),
            // Its snapshot may be as old as the transaction, and nothing tells whether that is too
            // old: not what others should get.
            Ok(Looked::Miss { reason, .. }) if xact::keeps_snapshot() && !self.plan.is_exact() => {
                self.computed(reason)
            }
            Ok(Looked::Miss { reason, deps }) => self.fill(&under, reason, deps).map(Step::Done),
            Err(failure) => self.without_redis(&failure).map(Step::Done),
        }
    }

    fn computed(&self, reason: Reason) -> Outcome<Step> {
        Ok(Step::Done(self.compute(reason)?.0))
    }

    fn without_redis(&self, failure: &Failure) -> Outcome<Datum> {
        if failure.reason == Reason::Identity {
            worker::wake();
        } else {
            connection::warn(failure);
        }
        Ok(self.compute(failure.reason)?.0)
    }

    /// The miss path: lease, or wait for whoever has it.
    fn fill(&self, under: &Under, reason: Reason, deps: Vec<Dep>) -> Outcome<Datum> {
        let entry = &under.entry;
        let token = host::random().to_le_bytes();
        let mut fill = Fill::new(host::monotonic_ms(), guc::fill_wait_ms());
        let mut event = Event::Missed {};
        let mut found = Looked::Miss { reason, deps };
        loop {
            match (fill.step(event, host::monotonic_ms(), host::random()), found) {
                (Effect::Lease, first) => match self.lease(under, &token) {
                    Ok((true, _)) if host::skips("guard.lookagain") => {
                        (event, found) = (Event::Leased { hit: false }, first);
                    }
                    Ok((ours, Looked::Compute(reason))) => {
                        return self.compute_unfilled(entry, &token, ours, reason);
                    }
                    Ok((ours, Looked::Anew)) => {
                        return self.compute_unfilled(entry, &token, ours, Reason::Catalogue);
                    }
                    Ok((ours, looked)) => {
                        let hit = matches!(looked, Looked::Hit(_));
                        event = if ours { Event::Leased { hit } } else { Event::Taken { hit } };
                        found = looked;
                    }
                    Err(failure) => return self.without_redis(&failure),
                },
                (Effect::Wait { ms }, was) => {
                    host::pause(ms);
                    (event, found) = (Event::Waited, was);
                }
                (Effect::Compute { fill: true }, Looked::Miss { reason: Reason::Foreign, .. }) => {
                    // It was put there between the look and the lease.
                    return self.compute_unfilled(entry, &token, true, Reason::Foreign);
                }
                (Effect::Compute { fill: true }, Looked::Miss { deps, .. }) => {
                    return self.compute_and_store(under, &token, reason, deps);
                }
                (Effect::ServeAndRelease, Looked::Hit(json)) => {
                    release(entry, &token);
                    return Ok(json);
                }
                (Effect::Serve, Looked::Hit(json)) => return Ok(json),
                _ => return Ok(self.compute(Reason::LeaseWait)?.0),
            }
        }
    }

    fn compute_unfilled(
        &self,
        entry: &Entry,
        token: &[u8],
        leased: bool,
        reason: Reason,
    ) -> Outcome<Datum> {
        if leased {
            release(entry, token);
        }
        Ok(self.compute(reason)?.0)
    }

    /// Runs the query; counts why.
    fn compute(&self, reason: Reason) -> Outcome<(Datum, Json, u64)> {
        host::fault_point("read.compute");
        let started = Instant::now();
        let outcome = {
            let _computing = Computing::start();
            self.plan.run(self.bound)
        };
        let json = outcome?;
        let query_us = stats::us_since(started);
        stats::miss(&self.request.key, reason, query_us);
        Ok((text::datum(json.bytes()), json, query_us))
    }

    fn compute_and_store(
        &self,
        under: &Under,
        token: &[u8],
        reason: Reason,
        deps: Vec<Dep>,
    ) -> Outcome<Datum> {
        let lease = Lease { entry: &under.entry, token, held: true };
        let (datum, json, cost_us) = self.compute(reason)?;
        // Objects may have changed while the query ran: then this is not what the fingerprint says.
        if !self.plan.means_the_same(self.request.query, &self.request.arguments)? {
            return Ok(datum);
        }
        // Behind all that the query saw: its snapshot, and a schema that may be newer.
        if !host::skips("guard.flush") {
            wal::flush_seen();
        }
        let stored = self.store(lease, under, deps, json.bytes(), cost_us);
        if let Err(failure) = stored {
            stats::unfilled(&self.request.key, failure.reason);
            connection::warn(&failure);
        }
        Ok(datum)
    }

    fn store(
        &self,
        mut lease: Lease<'_>,
        under: &Under,
        deps: Vec<Dep>,
        json: &[u8],
        cost_us: u64,
    ) -> Result<(), Failure> {
        host::fault_point("read.fill");
        let Some(value) = text::to_utf8(json) else {
            return Err(Failure::new(Reason::Encoding, "no UTF-8"));
        };
        if value.len() > guc::value_bytes_max() {
            return Err(Failure::new(Reason::TooLarge, "above pg_cache.value_bytes_max"));
        }
        let sidecar = Sidecar {
            generation: under.registration.generation,
            fingerprint: lease.entry.fingerprint,
            value_bytes: value.len() as u64,
            value_hash: value_hash(&value),
            filled_at_ms: unix_ms(),
            cost_us,
            deps,
        };
        let Under { entry, registration, .. } = under;
        let recipe = recipe::of(self.request, self.plan, self.bound, entry, registration);
        let entry = scripts::Fill {
            value_key: lease.entry.keys.value(),
            sidecar_key: lease.entry.keys.sidecar(),
            lease_key: &lease.entry.keys.lease(),
            recipe_key: &lease.entry.keys.recipe(),
            token: lease.token,
            value: &value,
            sidecar: &sidecar.encode(),
            recipe: &recipe,
            ttl_ms: self.request.ttl_ms,
        };
        lease.held = false;
        if host::skips("guard.token") {
            let mut seize = redis::cmd("SET");
            seize.arg(entry.lease_key).arg(entry.token);
            connection::ask(|session| Ok(seize.exec(session)?))?;
        }
        match connection::ask(|session| Ok(scripts::fill(session, &entry)?))? {
            Filled::Stored => stats::fill(&self.request.key, value.len()),
            Filled::NotOurs => stats::unfilled(&self.request.key, Reason::Foreign),
            Filled::Overtaken => {}
        }
        Ok(())
    }
}

/// Marks that a query of ours runs, so that one inside it is refused.
pub struct Computing;

impl Computing {
    pub fn is_under_way() -> bool {
        COMPUTING.get()
    }

    pub fn start() -> Self {
        COMPUTING.set(true);
        Self
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        COMPUTING.set(false);
    }
}

pub fn unix_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}
