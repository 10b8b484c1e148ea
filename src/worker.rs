//! The background worker of a database: registers, makes the tag table, pays debts, sweeps.
//!
//! Any backend starts it when there is something to do; it goes when it has been idle for a moment,
//! or as soon as it sees that DROP DATABASE waits for it. Each pass looks at what PostgreSQL and
//! Redis say now and takes the next step in the order of the protocol; nothing is remembered from
//! one worker to the next. Invariant: one worker for each database, and readers use a generation
//! only after the last step of its making. Without the order of the steps a writer could commit
//! unseen by both the table and the debts.

mod all_keys;
mod debts;
mod done;
mod look;
mod lost;
mod making;
mod relay;
mod room;
mod sending;
mod sweep;
mod tokens;
mod waiting;

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::thread::LocalKey;

use pg_cache_core::limiter::Limiter;
use pg_cache_core::reason::Reason;

use crate::client::failure::Failure;
use crate::connection;
use crate::outbox;
use crate::pg::bgworker::Errand;
use crate::pg::error::{Outcome, Raised};
use crate::pg::snapshot::Snapshot;
use crate::pg::transaction::{self, End};
use crate::pg::{activity, bgworker, error, host, lockers, wal};
use crate::registry::{self, Registration};
use crate::stats;

use self::look::{Look, look, usable};
use self::relay::Relayed;

/// How often a backend tries to start a worker.
const WAKE_EVERY_MS: u64 = 100;

/// How long the worker stays without anything to do, or anything that it can do.
const IDLE_MS_MAX: u64 = 2_000;

/// How long it waits for a CREATE EXTENSION that is not committed yet. (DROP DATABASE waits for 5
/// seconds.)
const ABSENT_MS_MAX: u64 = 3_000;

/// How long debts that could not be paid wait for the next worker, at first and at most.
const WAIT_SECONDS_MIN: u32 = 5;
const WAIT_SECONDS_MAX: u32 = 60;

/// The symbol of its entry.
pub const WORKER: &CStr = c"pg_cache_worker";

/// The symbol of the one that waits in its place.
const WAITER: &CStr = c"pg_cache_waiter";

/// Between two looks of an idle worker.
const LOOK_EVERY_MS: u64 = 100;

/// The longest pause of one that cannot do what there is to do; they double up to it.
const BLOCKED_MS_MAX: u64 = 800;

thread_local! {
    static WAKES: RefCell<Limiter> = RefCell::new(Limiter::new(WAKE_EVERY_MS));
    static STARTS: RefCell<Limiter> = RefCell::new(Limiter::new(WAKE_EVERY_MS));
    static NO_SLOT: Cell<bool> = const { Cell::new(false) };
    static WAKE_AT_END: Cell<bool> = const { Cell::new(false) };
}

background_worker!(pg_cache_worker, serve, run);
background_worker!(pg_cache_waiter, serve_alone, rest);

/// The same, which has work at this moment: if one runs, its wait ends. What is committed by now it
/// sees, or finds when it looks once more before it goes.
pub fn wake_now() {
    if start_unless_it_runs(|| is_due(&STARTS)) {
        bgworker::nudge();
    }
}

/// The same for one who owes and is not committed yet: whoever was woken a moment ago may have
/// looked for the last time since.
pub fn wake_for_debts() {
    start_unless_it_runs(|| is_due(&STARTS));
}

/// Whether one runs already.
fn start_unless_it_runs(may_start: impl FnOnce() -> bool) -> bool {
    if !bgworker::is_possible() || wal::is_standby() {
        return false;
    }
    let runs = lockers::is_running();
    if runs || may_start() {
        NO_SLOT.set(!runs && !bgworker::start(WORKER, Errand::here()));
    }
    runs
}

fn is_due(limiter: &'static LocalKey<RefCell<Limiter>>) -> bool {
    let allowed = limiter.try_with(|limiter| {
        limiter.try_borrow_mut().is_ok_and(|mut limiter| limiter.allow(host::monotonic_ms()))
    });
    allowed == Ok(true)
}

/// Starts the worker of this database unless one runs. Never raises, waits or takes an id.
pub fn wake() {
    // It may be CREATE EXTENSION that calls: the launcher is to look.
    stats::database().inspect(|database| database.forget_absence());
    if is_due(&WAKES) {
        start_unless_it_runs(|| true);
    }
}

