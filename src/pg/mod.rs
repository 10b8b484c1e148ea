//! The adapters to PostgreSQL: the only place for `pg_sys` and `unsafe`.

#[macro_use]
pub mod call;

#[macro_use]
pub mod bgworker;

pub mod activity;
pub mod analysis;
pub mod arguments;
pub mod assume;
mod bare;
pub mod classify;
pub mod condition;
pub mod databases;
pub mod dependencies;
pub mod error;
pub mod event_trigger;
pub mod execute;
pub mod guc;
pub mod hashing;
pub mod host;
pub mod identity;
pub mod implicit;
pub mod inference;
pub mod interval;
pub mod job_done;
pub mod jsonb;
pub mod lockers;
pub mod pins;
pub mod plan;
pub mod privileges;
pub mod queue;
pub mod quote;
pub mod record;
pub mod recordset;
pub mod row_groups;
pub mod row_json;
pub mod row_text;
pub mod settings;
pub mod shape;
pub mod shmem;
pub mod snapshot;
pub mod stable;
pub mod standbys;
pub mod statement;
pub mod subtransaction;
pub mod surroundings;
pub mod table;
pub mod tags;
pub mod temporary;
pub mod text;
pub mod tracked;
pub mod transaction;
pub mod tree;
pub mod trigger;
pub mod ttl;
pub mod utility;
pub mod wal;
pub mod xact;

pub use pgrx::pg_sys::{Datum, Oid};
