//! Why Redis could not be used, in the words of the statistics.
//!
//! Every error on the way to Redis passes through [`Failure::from`], so that the counters, the
//! WARNING, `redis_explain` and the SQLSTATE of the administrative functions cannot disagree.

use std::error::Error;
use std::io;
use std::sync::Arc;

use pg_cache_core::error::Replied;
use pg_cache_core::reason::Reason;
use redis::{RedisError, RedisResult, ServerErrorKind};

/// A reason for the statistics, and what the server or the system said.
#[derive(Debug)]
pub struct Failure {
    pub reason: Reason,
    pub detail: String,
}

impl Failure {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// Whether the connection is still in step and worth keeping: the reply was complete, and it
    /// refuses this one command for want of memory rather than this client.
    pub fn spares_connection(&self) -> bool {
        matches!(self.reason, Reason::Oom) || self.is_about_one_key()
    }

    /// Whether the breaker should hear of it. A foreign value too large for us says nothing about
    /// the server's health.
    pub fn counts_against_server(&self) -> bool {
        !matches!(
            self.reason,
            Reason::Oom
                | Reason::TooLarge
                | Reason::Breaker
                | Reason::Identity
                | Reason::Generation
        ) && !self.is_about_one_key()
    }

    /// Whether it would have met any other client of that server as well.
    pub fn tells_of_server(&self) -> bool {
        matches!(
            self.reason,
            Reason::Connect | Reason::Timeout | Reason::Closed | Reason::Loading | Reason::Busy
        )
    }

    /// Whether it is of what was asked for, so that the next try would meet it as well.
    pub fn is_refusal(&self) -> bool {
        match self.reason {
            Reason::NoPerm | Reason::TooLarge => true,
            Reason::ServerError => !is_of_server(self.detail.split(' ').next().unwrap_or_default()),
            _ => false,
        }
    }

    /// Somebody left a list or the like where our lease would stand.
    fn is_about_one_key(&self) -> bool {
        self.reason == Reason::ServerError && self.detail.starts_with("WRONGTYPE")
    }
}

impl Failure {
    /// Of a command that the user gave: what the server says of the command itself is an answer,
    /// and no failure. What it would say to any command is one.
    pub fn of_command(error: RedisError) -> Result<Replied, Self> {
        let failure = Self::from(error);
        let is_answer = matches!(
            failure.reason,
            Reason::ServerError | Reason::Oom | Reason::ReadOnly | Reason::NoPerm
        );
        if !is_answer {
            return Err(failure);
        }
        let (code, detail) = failure.detail.split_once(' ').unwrap_or((&failure.detail, ""));
        Ok(Replied { code: code.to_owned(), detail: detail.to_owned() })
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self { reason: reason_of(&error), detail: describe(&error) }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        RedisError::from(error).into()
    }
}

/// The server's own words, or the system's; never the command, which may hold a password.
fn describe(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        _ => error.to_string(),
    }
}

fn reason_of(error: &RedisError) -> Reason {
    if let redis::ErrorKind::Server(kind) = error.kind() {
        return reason_of_reply(kind);
    }
    if let Some(code) = error.code() {
        return reason_of_code(code);
    }
    match io_error(error).map(io::Error::kind) {
        Some(io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => Reason::Timeout,
        Some(io::ErrorKind::FileTooLarge) => Reason::TooLarge,
        Some(io::ErrorKind::InvalidData) => Reason::Protocol,
        Some(_) => Reason::Closed,
        None if error.is_connection_dropped() => Reason::Closed,
        None => Reason::Protocol,
    }
}

/// Whether the server, rather than this command, is in the way, if it was a command of ours. A
/// script that is not there was lost with all others; the next step brings them again.
pub fn is_about_server(error: &RedisError) -> bool {
    is_of_server(error.code().unwrap_or_default())
}

fn is_of_server(code: &str) -> bool {
    let of_server = [
        "NOSCRIPT",
        "OOM",
        "READONLY",
        "LOADING",
        "BUSY",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "NOAUTH",
        "MISCONF",
        "TRYAGAIN",
        "NOREPLICAS",
        "UNKILLABLE",
        "EXECABORT",
    ];
    of_server.contains(&code)
}

/// Sorts out what the server says of the command at hand alone, which is in the inner result: it
/// would take others.
pub fn alone<T>(answer: RedisResult<T>) -> Result<Result<T, Failure>, Failure> {
    match answer {
        Err(error) if error.code().is_some() && !is_about_server(&error) => Ok(Err(error.into())),
        answer => Ok(Ok(answer?)),
    }
}

/// redis-rs keeps the system's error behind an `Arc` and shows it only as a source.
fn io_error(error: &RedisError) -> Option<&io::Error> {
    type Kept = Arc<dyn Error + Send + Sync>;
    error.source()?.downcast_ref::<Kept>()?.downcast_ref()
}

fn reason_of_reply(kind: ServerErrorKind) -> Reason {
    match kind {
        ServerErrorKind::BusyLoading => Reason::Loading,
        ServerErrorKind::ReadOnly => Reason::ReadOnly,
        ServerErrorKind::NoPerm => Reason::NoPerm,
        ServerErrorKind::MasterDown | ServerErrorKind::ClusterDown => Reason::Busy,
        _ => Reason::ServerError,
    }
}

fn reason_of_code(code: &str) -> Reason {
    match code {
        "NOAUTH" | "WRONGPASS" => Reason::NoAuth,
        "LOADING" => Reason::Loading,
        "OOM" => Reason::Oom,
        "READONLY" => Reason::ReadOnly,
        "NOPERM" => Reason::NoPerm,
        "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" => Reason::Busy,
        _ => Reason::ServerError,
    }
}
