//! Who asks, and of which database: what separates entries of different origin.

use std::cell::Cell;

use pg_cache_core::fingerprint::FingerprintBuilder;
use pgrx::pg_sys;

use super::bare;

thread_local! {
    static SESSION_ROLE: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
}

/// The current and the session role.
pub fn roles() -> (pg_sys::Oid, pg_sys::Oid) {
    (bare::GetUserId(), SESSION_ROLE.get().unwrap_or_else(session_role))
}

/// The role that this session really belongs to.
pub fn session_role() -> pg_sys::Oid {
    bare::GetSessionUserId()
}

/// Asks for another session's entries; queries that show their session's role still show this one.
pub fn assume_session_role(role: Option<pg_sys::Oid>) {
    SESSION_ROLE.set(role);
}

/// The system identifier of the cluster and the oid of the database.
pub fn origin() -> (u64, u32) {
    // SAFETY: a constant of the cluster.
    let system = unsafe { pg_sys::GetSystemIdentifier() };
    (system, database())
}

/// The oid of the database.
pub fn database() -> u32 {
    // SAFETY: a global of the backend.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// The cluster, the database and the version of the server.
pub fn add_origin(builder: &mut FingerprintBuilder) {
    let (system, database) = origin();
    builder.number("cluster", system);
    builder.number("database", u64::from(database));
    // The query may show the name, which can change, and no event trigger hears of it.
    builder.text("database name", &super::classify::database_name());
    builder.number("server version", u64::from(pg_sys::PG_VERSION_NUM));
}
