//! Pure decisions of pg_cache: no PostgreSQL, no Redis, no clock. Everything here is a value, a
//! codec, a parser or a state machine, so every rule about correctness is tested without a server.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod arrears;
pub mod breaker;
pub mod clock;
pub mod command;
pub mod counters;
pub mod debt;
mod decimal;
mod document;
pub mod eager;
pub mod error;
pub mod event;
pub mod fence;
mod fields;
pub mod fill;
pub mod fingerprint;
pub mod gcra;
pub mod key;
pub mod lately;
pub mod left;
pub mod limiter;
pub mod lost;
pub mod message;
pub mod options;
pub mod pace;
pub mod pending;
pub mod pins;
pub mod queue;
pub mod reason;
pub mod recipe;
pub mod reply;
pub mod resp;
pub mod room;
pub mod rounds;
pub mod rows;
pub mod session;
pub mod settlement;
pub mod sidecar;
pub mod sidekiq;
pub mod tag;
pub mod tagtable;
pub mod target;
pub mod template;
pub mod token;
pub mod ttl;
pub mod xid;
