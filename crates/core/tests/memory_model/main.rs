//! Owns an exhaustive model of the protocol with the tag table in shared memory: writers, readers,
//! the worker, a PostgreSQL that crashes and a Redis that loses things, in every order of their
//! steps. What a bucket lists and what a look comes to are decided by the real `memory::Slot` and
//! `fence`.
//!
//! Invariant: with all guards in force no order breaks a promise, and each guard taken away has an
//! order that does. Left out: changes of the schema, early settlement, standbys, and all that a
//! table in Redis is for; the model of that table has those.

mod decide;
mod explore;
mod guards;
mod holds;
mod reader;
mod state;
mod trouble;
mod worker;
mod world;
mod writer;
