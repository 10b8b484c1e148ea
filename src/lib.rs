//! pg_cache: an exact Redis cache inside PostgreSQL.
//!
//! Five floors; a file imports from floors below it. `api` is what SQL sees; `read`, `explain`,
//! `flush`, `health`, `view`, `stats` are the use cases, with `entry` (which entry a call means)
//! and `connection` (this backend's way to Redis) under them; `pg` and `client` adapt PostgreSQL
//! and Redis; decisions are in the crate `pg_cache_core`, which knows neither.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

#[macro_use]
mod pg;

mod api;
mod catalogue;
mod client;
mod commands;
#[allow(dead_code)]
mod commit;
mod connection;
mod direct;
mod entries;
mod entry;
mod events;
mod explain;
mod flush;
mod health;
mod jobs;
mod launcher;
mod limit;
mod listed;
mod outbox;
mod read;
mod recipe;
mod registry;
mod repair;
mod sessions;
mod sidekiq;
mod stats;
mod tracking;
mod trigger;
mod verify;
mod view;
mod worker;

pgrx::pg_module_magic!();

/// Called once when a backend loads the library. No socket and no thread here: with
/// shared_preload_libraries this runs in the postmaster, and children share what it opens.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::guc::register();
    pg::guc::reserve_prefix();
    pg::surroundings::watch();
    pg::trigger::watch();
    pg::statement::listen(commit::statement_listener());
    pg::xact::listen(vec![commit::listener(), events::listener(), sessions::listener()]);
    if pg::shmem::is_preloading() {
        pg::shmem::reserve();
        pg::guc::keep_waits();
        pg::host::start_clock();
        launcher::register();
    }
}
