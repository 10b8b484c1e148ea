//! Read-through: look, lease, compute, fill; falls back to the plain query.
//!
//! Decisions are core's (`fence` judges what a look found, `fill` says what to do next); this file
//! carries them out. Whatever goes wrong with Redis, the answer is the query's own: a failure here
//! costs time and a counter, never a result.

use std::borrow::Cow;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Instant;

use pg_cache_core::error::Error;
use pg_cache_core::fence;
use pg_cache_core::fill::{Effect, Event, Fill};
use pg_cache_core::reason::Reason;
use pg_cache_core::sidecar::{Sidecar, value_hash};

use crate::client::failure::Failure;
use crate::client::scripts::{self, Filled};
use crate::client::session::Session;
use crate::connection;
use crate::entry::Entry;
use crate::pg::arguments::{Argument, Bound};
use crate::pg::error::Outcome;
use crate::pg::execute::Json;
use crate::pg::plan::{self, Plan};
use crate::pg::{Datum, guc, host, identity, text, xact};
use crate::stats;

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

pub fn read(request: &Request<'_>) -> Outcome<Answer> {
    if COMPUTING.get() {
        return Err(Error::Nested.into());
    }
    let plan = plan::get(request.query, &request.arguments)?;
    if let Some(error) = &plan.analysis.refusal {
        return Err(error.clone().into());
    }
    let bound = {
        // The input function of a user's type is the user's code, and might read through the cache.
        let _computing = Computing::start();
        plan.bind(&request.arguments)?
    };
    let json = Reading { request, plan: &plan, bound: &bound, started: Instant::now() }.answer()?;
    Ok(Answer { json, plan })
}

/// Why this call is computed without a look at Redis, if it is.
pub fn obstacle(plan: &Plan) -> Option<Reason> {
    if !guc::enabled() {
        return Some(Reason::Disabled);
    }
    xact::obstacle().or(plan.analysis.obstacle)
}

struct Reading<'a> {
    request: &'a Request<'a>,
    plan: &'a Plan,
    bound: &'a [Bound],
    started: Instant,
}

