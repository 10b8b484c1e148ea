//! Owns the errors of commands that are asked at once, a part of the catalogue.
//!
//! Invariant: as in the catalogue. What is refused here has not been sent, but for a reply that
//! cannot be given on: then the command has been carried out, and the detail says so.

use super::Error;
use crate::command::{self, Kind};

impl From<Asking> for Error {
    fn from(error: Asking) -> Self {
        Error::Asking(error)
    }
}

/// What is wrong with a command, or with what came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asking {
    /// Of a kind that nobody may send.
    Refused {
        command: String,
        kind: Kind,
    },
    /// Of a kind that only superusers may send.
    Superuser {
        command: String,
    },
    ReplyTooLarge {
        bytes_max: usize,
    },
    ReplyTooDeep {
        depth_max: usize,
    },
    NoText,
}

impl Asking {
    pub(super) fn sqlstate(&self) -> &'static str {
        match self {
            Asking::Refused { .. } => "0A000",
            Asking::Superuser { .. } => "42501",
            Asking::ReplyTooLarge { .. } | Asking::ReplyTooDeep { .. } => "54000",
            Asking::NoText => "22021",
        }
    }

    pub(super) fn message(&self) -> String {
        match self {
            Asking::Refused { command, .. } => format!("cannot send command \"{command}\""),
            Asking::Superuser { command } => {
                format!("must be superuser to send command \"{command}\"")
            }
            Asking::ReplyTooLarge { .. } => "the reply of redis is too large".into(),
            Asking::ReplyTooDeep { .. } => "the reply of redis is nested too deeply".into(),
            Asking::NoText => "the redis key holds what is no text of this database".into(),
        }
    }

    pub(super) fn detail(&self) -> Option<String> {
        Some(match self {
            Asking::Refused { kind, .. } => kind.sentence().into(),
            Asking::Superuser { .. } => Kind::Administrative.sentence().into(),
            Asking::ReplyTooLarge { bytes_max } => {
                format!("The command was carried out; pg_cache.value_bytes_max is {bytes_max}.")
            }
            Asking::ReplyTooDeep { depth_max } => {
                format!("The command was carried out; the limit is {depth_max} levels.")
            }
            Asking::NoText => {
                "The bytes are not UTF-8, have no equivalent in its encoding, or hold a NUL.".into()
            }
        })
    }

    pub(super) fn hint(&self) -> Option<String> {
        let hint = match self {
            Asking::Refused { command, .. } => command::instead_of(command.as_bytes())?,
            Asking::Superuser { .. } => {
                "A superuser may wrap it in a function that is SECURITY DEFINER."
            }
            Asking::ReplyTooLarge { .. } => {
                "Ask for a part, as by GETRANGE or HSCAN, or raise pg_cache.value_bytes_max."
            }
            Asking::ReplyTooDeep { .. } => return None,
            Asking::NoText => "Use redis_command('GET', ...), which gives bytes as base64.",
        };
        Some(hint.to_owned())
    }

    /// One of each, for the catalogue.
    pub(super) fn examples() -> Vec<Self> {
        let refused = |command: &str, kind| Asking::Refused { command: command.into(), kind };
        vec![
            refused("BLPOP", Kind::Blocking),
            refused("SUBSCRIBE", Kind::Connection),
            refused("MULTI", Kind::Connection),
            refused("FLUSHALL", Kind::Administrative),
            Asking::Superuser { command: "FLUSHALL".into() },
            Asking::ReplyTooLarge { bytes_max: 8_388_608 },
            Asking::ReplyTooDeep { depth_max: crate::reply::DEPTH_MAX },
            Asking::NoText,
        ]
    }
}
