//! What the end-to-end tests stand on: a database and a Redis for each test, and ways to compare.
//!
//! Owns nothing of the product. The invariant: two tests never share a database, a Redis or a role,
//! so that the order and number of threads change no result. Break it and a failure says nothing.

pub mod counters;
pub mod events;
pub mod express;
pub mod gate;
pub mod guarded;
pub mod jobs;
pub mod kills;
pub mod late;
pub mod notes;
pub mod outbox;
pub mod outcome;
pub mod registry;
pub mod scene;
pub mod sidekiq;
pub mod stopwatch;
pub mod tracking;
pub mod trouble;

pub use counters::Counters;
pub use outcome::{Outcome, cached, direct, same_as_direct};
pub use scene::{Notices, Scene};
