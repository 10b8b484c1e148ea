//! Owns what can be wrong with the arguments of a rate limit, a part of the catalogue.
//!
//! Invariant: as in the catalogue. A limit that nobody can have meant is refused, never read as no
//! limit: it would be found when the site is down.

use super::Error;

const PER_HINT: &str = "Give a number of seconds or an interval, such as 60 or '1 minute'.";

/// Before anything is asked of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limits {
    Null { name: &'static str },
    KeyEmpty,
    OutOfRange { name: &'static str, given: i32, least: i32, most: i32 },
    PerNotPositive,
    PerTooLong { max_seconds: i64 },
    PerInvalid { text: String },
    PerType { type_name: String },
    ResetTooLong { seconds: u64, max_seconds: i64 },
}

impl From<Limits> for Error {
    fn from(error: Limits) -> Self {
        Error::Limits(error)
    }
}

impl Limits {
    /// One of each, for the catalogue.
    pub fn examples() -> Vec<Self> {
        vec![
            Limits::Null { name: "max" },
            Limits::KeyEmpty,
            Limits::OutOfRange { name: "max", given: 0, least: 1, most: i32::MAX },
            Limits::PerNotPositive,
            Limits::PerTooLong { max_seconds: 2_592_000 },
            Limits::PerInvalid { text: "soon".into() },
            Limits::PerType { type_name: "boolean".into() },
            Limits::ResetTooLong { seconds: 5_184_000, max_seconds: 2_592_000 },
        ]
    }

    /// What is wrong with `per`, which is read as a ttl is.
    pub fn of_per(error: Error) -> Error {
        Error::Limits(match error {
            Error::NullArgument { .. } => Limits::Null { name: "per" },
            Error::TtlNotPositive => Limits::PerNotPositive,
            Error::TtlTooLong { max_seconds } => Limits::PerTooLong { max_seconds },
            Error::TtlInvalid { text } => Limits::PerInvalid { text },
            Error::TtlType { type_name } => Limits::PerType { type_name },
            other => return other,
        })
    }

    pub fn sqlstate(&self) -> &'static str {
        match self {
            Limits::Null { .. } => "22004",
            Limits::PerType { .. } => "42804",
            _ => "22023",
        }
    }

    pub fn message(&self) -> String {
        match self {
            Limits::Null { name } => format!("{name} must not be null"),
            Limits::KeyEmpty => "key of a rate limit must not be empty".into(),
            Limits::OutOfRange { name, given, .. } => format!("{name} out of range: {given}"),
            Limits::PerNotPositive => "per must be greater than zero".into(),
            Limits::PerTooLong { .. } => "per must not be longer than pg_cache.ttl_max".into(),
            Limits::PerInvalid { text } => format!("invalid per: \"{text}\""),
            Limits::PerType { type_name } => format!("per must not be of type {type_name}"),
            Limits::ResetTooLong { .. } => "burst is too large for this rate".into(),
        }
    }

    pub fn detail(&self) -> Option<String> {
        Some(match self {
            Limits::OutOfRange { least, most, .. } => {
                format!("It must be between {least} and {most}.")
            }
            Limits::PerTooLong { max_seconds } => {
                format!("pg_cache.ttl_max is {max_seconds} seconds.")
            }
            Limits::ResetTooLong { seconds, max_seconds } => format!(
                "Such a limit would take {seconds} seconds to reset; pg_cache.ttl_max is \
                 {max_seconds} seconds."
            ),
            _ => return None,
        })
    }

    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Limits::Null { name: "per" }
            | Limits::PerNotPositive
            | Limits::PerInvalid { .. }
            | Limits::PerType { .. } => PER_HINT,
            Limits::KeyEmpty => "All who have no name would share one limit: give them one.",
            Limits::PerTooLong { .. } => "Give a shorter one or raise pg_cache.ttl_max.",
            Limits::ResetTooLong { .. } => "Give a smaller burst or raise pg_cache.ttl_max.",
            Limits::Null { .. } | Limits::OutOfRange { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
