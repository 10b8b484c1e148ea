//! Owns an exhaustive model of the coherence protocol: writers, readers, the worker that makes the
//! tag table, and a Redis that loses things, fails over and comes back, in every order of their
//! steps. The decisions are those of the real `fence`, `fill`, `pending` and `tagtable`.
//!
//! Invariant: with all guards in force no order breaks a promise, and each guard taken away has an
//! order that does. A guard whose removal is not found is either useless or not modelled.

mod decide;
mod explore;
mod guards;
mod holds;
mod postgres;
mod reader;
mod redis;
mod state;
mod worker;
mod world;
mod writer;
