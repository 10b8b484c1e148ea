//! The adapters to PostgreSQL: the only place for `pg_sys` and `unsafe`.

#[macro_use]
pub mod call;

#[macro_use]
pub mod bgworker;

pub mod activity;
pub mod analysis;
pub mod arguments;
pub mod assume;
pub mod classify;
pub mod error;
pub mod execute;
pub mod guc;
pub mod host;
pub mod identity;
pub mod implicit;
pub mod inference;
pub mod interval;
pub mod lockers;
pub mod plan;
pub mod privileges;
pub mod quote;
pub mod recordset;
pub mod settings;
pub mod shape;
pub mod snapshot;
pub mod stable;
pub mod subtransaction;
pub mod surroundings;
pub mod table;
pub mod text;
pub mod transaction;
pub mod tree;
pub mod ttl;
pub mod utility;
pub mod wal;
pub mod xact;

pub use pgrx::pg_sys::{Datum, Oid};
