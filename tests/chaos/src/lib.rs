//! The oracle: readers, writers and troubles at once, and a judgement on every answer.
//!
//! It shows the promises of the cache as they are written, without looking at how they are kept:
//! S1, that a cached answer is what the query returns under the same snapshot (`questions`,
//! `session`); S2, that a plain Redis client finds under a named key nothing older than the last
//! commit (`ledger`, `named`, `plain`); S3, that nobody ever sees what was rolled back (`ways`,
//! `plain`). Errors of statements are no violations: they are counted and printed. A run is a seed,
//! see `run`; what is not promised at some moments is left out by `weather`.
//!
//! A checker that cannot fail proves nothing: see `guards`.

mod changes;
pub mod guards;
mod habit;
mod ledger;
mod named;
mod plain;
mod questions;
mod reader;
mod replay;
mod run;
mod schema;
mod session;
mod tally;
mod third;
mod trouble;
mod verify;
mod ways;
mod weather;
mod world;
mod writer;

pub use run::{Outcome, run};
pub use world::Setup;

/// The names of all troubles.
pub fn troubles() -> Vec<&'static str> {
    trouble::TROUBLES.iter().map(|trouble| trouble.name).collect()
}
