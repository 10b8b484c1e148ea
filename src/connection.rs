//! This backend's way to Redis: settings in, answers or a counted reason out.
//!
//! The one owner of the [`Link`]. Whoever wants something of Redis asks here, so that the breaker,
//! the deadlines and the one WARNING a minute hold for everything.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use pg_cache_core::breaker::shared::Breakers;
use pg_cache_core::limiter::Limiter;
use pg_cache_core::reason::Reason;
use pg_cache_core::target::Target;
use redis::RedisResult;

use crate::client::failure::{self, Failure};
use crate::client::link::{Circuit, Link, Moment, Route};
use crate::client::server::Server;
use crate::client::session::{Bounds, Session};
use crate::client::{Host, Wait};
use crate::pg::{classify, error, guc, host, shmem};

/// How often a backend may say of one kind of trouble with Redis that it is there.
const WARN_EVERY_MS: u64 = 60_000;

/// How long a message that need not be heard may take: a cancel waits for it.
const TELL_TIMEOUT: Duration = Duration::from_millis(40);

/// What a reply may hold besides values: names, sidecars, framing.
const REPLY_OVERHEAD_BYTES: usize = 256 * 1024;

const HOST: Host = Host {
    wait_started,
    wait_ended: host::wait_ended,
    check_interrupts: host::check_interrupts,
    fault_point: host::fault_point,
};

thread_local! {
    /// Never dropped: at exit there is nothing to say to Redis.
    static LINK: ManuallyDrop<RefCell<Link>> =
        ManuallyDrop::new(RefCell::new(Link::new(HOST, breakers())));
    static WARNINGS: RefCell<[Limiter; 4]> =
        RefCell::new(std::array::from_fn(|_| Limiter::new(WARN_EVERY_MS)));
}

fn breakers() -> Option<&'static Breakers> {
    shmem::shared().map(|shared| &shared.breakers)
}

/// Runs one request on the connection, opening it if there is none. A kept connection that turns
/// out to be closed (an idle timeout, a restart) is replaced and the request sent once more:
/// requests must bear that.
pub fn ask<T>(request: impl Fn(&mut Session) -> Result<T, Failure>) -> Result<T, Failure> {
    let timeout = Duration::from_millis(guc::timeout_ms());
    with_route(timeout, None, |link, route| link.ask(route, MOMENT, request))
}

/// The same for one of many things, of which Redis may refuse some and take others: what it says
/// of this one alone stands in the inner result. The answer may hold a value of so many bytes,
/// whatever the settings say by now.
pub fn ask_alone<T>(
    value_bytes: usize,
    request: impl Fn(&mut Session) -> RedisResult<T>,
) -> Result<Result<T, Failure>, Failure> {
    let timeout = Duration::from_millis(guc::timeout_ms());
    let value_bytes_max = guc::value_bytes_max().max(value_bytes);
    let asked = with_route_for(value_bytes_max, timeout, None, |link, route| {
        link.ask(route, MOMENT, |session| failure::alone(request(session)))
    });
    match asked {
        Err(failure) if failure.reason == Reason::TooLarge => Ok(Err(failure)),
        asked => asked,
    }
}

/// As [`ask`] within so much time for all of it: connecting, a second try, each answer.
pub fn ask_within<T>(
    timeout: Duration,
    request: impl Fn(&mut Session) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_route(timeout, Instant::now().checked_add(timeout), |link, route| {
        link.ask(route, MOMENT, request)
    })
}

/// Takes the answer to what was posted, within so much time. No other connection has it: if this
/// one is lost, or the server did not understand, nobody is to blame, and whoever asks anew opens
/// another.
pub fn collect<T>(
    timeout: Duration,
    request: impl FnOnce(&mut Session) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_route(timeout, None, |link, route| link.collect(route, MOMENT, request))
}

/// Runs a request that must not run twice within so much time for all of it. It may be after a
/// commit: nothing here reads a catalogue if [`introduce`] was called in the transaction.
pub fn ask_once<T>(
    timeout: Duration,
    request: impl FnOnce(&mut Session) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let until = Instant::now().checked_add(timeout);
    with_route(timeout, until, |link, route| link.ask_once(route, MOMENT, request))
}

const MOMENT: Moment = Moment { now_ms: host::monotonic_ms, random: host::random };