/// Starts it now, and again when this transaction has ended: CREATE EXTENSION calls, and what a
/// worker may do depends on what is not committed yet.
pub fn wake_now_and_later() {
    wake();
    WAKE_AT_END.set(true);
}

/// The transaction has ended. As `wake`, never raises.
pub fn transaction_ended() {
    if WAKE_AT_END.take() {
        wake();
    }
}

/// Whether this backend's last attempt found no free worker slot.
pub fn no_slot() -> bool {
    NO_SLOT.get()
}

/// Somebody who only looks whether there is a worker holds its lock for an instant.
fn become_worker() -> bool {
    const TRIES: u32 = 3;
    (0..TRIES).any(|attempt| {
        if attempt > 0 {
            bgworker::wait(10);
        }
        lockers::become_worker()
    })
}

/// Waits, without a database, and then starts a worker.
fn rest(errand: Errand) -> Outcome<()> {
    if lockers::become_waiter(errand.database) {
        rest_until(host::monotonic_ms() + 1000 * u64::from(errand.waited_seconds));
        lockers::stop_waiting(errand.database);
        bgworker::start(WORKER, Errand { is_visit: false, ..errand });
    }
    Ok(())
}

/// Waits, whoever wakes us: each of those who commit would have us try what fails.
fn rest_until(until_ms: u64) {
    while host::monotonic_ms() < until_ms {
        bgworker::wait(until_ms.saturating_sub(host::monotonic_ms()));
    }
}

/// What a pass came to.
#[derive(Debug)]
enum Pass {
    /// A step was taken: look again at once.
    Worked,
    /// Nothing to do.
    Done,
    /// Debts are left that Redis refuses, and nothing else.
    Stuck,
    /// There is something to do, but not now.
    Blocked,
    /// The extension is not there.
    Absent,
}

/// The errand of the next one, which is to wait longer than this one's did.
fn later(errand: Errand) -> Errand {
    let waited_seconds = (2 * errand.waited_seconds).clamp(WAIT_SECONDS_MIN, WAIT_SECONDS_MAX);
    Errand { waited_seconds, ..errand }
}

fn run(mut errand: Errand) -> Outcome<()> {
    if wal::is_standby() || !become_worker() {
        return Ok(());
    }
    // Whatever ends this process, an error or an administrator: what is left to do is looked at.
    bgworker::start_alone_at_exit(WAITER, later(errand));
    let mut worker = Worker::default();
    let mut idle_since_ms = host::monotonic_ms();
    loop {
        // One request to a Redis that hangs takes as long as an idle worker stays. It is not to go
        // before it has tried once more.
        let idle_ms = host::monotonic_ms().saturating_sub(idle_since_ms);
        let pass = worker.pass()?;
        activity::idle();
        if worker.relay.has_delivered() && errand.waited_seconds > 0 {
            // What there was to wait for is over.
            errand.waited_seconds = 0;
            bgworker::start_alone_at_exit(WAITER, later(errand));
        }
        if lockers::is_database_wanted() {
            lockers::resign();
            return leave_a_waiter(errand);
        }
        // Whoever owes woke us before its commit record, which may wait for a replica; and whoever
        // commits what another session prepared wakes nobody.
        let is_idle = matches!(pass, Pass::Done | Pass::Stuck);
        let is_owing = is_idle && somebody_writes();
        if matches!(pass, Pass::Worked) || is_owing {
            worker.blocked = 0;
            idle_since_ms = host::monotonic_ms();
            bgworker::wait(if is_owing { LOOK_EVERY_MS } else { 0 });
            continue;
        }
        let limit_ms = match pass {
            // It has tried twice where it can do nothing.
            _ if errand.is_visit && (!matches!(pass, Pass::Blocked) || worker.blocked > 0) => 0,
            // DROP EXTENSION, and maybe DROP DATABASE is next.
            Pass::Absent if worker.was_here => {
                bgworker::start_none_at_exit();
                return Ok(());
            }
            Pass::Absent => ABSENT_MS_MAX,
            _ => IDLE_MS_MAX,
        };
        if idle_ms >= limit_ms {
            host::fault_point("worker.leaving");
            lockers::resign();
            host::fault_point("worker.resigned");
            // Whoever owed while we held the lock found us running and started nobody. Who has not
            // committed is asked for first: those behind that question are seen by the look.
            worker.has_resigned = true;
            let more = is_idle
                && (somebody_writes() || !matches!(worker.pass()?, Pass::Done | Pass::Stuck));
            if !more || !lockers::become_worker() {
                return leave_a_waiter(errand);
            }
            worker.has_resigned = false;
            // Whoever was the worker meanwhile may have put something aside.
            worker.relay = relay::Relay::default();
            idle_since_ms = host::monotonic_ms();
        }
        let pause_ms = worker.pause_ms(&pass);
        match pass {
            Pass::Blocked => rest_until(host::monotonic_ms() + pause_ms),
            _ => bgworker::wait(pause_ms),
        }
    }
}

