//! The background worker of a database: registers, makes the tag table, pays debts, sweeps.

/// Starts the worker of this database unless one runs. Never raises.
pub fn wake() {}
