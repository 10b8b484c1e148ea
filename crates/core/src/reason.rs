//! Owns the words for why a call was not answered from Redis.
//!
//! Invariant: one word for one cause, the same in `redis_stat_cached`, `redis_explain`, warnings
//! and documents. If a word changed or two causes shared one, dashboards would count something
//! other than what they say, and nobody would notice.

/// Why a call was not answered from Redis, or why its result was not stored there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    Cold,
    Fingerprint,
    Foreign,
    Format,
    Changed,
    RunningWriter,
    Generation,
    Unregistered,
    PrimaryMemory,
    Identity,
    Debt,
    Catalogue,
    OwnXid,
    Serializable,
    Disabled,
    TempTable,
    SystemCatalog,
    RowSecurity,
    SessionFunction,
    Setting,
    LeaseWait,
    TooLarge,
    Encoding,
    Breaker,
    Connect,
    Timeout,
    Closed,
    Protocol,
    Version,
    NoAuth,
    Loading,
    Oom,
    ReadOnly,
    NoPerm,
    Busy,
    ServerError,
}

impl Reason {
    /// Every reason, in the order of `index`.
    pub const ALL: [Reason; 36] = [
        Reason::Cold,
        Reason::Fingerprint,
        Reason::Foreign,
        Reason::Format,
        Reason::Changed,
        Reason::RunningWriter,
        Reason::Generation,
        Reason::Unregistered,
        Reason::PrimaryMemory,
        Reason::Identity,
        Reason::Debt,
        Reason::Catalogue,
        Reason::OwnXid,
        Reason::Serializable,
        Reason::Disabled,
        Reason::TempTable,
        Reason::SystemCatalog,
        Reason::RowSecurity,
        Reason::SessionFunction,
        Reason::Setting,
        Reason::LeaseWait,
        Reason::TooLarge,
        Reason::Encoding,
        Reason::Breaker,
        Reason::Connect,
        Reason::Timeout,
        Reason::Closed,
        Reason::Protocol,
        Reason::Version,
        Reason::NoAuth,
        Reason::Loading,
        Reason::Oom,
        Reason::ReadOnly,
        Reason::NoPerm,
        Reason::Busy,
        Reason::ServerError,
    ];