/// What a worker knows beside what it reads in each pass.
#[derive(Default)]
struct Worker {
    /// Whether it has seen the extension.
    was_here: bool,
    /// Somebody else may be the worker by now.
    has_resigned: bool,
    debts: debts::Debts,
    relay: relay::Relay,
    sweep: sweep::Sweep,
    done: done::Done,
    tokens: tokens::Tokens,
    room_of_debts: room::Room,
    room_of_events: room::Room,
    /// Passes in a row that came to nothing.
    blocked: u32,
    /// Troubles that the log heard of.
    reported: Vec<Reason>,
}

/// Why a step was not taken.
enum Trouble {
    /// With Redis: the next pass tries again.
    Redis(Failure),
    /// With PostgreSQL: ends the worker.
    Postgres(Raised),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Trouble::Redis(failure)
    }
}

impl From<Raised> for Trouble {
    fn from(raised: Raised) -> Self {
        Trouble::Postgres(raised)
    }
}

type Step<T> = Result<T, Trouble>;

/// What a step came to; what Redis says to it stops no other, and is told when all are done.
fn heard<T: Default>(step: Step<T>, troubles: &mut Vec<Failure>) -> Outcome<T> {
    match step {
        Ok(came_to) => Ok(came_to),
        Err(Trouble::Redis(failure)) => {
            troubles.push(failure);
            Ok(T::default())
        }
        Err(Trouble::Postgres(raised)) => Err(raised),
    }
}

impl Worker {
    fn pass(&mut self) -> Outcome<Pass> {
        match self.step() {
            Ok(pass) => Ok(pass),
            Err(Trouble::Redis(failure)) => {
                self.report(&failure);
                Ok(Pass::Blocked)
            }
            Err(Trouble::Postgres(raised)) => Err(raised),
        }
    }

    /// Before the next look: a Redis that is away is asked less and less often.
    fn pause_ms(&mut self, pass: &Pass) -> u64 {
        let is_blocked = matches!(pass, Pass::Blocked);
        self.blocked = if is_blocked { self.blocked + 1 } else { 0 };
        let doublings = self.blocked.saturating_sub(1).min(8);
        (LOOK_EVERY_MS << doublings).min(BLOCKED_MS_MAX)
    }

    fn step(&mut self) -> Step<Pass> {
        activity::show("looking at the registry");
        let left = lost::left();
        let found = look()?;
        stats::database().inspect(|database| database.set_extension(Some(found.is_some())));
        host::fault_point("worker.looked");
        let Some(mut look) = found else {
            // Nobody is promised anything of them any more. Those that came behind the look may be
            // of an extension that was created since.
            if !self.has_resigned {
                lost::forget(&left);
            }
            return Ok(Pass::Absent);
        };
        if lost::is_any() {
            if self.has_resigned {
                return Ok(Pass::Worked);
            }
            lost::adopt()?;
            look.owes = true;
        }
        self.was_here = true;
        // Trouble is paced by the passes, not by the breaker.
        connection::retry_now();
        let server = connection::ask(|session| Ok(session.identify()?))?;
        if !server.is_primary() {
            return Err(Failure::new(Reason::Identity, format!("role {}", server.role)).into());
        }
        let Some(registration) = usable(&look, &server)? else {
            let (relay, may_work) = (&mut self.relay, !self.has_resigned);
            return making::register_and_make(&server, &mut || match may_work {
                true => relay.step_past_debts(),
                false => Ok(()),
            });
        };
        // Before the events: what a transaction owes for a key would take away what it sets there.
        // And a Redis that is full takes no events, and takes debts.
        let paid = self.pay(&look, &registration)?;
        let relayed = match self.has_resigned {
            true => Ok(Relayed { has_worked: relay::is_anything_new()?, ..Relayed::default() }),
            false if self.debts.go_first() => Ok(Relayed::default()),
            false => self.relay.step(&|xid| self.debts.is_stuck(xid)),
        };
        if let Err(Trouble::Postgres(raised)) = relayed {
            return Err(raised.into());
        }
        let has_events_room = relayed.as_ref().is_ok_and(|relayed| relayed.has_room_to_give);
        let came_to = self.rest_of_step(&registration, paid, relayed);
        if !self.has_resigned && look.has_room_to_give && !look.owes {
            self.room_of_debts.give_back("redis_debt", registry::debts::shrink)?;
        }
        if !self.has_resigned && has_events_room {
            self.room_of_events.give_back("redis_outbox", outbox::shrink)?;
        }
        came_to
    }

