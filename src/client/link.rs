//! The backend's use of its one connection: opened when needed, dropped when in doubt.
//!
//! The session is *moved out* of the link for the time of a request and moved back only after a
//! complete answer. An error, a timeout, a cancel that unwinds: the session is gone with the stack.

use pg_cache_core::breaker::Breaker;
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
    /// Parses the source and reads the password file; asked only when a connection is opened.
    pub resolve: &'a dyn Fn() -> Result<Target, Failure>,
}

pub struct Link {
    host: Host,
    session: Option<Session>,
    source: String,
    secret_source: String,
    breaker: Breaker,
}

/// The clock and the dice: the breaker has neither.
#[derive(Clone, Copy)]
pub struct Moment {
    pub now_ms: fn() -> u64,
    pub random: fn() -> u64,
}

impl Link {
    pub fn new(host: Host) -> Self {
        let (source, secret_source) = (String::new(), String::new());
        Self { host, session: None, source, secret_source, breaker: Breaker::new() }
    }

    /// Runs one request. The breaker may refuse it without a try.
    pub fn ask<T>(
        &mut self,
        route: &Route<'_>,
        moment: Moment,
        request: impl Fn(&mut Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let outcome = self.attempt(route, moment, request);
        self.heed(&outcome, moment);
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
        if self.source != route.source || self.secret_source != route.secret_source {
            self.start_over(route);
        }
        let kept = self.session.take().filter(|session| !session.is_closed());
        let session = kept.map_or_else(|| self.open(route, moment), Ok);
        let outcome = session.and_then(|session| self.run(session, route, request));
        self.heed(&outcome, moment);
        outcome
    }

    /// The breaker learns from every outcome.
    fn heed<T>(&mut self, outcome: &Result<T, Failure>, moment: Moment) {
        match outcome {
            Ok(_) => self.breaker.succeeded(),
            Err(failure) if failure.counts_against_server() => {
                self.breaker.failed((moment.now_ms)(), (moment.random)());
            }
            Err(_) => {}
        }
    }

    fn attempt<T>(
        &mut self,
        route: &Route<'_>,
        moment: Moment,
        request: impl Fn(&mut Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if self.source != route.source || self.secret_source != route.secret_source {
            self.start_over(route);
        }
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
        mut session: Session,
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

    fn open(&mut self, route: &Route<'_>, moment: Moment) -> Result<Session, Failure> {
        let now_ms = (moment.now_ms)();
        if !self.breaker.may_try(now_ms) {
            let wait_ms = self.breaker.retry_in_ms(now_ms);
            let detail = format!("the next try is in {wait_ms} ms");
            return Err(Failure::new(Reason::Breaker, detail));
        }
        let target = (route.resolve)()?;
        Session::open(&target, route.client_name, route.bounds, self.host)
    }

    /// Another server: what was known of the one before does not concern it.
    fn start_over(&mut self, route: &Route<'_>) {
        self.session = None;
        self.breaker = Breaker::new();
        self.source = route.source.to_owned();
        self.secret_source = route.secret_source.to_owned();
    }

    /// An administrator asks in person: no waiting for the breaker.
    pub fn retry_now(&mut self) {
        self.breaker = Breaker::new();
    }

    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }
}
