//! The backend's use of its one connection: opened when needed, dropped when in doubt.
//!
//! The session is *moved out* of the link for the time of a request and moved back only after a
//! complete answer. An error, a timeout, a cancel that unwinds: the session is gone with the stack.
//!
//! Two breakers stand before it. The backend's own keeps it from connecting again and again; the
//! shared one, where there is one, from waiting for a server that others found dead, on a kept
//! connection too. While the shared one is open it alone decides when to try: else the one backend
//! that tried for all would come back last.

use pg_cache_core::breaker::Breaker;
use pg_cache_core::breaker::shared::{Breakers, Permit, SharedBreaker};
use pg_cache_core::reason::Reason;
use pg_cache_core::target::Target;

use super::Host;
use super::failure::Failure;
use super::session::{Bounds, Session};

/// Where to connect and how long to wait, as the settings have it now.
pub struct Route<'a> {
    /// The settings as written: a change of their text means another connection.
    pub source: &'a str,
    pub secret_source: &'a str,
    pub bounds: Bounds,
    pub client_name: &'a str,
    /// Whether the bounds are those that the server's administrator gave everybody, or wider: who
    /// gave up earlier says nothing to others.
    pub is_patient: bool,
    /// Parses the source and reads the password file; asked only when a connection is opened.
    pub resolve: &'a dyn Fn() -> Result<Target, Failure>,
}

pub struct Link {
    host: Host,
    /// Boxed, as it is moved for each request.
    session: Option<Box<Session>>,
    source: String,
    secret_source: String,
    breaker: Breaker,
    /// Of all servers, where backends share them, and of this one.
    breakers: Option<&'static Breakers>,
    shared: Option<&'static SharedBreaker>,
    /// Somebody asks in person: one request goes past the breakers.
    insists: bool,
}

/// Whether calls are answered without a try now.
pub struct Circuit {
    pub is_shared: bool,
    pub failures: u32,
    /// Zero if it is closed.
    pub retry_in_ms: u64,
}

/// The clock and the dice: the breaker has neither.
#[derive(Clone, Copy)]
pub struct Moment {
    pub now_ms: fn() -> u64,
    pub random: fn() -> u64,
}

impl Link {
    pub fn new(host: Host, breakers: Option<&'static Breakers>) -> Self {
        let (source, secret_source) = (String::new(), String::new());
        let (breaker, shared, insists) = (Breaker::new(), None, false);
        Self { host, session: None, source, secret_source, breaker, breakers, shared, insists }
    }

    /// The connection, if there is one.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    /// Whether a post would be sent to the server that the settings name, and nothing is known
    /// against it. Its answer is waited for by whoever posted, whatever the breakers say by then.
    pub fn is_trusted(&self, settings: [&str; 2], now_ms: u64) -> bool {
        let is_open = self.shared.is_some_and(SharedBreaker::is_open);
        self.is_of(settings) && self.breaker.may_try(now_ms) && !is_open
    }

    /// Whether what is known and kept is of the server that these settings name: where it is, and
    /// the file with the password.
    fn is_of(&self, settings: [&str; 2]) -> bool {
        settings == [&self.source[..], &self.secret_source[..]]
    }

