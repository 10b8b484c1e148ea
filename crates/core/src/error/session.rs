//! What can go wrong with a session, a part of the catalogue.
//!
//! Invariant: as in the catalogue, and no text here can hold an id: whoever reads the log must not
//! be able to be somebody else.

use super::Error;

impl From<Session> for Error {
    fn from(error: Session) -> Self {
        Error::Session(error)
    }
}

/// Why a session could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    IdEmpty,
    IdTooLong { bytes: usize, bytes_max: usize },
    NotObject { what: &'static str },
    CookieExpired,
    Ended,
    Changed,
    Unreadable,
    TooLarge { bytes: usize, bytes_max: usize },
    NoRandomness,
}

impl Session {
    /// One of each, for the catalogue.
    pub fn examples() -> Vec<Self> {
        vec![
            Session::IdEmpty,
            Session::IdTooLong { bytes: 600, bytes_max: 512 },
            Session::NotObject { what: "data" },
            Session::CookieExpired,
            Session::Ended,
            Session::Changed,
            Session::Unreadable,
            Session::TooLarge { bytes: 2_000_000, bytes_max: 1_048_576 },
            Session::NoRandomness,
        ]
    }

    pub fn sqlstate(&self) -> &'static str {
        match self {
            Session::IdEmpty | Session::NotObject { .. } | Session::CookieExpired => "22023",
            Session::IdTooLong { .. } | Session::TooLarge { .. } => "54000",
            Session::Ended => "P0002",
            Session::Changed => "40001",
            Session::Unreadable => "22P02",
            Session::NoRandomness => "58000",
        }
    }

    pub fn message(&self) -> String {
        match self {
            Session::IdEmpty => "session id must not be empty",
            Session::IdTooLong { .. } => "session id is too long",
            Session::NotObject { what: "data" } => "session data must be a JSON object",
            Session::NotObject { .. } => "cookie of a session must be a JSON object",
            Session::CookieExpired => "cookie of the session has expired",
            Session::Ended => "there is no such session",
            Session::Changed => "could not serialize access to the session",
            Session::Unreadable => "the session cannot be read as jsonb",
            Session::TooLarge { .. } => "session is too large",
            Session::NoRandomness => "could not make a session id",
        }
        .to_owned()
    }

    pub fn detail(&self) -> Option<String> {
        Some(match self {
            Session::IdEmpty | Session::NotObject { .. } => return None,
            Session::IdTooLong { bytes, bytes_max } => {
                format!("It has {bytes} bytes; at most {bytes_max} are allowed.")
            }
            Session::CookieExpired => {
                "Its originalMaxAge is not positive, or its expires is over.".to_owned()
            }
            Session::Ended => "It was ended, has expired, or never was.".to_owned(),
            Session::Changed => "Another writer changed it after it was read.".to_owned(),
            Session::Unreadable => {
                "It is no JSON object, or holds what a jsonb of this database cannot.".to_owned()
            }
            Session::TooLarge { bytes, bytes_max } => {
                format!("It has {bytes} bytes; pg_cache.value_bytes_max is {bytes_max}.")
            }
            Session::NoRandomness => {
                "The server has no strong random numbers, and nothing weaker will do.".to_owned()
            }
        })
    }

    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Session::CookieExpired => "Give a ttl, or end the session with redis_session_end.",
            Session::Ended => "Make one with redis_session_new.",
            Session::Changed => "Read it again and retry.",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
