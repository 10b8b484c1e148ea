//! Owns what can be wrong with a call about a queue or its jobs, a part of the catalogue.
//!
//! Invariant: as in the catalogue; and what a worker must answer with a rollback has SQLSTATE
//! 40001, which programs take as "not now, try again".

use super::Error;
use crate::sidekiq::Flaw;

impl From<Queue> for Error {
    fn from(error: Queue) -> Self {
        Error::Queue(error)
    }
}

/// What is wrong with a call about a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Queue {
    Empty {
        name: &'static str,
    },
    /// Bytes that no other program could read.
    NotUtf8 {
        name: &'static str,
    },
    IdTooLong {
        bytes: usize,
        bytes_max: usize,
    },
    Count {
        given: i32,
        most: i32,
    },
    Format {
        format: String,
    },
    /// A length of time that is none; `name` is the argument's.
    Time {
        name: &'static str,
        why: Untimely,
    },
    /// The job of this id is no longer anybody's to acknowledge.
    Gone {
        id: String,
    },
    /// Another transaction has acknowledged it.
    Taken {
        id: String,
    },
    Locked,
    /// It is no job for a Sidekiq server.
    Sidekiq(Flaw),
}

/// Why a length of time is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Untimely {
    Negative,
    TooLong { max_seconds: i64 },
    Invalid { text: String },
    Type { type_name: String },
}

impl Queue {
    /// One of each, for the catalogue.
    pub fn examples() -> Vec<Self> {
        let id = || "9f86d081884c7d659a2feaa0c55ad015".to_owned();
        let time = |why| Queue::Time { name: "delay", why };
        let mut examples = vec![
            Queue::Empty { name: "queue" },
            Queue::NotUtf8 { name: "id" },
            Queue::IdTooLong { bytes: 300, bytes_max: crate::queue::ID_BYTES_MAX },
            Queue::Count { given: 0, most: crate::queue::JOBS_MAX },
            Queue::Format { format: "resque".into() },
            time(Untimely::Negative),
            time(Untimely::TooLong { max_seconds: 2_592_000 }),
            time(Untimely::Invalid { text: "soon".into() }),
            time(Untimely::Type { type_name: "boolean".into() }),
            Queue::Gone { id: id() },
            Queue::Taken { id: id() },
            Queue::Locked,
        ];
        examples.extend(Flaw::ALL.map(Queue::Sidekiq));
        examples
    }

    pub fn sqlstate(&self) -> &'static str {
        match self {
            Queue::Empty { .. }
            | Queue::Count { .. }
            | Queue::Format { .. }
            | Queue::Sidekiq(_) => "22023",
            Queue::Time { why: Untimely::Type { .. }, .. } => "42804",
            Queue::Time { .. } => "22023",
            Queue::NotUtf8 { .. } => "22021",
            Queue::IdTooLong { .. } => "54000",
            Queue::Gone { .. } | Queue::Taken { .. } => "40001",
            Queue::Locked => "55P03",
        }
    }

    pub fn message(&self) -> String {
        match self {
            Queue::Empty { name } => format!("{name} must not be empty"),
            Queue::NotUtf8 { name } => format!("{name} cannot be written in UTF-8"),
            Queue::IdTooLong { .. } => "id is too long".into(),
            Queue::Count { .. } => "number of jobs out of range".into(),
            Queue::Format { format } => format!("unknown format of jobs: \"{format}\""),
            Queue::Time { name, why } => match why {
                Untimely::Negative => format!("{name} must not be negative"),
                Untimely::TooLong { .. } => {
                    format!("{name} must not be longer than pg_cache.ttl_max")
                }
                Untimely::Invalid { text } => format!("invalid {name}: \"{text}\""),
                Untimely::Type { type_name } => format!("{name} must not be of type {type_name}"),
            },
            Queue::Gone { id } => format!("job \"{id}\" is not in flight"),
            Queue::Taken { id } => format!("job \"{id}\" was acknowledged by another transaction"),
            Queue::Locked => "could not lock redis_job_done".into(),
            Queue::Sidekiq(_) => "payload is no job for sidekiq".into(),
        }
    }

    pub fn detail(&self) -> Option<String> {
        Some(match self {
            Queue::IdTooLong { bytes, bytes_max } => {
                format!("The id has {bytes} bytes; the limit is {bytes_max}.")
            }
            Queue::Count { given, most } => format!("It is {given}, and must be 1 to {most}."),
            Queue::Time { why: Untimely::TooLong { max_seconds }, .. } => {
                format!("pg_cache.ttl_max is {max_seconds} seconds.")
            }
            Queue::Gone { .. } => {
                "Another transaction has acknowledged it, or Redis does not have it (any more)."
                    .into()
            }
            Queue::Locked => "What was done could not be written down.".into(),
            Queue::Sidekiq(flaw) => flaw.sentence().into(),
            _ => return None,
        })
    }

    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Queue::Format { .. } => "Known formats: stream, sidekiq.",
            Queue::Time { .. } => {
                "Give a number of seconds or an interval, such as 300 or '5 min'."
            }
            Queue::Gone { .. } | Queue::Taken { .. } => {
                "Roll back, so that the job's effects are not there twice, and go on with the next."
            }
            Queue::Sidekiq(_) => "Give one such as {\"class\": \"Mailer\", \"args\": [7]}.",
            Queue::Locked => "Try again when what holds redis_job_done has ended.",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_queues_has_an_example() {
        // Danger: an error that users meet and the documentation does not know.
        let variant = |error: &Queue| match error {
            Queue::Empty { .. } => 0,
            Queue::IdTooLong { .. } => 1,
            Queue::Count { .. } => 2,
            Queue::Format { .. } => 3,
            Queue::Time { why: Untimely::Negative, .. } => 4,
            Queue::Time { why: Untimely::TooLong { .. }, .. } => 5,
            Queue::Time { why: Untimely::Invalid { .. }, .. } => 6,
            Queue::Time { why: Untimely::Type { .. }, .. } => 7,
            Queue::Gone { .. } => 8,
            Queue::Taken { .. } => 9,
            Queue::Locked => 10,
            Queue::Sidekiq(_) => 11,
            Queue::NotUtf8 { .. } => 12,
        };
        let listed: std::collections::BTreeSet<i32> =
            Queue::examples().iter().map(variant).collect();
        assert_eq!(listed, (0..=12).collect());
    }
}