impl Reading<'_> {
    fn answer(&self) -> Outcome<Datum> {
        if let Some(reason) = obstacle(self.plan) {
            return Ok(self.compute(reason)?.0);
        }
        // Reading an argument may have run the user's code: what it changed, the plan does not
        // know.
        let undisturbed = self.bound.is_empty() || self.plan.is_current();
        if !undisturbed || !self.plan.may_read()? {
            // The executor knows best which function is refused, or whether it is reached at all.
            return Ok(self.compute(Reason::Cold)?.0);
        }
        let entry = Entry::new(&self.request.key, self.plan, self.bound);
        match self.look(&entry) {
            Ok(Ok(json)) => Ok(json),
            // Its snapshot may be as old as the transaction: not what others should get.
            Ok(Err(reason)) if xact::keeps_snapshot() => Ok(self.compute(reason)?.0),
            // Another program's value: ours to read past, not to replace, so no lease is needed.
            Ok(Err(Reason::Foreign)) => Ok(self.compute(Reason::Foreign)?.0),
            Ok(Err(reason)) => self.fill(&entry, reason),
            Err(failure) => self.without_redis(&failure),
        }
    }

    fn without_redis(&self, failure: &Failure) -> Outcome<Datum> {
        connection::warn(failure);
        Ok(self.compute(failure.reason)?.0)
    }

    /// The hit path: one round trip.
    fn look(&self, entry: &Entry) -> Result<Result<Datum, Reason>, Failure> {
        host::fault_point("read.look");
        let keys = &entry.keys;
        let judged = connection::ask(|session| {
            let (value, sidecar) = session.look(keys.value(), keys.sidecar())?;
            Ok(self.judged(entry, value, sidecar))
        })?;
        Ok(judged)
    }

    /// The value as a datum, if it is a hit.
    fn judged(
        &self,
        entry: &Entry,
        value: Option<&[u8]>,
        sidecar: Option<&[u8]>,
    ) -> Result<Datum, Reason> {
        let (sidecar, value) =
            fence::entry(value, sidecar, identity::generation(), &entry.fingerprint)?;
        let json = text::json_from_utf8(value).ok_or(Reason::Foreign)?;
        let hit_us = micros(self.started);
        stats::hit(&self.request.key, value.len(), hit_us, sidecar.cost_us);
        Ok(json)
    }

    /// The miss path: lease, or wait for whoever has it.
    fn fill(&self, entry: &Entry, reason: Reason) -> Outcome<Datum> {
        let token = host::random().to_le_bytes();
        let mut fill = Fill::new(host::monotonic_ms(), guc::fill_wait_ms());
        let mut event = Event::Missed {};
        let mut found = Err(reason);
        loop {
            match (fill.step(event, host::monotonic_ms(), host::random()), found) {
                (Effect::Lease, _) => match self.lease(entry, &token) {
                    Ok((ours, looked)) => {
                        let hit = looked.is_ok();
                        event = if ours { Event::Leased { hit } } else { Event::Taken { hit } };
                        found = looked;
                    }
                    Err(failure) => return self.without_redis(&failure),
                },
                (Effect::Wait { ms }, was) => {
                    host::pause(ms);
                    (event, found) = (Event::Waited, was);
                }
                (Effect::Compute { fill: true }, Err(Reason::Foreign)) => {
                    // It was put there between the look and the lease.
                    release(entry, &token);
                    return Ok(self.compute(Reason::Foreign)?.0);
                }
                (Effect::Compute { fill: true }, _) => {
                    return self.compute_and_store(entry, &token, reason);
                }
                (Effect::ServeAndRelease, Ok(json)) => {
                    release(entry, &token);
                    return Ok(json);
                }
                (Effect::Serve, Ok(json)) => return Ok(json),
                _ => return Ok(self.compute(Reason::LeaseWait)?.0),
            }
        }
    }

    /// Takes the lease if it is free and looks again, in one round trip: between the first look and
    /// the lease, another backend may have filled the entry.
    fn lease(&self, entry: &Entry, token: &[u8]) -> Result<(bool, Result<Datum, Reason>), Failure> {
        host::fault_point("read.lease");
        let mut pipeline = redis::pipe();
        let lease_ms = guc::lease_timeout_ms();
        let lease = entry.keys.lease();
        pipeline.cmd("SET").arg(&lease).arg(token).arg("NX").arg("GET").arg("PX").arg(lease_ms);
        // A lease that something else left without an end would keep everybody out for ever.
        pipeline.cmd("PEXPIRE").arg(&lease).arg(lease_ms).arg("NX").ignore();
        pipeline.cmd("MGET").arg(entry.keys.value()).arg(entry.keys.sidecar());
        type Looked = (Option<Vec<u8>>, (Option<Vec<u8>>, Option<Vec<u8>>));
        let (holder, (value, sidecar)): Looked =
            connection::ask(|session| Ok(pipeline.query(session)?))?;
        // Our own token may stand there already: the answer to a first try was lost.
        let ours = holder.is_none_or(|holder| holder == token);
        Ok((ours, self.judged(entry, value.as_deref(), sidecar.as_deref())))
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
        let query_us = micros(started);
        stats::miss(&self.request.key, reason, query_us);
        Ok((text::datum(json.bytes()), json, query_us))
    }

    fn compute_and_store(&self, entry: &Entry, token: &[u8], reason: Reason) -> Outcome<Datum> {
        let lease = Lease { entry, token, held: true };
        let (datum, json, cost_us) = self.compute(reason)?;
        // Objects may have changed while the query ran: then this is not what the fingerprint says.
        if !self.plan.means_the_same(self.request.query, &self.request.arguments)? {
            return Ok(datum);
        }
        if let Err(failure) = self.store(lease, json.bytes(), cost_us) {
            stats::unfilled(&self.request.key, failure.reason);
            connection::warn(&failure);
        }
        Ok(datum)
    }

    fn store(&self, mut lease: Lease<'_>, json: &[u8], cost_us: u64) -> Result<(), Failure> {
        host::fault_point("read.fill");
        let Some(value) = text::to_utf8(json) else {
            return Err(Failure::new(Reason::Encoding, "no UTF-8"));
        };
        if value.len() > guc::value_bytes_max() {
            return Err(Failure::new(Reason::TooLarge, "above pg_cache.value_bytes_max"));
        }
        let sidecar = Sidecar {
            generation: identity::generation(),
            fingerprint: lease.entry.fingerprint,
            value_bytes: value.len() as u64,
            value_hash: value_hash(&value),
            filled_at_ms: unix_ms(),
            cost_us,
            deps: Vec::new(),
        };
        let entry = scripts::Fill {
            value_key: lease.entry.keys.value(),
            sidecar_key: lease.entry.keys.sidecar(),
            lease_key: &lease.entry.keys.lease(),
            token: lease.token,
            value: &value,
            sidecar: &sidecar.encode(),
            ttl_ms: self.request.ttl_ms,
        };
        lease.held = false;
        match connection::ask(|session| Ok(scripts::fill(session, &entry)?))? {
            Filled::Stored => stats::fill(&self.request.key, value.len()),
            Filled::NotOurs => stats::unfilled(&self.request.key, Reason::Foreign),
            Filled::Overtaken => {}
        }
        Ok(())
    }
}

/// Held while the query runs. Dropped by an error of the query too: the next one need not wait.
struct Lease<'a> {
    entry: &'a Entry,
    token: &'a [u8],
    held: bool,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if self.held {
            release(self.entry, self.token);
        }
    }
}

/// Gives a lease back as well as it can be done in a moment: it ends by itself otherwise. This runs
/// while an error unwinds, so interrupts wait and nothing may come out of it.
fn release(entry: &Entry, token: &[u8]) {
    let _held = host::HoldInterrupts::start();
    let ask = || {
        connection::tell(|session: &mut Session| {
            Ok(scripts::release(session, &entry.keys.lease(), token)?)
        })
    };
    let _ = catch_unwind(AssertUnwindSafe(ask));
}

/// Marks that a query of ours runs, so that one inside it is refused.
struct Computing;

impl Computing {
    fn start() -> Self {
        COMPUTING.set(true);
        Self
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        COMPUTING.set(false);
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

pub fn unix_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}
