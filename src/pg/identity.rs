//! Who asks, and of which database: what separates entries of different origin.

use pg_cache_core::fingerprint::FingerprintBuilder;
use pgrx::pg_sys;

/// The current and the session role.
pub fn roles() -> (pg_sys::Oid, pg_sys::Oid) {
    // SAFETY: a global of the backend.
    let user = unsafe { pg_sys::GetUserId() };
    // SAFETY: as above.
    let session_user = unsafe { pg_sys::GetSessionUserId() };
    (user, session_user)
}

/// The system identifier of the cluster and the oid of the database.
pub fn origin() -> (u64, u32) {
    // SAFETY: a constant of the cluster.
    let system = unsafe { pg_sys::GetSystemIdentifier() };
    // SAFETY: a global of the backend.
    (system, unsafe { pg_sys::MyDatabaseId }.to_u32())
}

/// The cluster, the database and the version of the server.
pub fn add_origin(builder: &mut FingerprintBuilder) {
    let (system, database) = origin();
    builder.number("cluster", system);
    builder.number("database", u64::from(database));
    builder.number("server version", u64::from(pg_sys::PG_VERSION_NUM));
}
