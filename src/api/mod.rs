//! What SQL sees, one file a family: take the arguments, call one use case, return.

pub mod cached;
pub mod commands;
pub mod limits;
pub mod messages;
pub mod ops;
pub mod queues;
pub mod sessions;
pub mod tracking;
