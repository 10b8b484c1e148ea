//! The end-to-end tests: each file is a theme, each test a promise, against real servers.
//!
//! One binary, so that all themes share one PostgreSQL; run one theme with
//! `cargo test -p pg_cache_e2e THEME::`.

mod base;
mod breaker;
mod bump;
mod commits;
mod consumers;
mod debts;
mod durable;
mod encodings;
mod events;
mod events_store;
mod events_trouble;
mod events_types;
mod exactness;
mod faults;
mod flush_health;
mod histories;
mod implicit;
mod interrupts;
mod invalidation;
mod limits;
mod limits_exact;
mod maintenance;
mod misbehaving;
mod plans;
mod preload;
mod preload_shared;
mod privileges;
mod privileges_fuzz;
mod random_queries;
mod read_through;
mod relay;
mod relay_kills;
mod relay_soak;
mod row_groups;
mod row_groups_live;
mod row_groups_random;
mod row_security;
mod scope;
mod settings;
mod stampede;
mod standby;
mod symbols;
mod tracking;
mod tracking_ships;
mod transactions;
mod two_databases;
mod types;
mod unreachable;
mod values;
mod verify;
mod verify_rights;
mod worker;
mod worker_life;
