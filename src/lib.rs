//! pg_cache.
