//! What can go wrong with events that are to be kept until they are delivered.

use super::Error;

impl From<Outbox> for Error {
    fn from(error: Outbox) -> Self {
        Error::Outbox(error)
    }
}

/// Before the commit record: the transaction fails, and its events with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outbox {
    Locked,
    Full { megabytes: u64, megabytes_max: u64 },
}

impl Outbox {
    /// One of each, for the catalogue.
    pub fn examples() -> Vec<Self> {
        vec![Outbox::Locked, Outbox::Full { megabytes: 1024, megabytes_max: 1024 }]
    }

    pub fn sqlstate(&self) -> &'static str {
        match self {
            Outbox::Locked => "55P03",
            Outbox::Full { .. } => "53400",
        }
    }

    pub fn message(&self) -> String {
        match self {
            Outbox::Locked => "could not lock redis_outbox",
            Outbox::Full { .. } => "the outbox of durable events is full",
        }
        .to_owned()
    }

    pub fn detail(&self) -> Option<String> {
        Some(match self {
            Outbox::Locked => "A durable event could not be written down.".to_owned(),
            Outbox::Full { megabytes, megabytes_max } => format!(
                "About {megabytes} MB wait in redis_outbox; pg_cache.outbox_mb_max is \
                 {megabytes_max}."
            ),
        })
    }

    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Outbox::Locked => "Try again when what holds redis_outbox has ended.",
            Outbox::Full { .. } => {
                "See redis_health() for what keeps the worker from delivering them."
            }
        };
        Some(hint.to_owned())
    }
}
