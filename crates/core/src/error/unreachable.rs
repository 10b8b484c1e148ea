//! Owns what an unreachable Redis is called by each reason, a part of the catalogue.
//!
//! Invariant: as in the catalogue. A client that retries on a SQLSTATE must find the same one for
//! the same trouble, whichever function met it.

use crate::reason::Reason;

pub(super) fn sqlstate(reason: Reason) -> &'static str {
    match reason {
        Reason::Connect | Reason::Breaker => "08001",
        Reason::Timeout | Reason::Closed => "08006",
        Reason::Protocol => "08P01",
        Reason::Version => "0A000",
        Reason::NoAuth => "28P01",
        Reason::Loading => "57P03",
        Reason::Oom => "53200",
        Reason::ReadOnly => "25006",
        Reason::NoPerm => "42501",
        _ => "38000",
    }
}

pub(super) fn message(reason: Reason) -> &'static str {
    match reason {
        Reason::Connect | Reason::Breaker => "could not connect to redis",
        Reason::Timeout => "redis did not answer in time",
        Reason::Closed => "redis closed the connection",
        Reason::Protocol => "what answered does not speak the redis protocol",
        Reason::Version => "redis is too old",
        Reason::NoAuth => "redis refused the user name or password",
        Reason::Loading => "redis is loading its data",
        Reason::Oom => "redis is out of memory",
        Reason::ReadOnly => "redis is read-only",
        Reason::NoPerm => "permission denied by redis",
        Reason::Busy => "redis is busy with a script",
        _ => "redis answered with an error",
    }
}

pub(super) fn hint(reason: Reason) -> Option<String> {
    let hint = match reason {
        Reason::Connect => "Check pg_cache.url and that Redis is running.",
        Reason::Breaker => "It is tried again within seconds.",
        Reason::Timeout => "Check the load on Redis, or raise pg_cache.timeout_ms.",
        Reason::Protocol => "Check the host and the port in pg_cache.url.",
        Reason::Version => "pg_cache needs Redis 7.0 or later, or Valkey 7.2 or later.",
        Reason::NoAuth => {
            "Check the user and password in pg_cache.url, or the file pg_cache.password_file."
        }
        Reason::Loading => "Try again when it has finished.",
        Reason::Oom => "Raise maxmemory, or set a maxmemory-policy that evicts keys.",
        Reason::ReadOnly => "Let pg_cache.url name the primary.",
        Reason::NoPerm => "Extend the access control list of the Redis user.",
        _ => return None,
    };
    Some(hint.to_owned())
}