    /// Pays debts, if there are any; what Redis says to that stops nothing else.
    fn pay(&mut self, look: &Look, registration: &Registration) -> Outcome<Pass> {
        if !look.owes {
            self.debts.forget();
            return Ok(Pass::Done);
        }
        if self.has_resigned {
            let is_new = self.debts.is_anything_new()?;
            return Ok(if is_new { Pass::Worked } else { Pass::Stuck });
        }
        match self.debts.pay(registration) {
            Ok(pass) => Ok(pass),
            Err(Trouble::Redis(failure)) => {
                self.report(&failure);
                Ok(Pass::Blocked)
            }
            Err(Trouble::Postgres(raised)) => Err(raised),
        }
    }

    /// What is done behind debts and events, however they stand: events may never end, or not be
    /// taken by Redis.
    fn rest_of_step(
        &mut self,
        registration: &Registration,
        paid: Pass,
        relayed: Step<Relayed>,
    ) -> Step<Pass> {
        let may_work = !self.has_resigned;
        let mut troubles = Vec::new();
        let swept = self.sweep.step(registration).map_err(Trouble::Redis);
        let has_swept = heard(swept, &mut troubles)?;
        let has_forgotten = may_work && heard(self.done.step(), &mut troubles)?;
        let has_struck = may_work && heard(self.tokens.step(registration), &mut troubles)?;
        let Relayed { has_worked, is_held, is_locked_out, .. } = heard(relayed, &mut troubles)?;
        // What is held up by a debt that came just now is looked at again at once.
        let must_pay = is_held && !matches!(paid, Pass::Blocked);
        let has_paid = matches!(paid, Pass::Worked);
        if has_swept || has_forgotten || has_struck || has_worked || must_pay || has_paid {
            troubles.iter().for_each(|failure| self.report(failure));
            return Ok(Pass::Worked);
        }
        match troubles.pop() {
            Some(last) => {
                troubles.iter().for_each(|failure| self.report(failure));
                Err(last.into())
            }
            None if is_locked_out => Ok(Pass::Blocked),
            None => Ok(paid),
        }
    }

    /// Into the server's log, once for each kind of trouble.
    fn report(&mut self, failure: &Failure) {
        // A breaker that is open says nothing new.
        if failure.reason != Reason::Breaker && !self.reported.contains(&failure.reason) {
            let sentence = failure.reason.sentence();
            error::log(&format!("pg_cache worker: {sentence} ({})", failure.detail));
            self.reported.push(failure.reason);
        }
    }
}

/// Debts that nobody's reading brings to mind keep keys old for programs that read Redis, and
/// events wait for whoever reads them. Both are looked at again later; a worker that stayed for
/// them would hold up DROP DATABASE. So are those of transactions that are not over: whoever ends a
/// prepared one wakes nobody.
///
/// The worker has resigned: who comes behind these questions starts another. Those that are not
/// over are asked for first. Asked for last, one that commits in between would be neither.
fn leave_a_waiter(errand: Errand) -> Outcome<()> {
    let is_left =
        somebody_writes() || lost::is_any() || is_anything_owed()? || relay::is_anything_left()?;
    if is_left && !lockers::is_waited_for(errand.database) {
        bgworker::start_alone(WAITER, later(errand));
    }
    bgworker::start_none_at_exit();
    Ok(())
}

/// Whether anything is owed, refused or not, for one who leaves.
fn is_anything_owed() -> Outcome<bool> {
    transaction::run(|| {
        let owes = registry::is_installed() && registry::debts::is_any(&Snapshot::active());
        Ok(End::Commit(owes))
    })
}

/// Whether a transaction that is not over, prepared or not, has written debts or to the outbox.
fn somebody_writes() -> bool {
    let tables = [registry::debts::table(), registry::outbox_table()];
    tables.into_iter().flatten().any(lockers::is_held_for_writing)
}