    /// Runs one request. The breakers may refuse it without a try.
    pub fn ask<T>(
        &mut self,
        route: &Route<'_>,
        moment: Moment,
        request: impl Fn(&mut Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let permit = self.permit(route, moment)?;
        let outcome = self.attempt(route, moment, request);
        self.heed(&outcome, permit, route, moment);
        outcome
    }

    /// Runs a request that must not run twice. A kept connection that the server has closed is
    /// replaced before anything is sent.
    pub fn ask_once<T>(
        &mut self,
        route: &Route<'_>,
        moment: Moment,
        request: impl FnOnce(&mut Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let permit = self.permit(route, moment)?;
        let kept = self.session.take().and_then(|session| in_order(session, route).transpose());
        let session = kept.unwrap_or_else(|| self.open(route, moment));
        let outcome = session.and_then(|session| self.run(session, route, request));
        self.heed(&outcome, permit, route, moment);
        outcome
    }

    /// Takes the answer to a post from the connection that it was sent over. Only of silence do the
    /// breakers hear: any other failure is made up for by asking anew.
    pub fn collect<T>(
        &mut self,
        route: &Route<'_>,
        moment: Moment,
        request: impl FnOnce(&mut Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let gone = || Failure::new(Reason::Closed, "the connection is gone");
        let session = self.session.take().ok_or_else(gone)?;
        let outcome = self.run(session, route, request);
        if outcome.as_ref().is_err_and(|failure| failure.reason == Reason::Timeout) {
            self.heed(&outcome, Permit::Free, route, moment);
        }
        outcome
    }

    /// Whether the shared breaker lets a request through, kept connection or not. Each one that is
    /// let through tells by `heed` what became of it.
    fn permit(&mut self, route: &Route<'_>, moment: Moment) -> Result<Permit, Failure> {
        if !self.is_of([route.source, route.secret_source]) {
            self.start_over(route);
        }
        let insists = std::mem::take(&mut self.insists);
        let permit = match self.shared {
            Some(shared) if !insists => shared.admit((moment.now_ms)(), probe_ms(route.bounds)),
            _ => Permit::Free,
        };
        match permit {
            Permit::Refused { retry_in_ms } => return Err(refused(retry_in_ms)),
            // Who tries for all must not be kept from it by what it alone remembers.
            Permit::Probe => self.breaker = Breaker::new(),
            Permit::Free => {}
        }
        Ok(permit)
    }

    /// The breakers learn from every outcome. A server that refuses this client is there for
    /// others.
    fn heed<T>(
        &mut self,
        outcome: &Result<T, Failure>,
        permit: Permit,
        route: &Route<'_>,
        moment: Moment,
    ) {
        let failure = outcome.as_ref().err();
        let is_silent = failure.is_some_and(Failure::tells_of_server);
        let is_untried = failure.is_some_and(|failure| failure.reason == Reason::Breaker);
        if !is_silent && !is_untried {
            self.shared.inspect(|shared| shared.succeeded());
        }
        match failure {
            None => self.breaker.succeeded(),
            Some(failure) if failure.counts_against_server() => {
                self.failed(permit, is_silent && route.is_patient, moment);
            }
            Some(_) => {}
        }
    }

    fn failed(&mut self, permit: Permit, tells_others: bool, moment: Moment) {
        let (now_ms, random) = ((moment.now_ms)(), (moment.random)());
        let shared = self.shared.filter(|_| tells_others);
        if shared.is_some_and(|shared| shared.failed(permit, now_ms, random)) {
            self.breaker = Breaker::new();
        } else {
            self.breaker.failed(now_ms, random);
        }
    }

    fn attempt<T>(
        &mut self,
        route: &Route<'_>,
        moment: Moment,
        request: impl Fn(&mut Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if let Some(kept) = self.session.take() {
            match self.run(kept, route, &request) {
                // The server closed an idle connection, or restarted: that is no failure yet.
                Err(failure) if failure.reason == Reason::Closed => {}
                outcome => return outcome,
            }
        }
        let session = self.open(route, moment)?;
        self.run(session, route, &request)
    }

    /// Uses the connection if there is one; opens none and blames nobody.
    pub fn tell<T>(
        &mut self,
        bounds: Bounds,
        request: impl Fn(&mut Session) -> Result<T, Failure>,
    ) -> Option<T> {
        let mut session = self.session.take()?;
        session.set_bounds(bounds);
        let answer = request(&mut session).ok()?;
        self.session = Some(session);
        Some(answer)
    }

    fn run<T>(
        &mut self,
        mut session: Box<Session>,
        route: &Route<'_>,
        request: impl FnOnce(&mut Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        session.set_bounds(route.bounds);
        let outcome = request(&mut session);
        if outcome.as_ref().err().is_none_or(Failure::spares_connection) {
            self.session = Some(session);
        }
        outcome
    }

    fn open(&mut self, route: &Route<'_>, moment: Moment) -> Result<Box<Session>, Failure> {
        let now_ms = (moment.now_ms)();
        if !self.breaker.may_try(now_ms) {
            return Err(refused(self.breaker.retry_in_ms(now_ms)));
        }
        let target = (route.resolve)()?;
        Session::open(&target, route.client_name, route.bounds, self.host).map(Box::new)
    }

    /// Another server: what was known of the one before does not concern it.
    fn start_over(&mut self, route: &Route<'_>) {
        self.session = None;
        self.breaker = Breaker::new();
        let settings = [route.source, route.secret_source];
        self.shared = self.breakers.and_then(|breakers| breakers.of(&settings));
        self.source = route.source.to_owned();
        self.secret_source = route.secret_source.to_owned();
    }

    /// An administrator asks in person: no waiting for the breakers. What all share stays as it is
    /// until there is an answer.
    pub fn retry_now(&mut self) {
        self.breaker = Breaker::new();
        self.insists = true;
    }

    pub fn circuit(&self, now_ms: u64) -> Circuit {
        let own_ms = self.breaker.retry_in_ms(now_ms);
        match self.shared.map(|shared| (shared, shared.open_ms(now_ms))) {
            Some((shared, retry_in_ms)) if retry_in_ms > own_ms => {
                Circuit { is_shared: true, failures: shared.failures(), retry_in_ms }
            }
            _ => {
                let failures = self.breaker.failures();
                Circuit { is_shared: false, failures, retry_in_ms: own_ms }
            }
        }
    }
}

/// A kept connection, unless the server has closed it: what stands between us and that news are
/// answers that nobody took.
fn in_order(mut session: Box<Session>, route: &Route<'_>) -> Result<Option<Box<Session>>, Failure> {
    session.set_bounds(route.bounds);
    match session.take_posted().map_err(Failure::from) {
        Ok(()) => Ok((!session.is_closed()).then_some(session)),
        Err(failure) if failure.reason == Reason::Timeout => Err(failure),
        Err(_) => Ok(None),
    }
}

fn refused(retry_in_ms: u64) -> Failure {
    Failure::new(Reason::Breaker, format!("the next try is in {retry_in_ms} ms"))
}

/// By when a try is over, whatever becomes of it.
fn probe_ms(bounds: Bounds) -> u64 {
    let longest = bounds.connect_timeout.saturating_add(bounds.timeout);
    u64::try_from(longest.as_millis()).unwrap_or(u64::MAX)
}
