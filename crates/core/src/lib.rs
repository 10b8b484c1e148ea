//! Pure decisions of pg_cache: no PostgreSQL, no Redis, no clock.
#![forbid(unsafe_code)]
