//! Who asks, and of which database: what separates entries of different origin.

use std::cell::Cell;

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

/// The generation under which this database's entries stand in Redis: until databases register
/// themselves, a hash of the cluster and the database, so that two of them never share an entry.
pub fn generation() -> u128 {
    thread_local! {
        static GENERATION: Cell<Option<u128>> = const { Cell::new(None) };
    }
    if let Some(known) = GENERATION.get() {
        return known;
    }
    let mut builder = FingerprintBuilder::new();
    add_origin(&mut builder);
    let generation = u128::from_le_bytes(builder.finish());
    GENERATION.set(Some(generation));
    generation
}

/// The cluster, the database and the version of the server.
pub fn add_origin(builder: &mut FingerprintBuilder) {
    // SAFETY: a constant of the cluster.
    builder.number("cluster", unsafe { pg_sys::GetSystemIdentifier() });
    // SAFETY: a global of the backend.
    builder.number("database", u64::from(unsafe { pg_sys::MyDatabaseId }.to_u32()));
    builder.number("server version", u64::from(pg_sys::PG_VERSION_NUM));
}