fn with_route<T>(
    timeout: Duration,
    until: Option<Instant>,
    ask: impl FnOnce(&mut Link, &Route<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_route_for(guc::value_bytes_max(), timeout, until, ask)
}

fn with_route_for<T>(
    value_bytes_max: usize,
    timeout: Duration,
    until: Option<Instant>,
    ask: impl FnOnce(&mut Link, &Route<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    // No time at all would mean no limit.
    let timeout = timeout.max(Duration::from_millis(1));
    let connect_timeout = Duration::from_millis(guc::connect_timeout_ms()).min(timeout);
    let route = Route {
        source: guc::url(),
        bounds: Bounds {
            connect_timeout,
            timeout,
            until,
            reply_bytes_max: value_bytes_max.saturating_add(REPLY_OVERHEAD_BYTES),
        },
        secret_source: guc::password_file(),
        client_name: client_name(),
        is_patient: guc::is_patient(timeout),
        resolve: &resolve,
    };
    LINK.with(|link| ask(&mut link.borrow_mut(), &route))
}

/// Says something that need not be heard: only if there is a connection, and within a moment.
pub fn tell<T>(request: impl Fn(&mut Session) -> Result<T, Failure>) -> Option<T> {
    let bounds = Bounds {
        connect_timeout: TELL_TIMEOUT,
        timeout: TELL_TIMEOUT,
        until: Instant::now().checked_add(TELL_TIMEOUT),
        reply_bytes_max: REPLY_OVERHEAD_BYTES,
    };
    LINK.with(|link| link.borrow_mut().tell(bounds, request))
}

/// Whether what is posted now goes where the settings say, and will be answered, as far as anybody
/// knows.
pub fn is_trusted() -> bool {
    let settings = [guc::url(), guc::password_file()];
    LINK.with(|link| link.borrow().is_trusted(settings, host::monotonic_ms()))
}

/// Whether the server is to prove itself again, where that need not be every time.
pub fn is_proof_due() -> bool {
    LINK.with(|link| link.borrow().session().is_none_or(Session::is_proof_due))
}

/// Finds out, in a transaction, by which name to connect later outside of one.
pub fn introduce() {
    client_name();
    for wait in [Wait::Connect, Wait::Send, Wait::Reply] {
        host::number(event_of(wait));
    }
}

/// Asks past the breakers once, for somebody who asks in person.
pub fn retry_now() {
    LINK.with(|link| link.borrow_mut().retry_now());
}

/// The breaker's state in words, for `redis_health`.
pub fn breaker() -> (bool, String) {
    let circuit = LINK.with(|link| link.borrow().circuit(host::monotonic_ms()));
    let Circuit { is_shared, failures, retry_in_ms } = circuit;
    if retry_in_ms == 0 {
        return (true, "closed".to_owned());
    }
    let whom = if is_shared { " of all backends" } else { "" };
    let state = format!("open after {failures} failures{whom}, next try in {retry_in_ms} ms");
    (false, state)
}

/// What the server said of itself when this backend connected.
pub fn server() -> Result<Server, Failure> {
    ask(|session| Ok(session.server().clone()))
}

/// What a failure means for whoever is warned. Each has an interval of its own: that a query was
/// computed is not to hide that messages are lost.
#[derive(Clone, Copy)]
enum Warning {
    Unusable,
    Unsettled,
    Unlimited,
    Lost,
}

impl Warning {
    /// Whether this backend has not said it within the last minute.
    fn is_due(self) -> bool {
        let now_ms = host::monotonic_ms();
        WARNINGS.with(|warnings| warnings.borrow_mut()[self as usize].allow(now_ms))
    }
}

/// Warns of a failure, at most once a minute. A breaker that is open says nothing new, and a value
/// that is too large is no trouble of Redis.
pub fn warn(failure: &Failure) {
    if matches!(failure.reason, Reason::Breaker | Reason::TooLarge | Reason::Encoding) {
        return;
    }
    if Warning::Unusable.is_due() {
        error::warn_unusable(failure.reason, &failure.detail);
    }
}

/// Warns that a commit could not be settled with Redis, as seldom.
pub fn warn_unsettled(failure: &Failure) {
    if Warning::Unsettled.is_due() {
        error::warn_unsettled(failure.reason, &failure.detail);
    }
}

/// Warns that a rate limit could not be asked, as seldom. Of an open breaker too: another backend
/// may have tried, and this one would stay silent with its gate open.
pub fn warn_unlimited(failure: &Failure, allowed: bool) {
    if Warning::Unlimited.is_due() {
        error::warn_unlimited(failure.reason, &failure.detail, allowed);
    }
}

/// Warns that messages of a committed transaction were lost, as seldom. Of an open breaker too, for
/// the same reason.
pub fn warn_lost(failure: &Failure, lost: usize) {
    if Warning::Lost.is_due() {
        error::warn_lost(failure.reason, &failure.detail, lost);
    }
}

/// How this backend is called among the clients of Redis.
pub fn client_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        // CLIENT SETNAME refuses blanks and anything beyond printable ASCII.
        let database: String = classify::database_name()
            .chars()
            .map(|c| if c.is_ascii_graphic() { c } else { '_' })
            .collect();
        format!("pg_cache:{database}:{}", host::pid())
    })
}

fn wait_started(wait: Wait) {
    host::wait_started(event_of(wait));
}

fn event_of(wait: Wait) -> host::Event {
    match wait {
        Wait::Connect => host::Event::Connect,
        Wait::Send => host::Event::Send,
        Wait::Reply => host::Event::Reply,
    }
}

/// The address, with the password from its file.
fn resolve() -> Result<Target, Failure> {
    let mut target = Target::parse(guc::url())
        .map_err(|error| Failure::new(Reason::Connect, error.message()))?;
    let file = guc::password_file();
    if !file.is_empty() {
        let text = std::fs::read_to_string(file).map_err(|error| {
            Failure::new(Reason::Connect, format!("pg_cache.password_file: {error}"))
        })?;
        target.password = Some(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    Ok(target)
}
