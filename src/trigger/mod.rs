//! The trigger functions: what they need is made once per trigger and kept; each row is noted.

pub mod ddl;
pub mod invalidate;
pub mod send;
mod sending;
pub mod track;