    /// The place of this reason in `ALL`: counters are arrays.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The word that SQL shows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Cold => "cold",
            Reason::Fingerprint => "fingerprint",
            Reason::Foreign => "foreign",
            Reason::Format => "format",
            Reason::Changed => "changed",
            Reason::RunningWriter => "running_writer",
            Reason::Generation => "generation",
            Reason::Unregistered => "unregistered",
            Reason::PrimaryMemory => "primary_memory",
            Reason::Identity => "identity",
            Reason::Debt => "debt",
            Reason::Catalogue => "catalogue",
            Reason::OwnXid => "own_xid",
            Reason::Serializable => "serializable",
            Reason::Disabled => "disabled",
            Reason::TempTable => "temp_table",
            Reason::SystemCatalog => "system_catalog",
            Reason::RowSecurity => "row_security",
            Reason::SessionFunction => "session_function",
            Reason::Setting => "setting",
            Reason::LeaseWait => "lease_wait",
            Reason::TooLarge => "too_large",
            Reason::Encoding => "encoding",
            Reason::Breaker => "breaker",
            Reason::Connect => "connect",
            Reason::Timeout => "timeout",
            Reason::Closed => "closed",
            Reason::Protocol => "protocol",
            Reason::Version => "version",
            Reason::NoAuth => "noauth",
            Reason::Loading => "loading",
            Reason::Oom => "oom",
            Reason::ReadOnly => "readonly",
            Reason::NoPerm => "noperm",
            Reason::Busy => "busy",
            Reason::ServerError => "server_error",
        }
    }

    /// The reason in words, a sentence for `redis_explain` and for the detail of a warning.
    pub const fn sentence(&self) -> &'static str {
        match self {
            Reason::Cold => "There is no entry under this key, or it has expired.",
            Reason::Fingerprint => {
                "The entry under this key belongs to another query, other arguments or other \
                 settings."
            }
            Reason::Foreign => {
                "The value under this key is not one that redis_cached stored there."
            }
            Reason::Format => "The entry was written in a format that this version does not read.",
            Reason::Changed => {
                "Something that the entry depends on has changed since it was stored."
            }
            Reason::RunningWriter => {
                "A transaction that wrote what the query reads is not complete in the caller's \
                 snapshot."
            }
            Reason::Generation => "The tag table in Redis is not of the registered generation.",
            Reason::Unregistered => "The database is not registered with a Redis server yet.",
            Reason::PrimaryMemory => "The tag table is in the primary's memory, not in Redis.",
            Reason::Identity => {
                "The Redis server, or its numbered database, is not the registered one, or it is \
                 no primary any more."
            }
            Reason::Debt => {
                "A committed change of what the query reads could not be settled with Redis yet."
            }
            Reason::Catalogue => "A schema change is not known to this backend in full yet.",
            Reason::OwnXid => {
                "The transaction has a transaction ID, so it may have changes of its own to see."
            }
            Reason::Serializable => "Serializable transactions compute.",
            Reason::Disabled => "pg_cache.enabled is off.",
            Reason::TempTable => {
                "The query reads a temporary table, or calls a function that may read one."
            }
            Reason::SystemCatalog => {
                "The query reads a system catalog, or shows names as the search path has \
                 them."
            }
            Reason::RowSecurity => {
                "A row security policy calls a function whose result cannot be part of the key."
            }
            Reason::SessionFunction => {
                "The query calls a function whose result depends on the session."
            }
            Reason::Setting => {
                "The query reads a setting whose name is not a constant, or that only superusers \
                 may see."
            }
            Reason::LeaseWait => {
                "Another backend was filling this entry and did not finish within \
                 pg_cache.fill_wait_ms."
            }
            Reason::TooLarge => "The result is larger than pg_cache.value_bytes_max.",
            Reason::Encoding => "The result cannot be written in UTF-8.",
            Reason::Breaker => "Redis failed a moment ago and is not tried again yet.",
            Reason::Connect => "Redis could not be connected to.",
            Reason::Timeout => "Redis did not answer in time.",
            Reason::Closed => "Redis closed the connection.",
            Reason::Protocol => "What answered does not speak the Redis protocol.",
            Reason::Version => "The Redis server is older than pg_cache supports.",
            Reason::NoAuth => "Redis refused the user name or the password.",
            Reason::Loading => "Redis is still loading its data.",
            Reason::Oom => "Redis is out of memory and evicts nothing.",
            Reason::ReadOnly => "Redis is a read-only replica.",
            Reason::NoPerm => "The Redis user may not run a command or reach a key.",
            Reason::Busy => "Redis is busy with a script.",
            Reason::ServerError => "Redis answered with an error.",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_counts_in_its_own_place() {
        // Danger: two reasons share a counter, or one writes past the end of the array.
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), place);
        }
        assert_eq!(Reason::ServerError.index() + 1, Reason::ALL.len());
    }

    #[test]
    fn the_words_never_change() {
        // Danger: dashboards that read these words out of jsonb show zero from the next release.
        let words = Reason::ALL.map(Reason::as_str).join(" ");
        assert_eq!(
            words,
            "cold fingerprint foreign format changed running_writer generation \
             unregistered primary_memory identity debt catalogue own_xid serializable disabled \
             temp_table system_catalog row_security session_function setting \
             lease_wait too_large encoding breaker connect timeout closed protocol \
             version noauth loading oom readonly noperm busy server_error"
        );
    }

    #[test]
    fn every_reason_has_a_sentence_of_its_own() {
        // Danger: two causes with one explanation send people to look in the wrong place.
        let sentences: BTreeSet<&str> = Reason::ALL.iter().map(Reason::sentence).collect();
        assert_eq!(sentences.len(), Reason::ALL.len());
        for sentence in sentences {
            assert!(sentence.ends_with('.') && !sentence.contains("  "), "{sentence}");
        }
    }
}
