//! Owns what an error in Redis' reply to a user's command is called, a part of the catalogue.
//!
//! Invariant: as in the catalogue; the code that Redis gives decides, never its prose alone.

use super::sentence;

const HEAD_BYTES_MAX: usize = 1024;

/// Redis refused one command: its code, such as WRONGTYPE, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replied {
    pub code: String,
    pub detail: String,
}

impl Replied {
    /// One of each, for the catalogue.
    pub fn examples() -> Vec<Self> {
        let told = [
            ("WRONGTYPE", "Operation against a key holding the wrong kind of value"),
            ("OOM", "command not allowed when used memory > 'maxmemory'"),
            ("READONLY", "You can't write against a read only replica."),
            ("NOPERM", "User app has no permissions to run the 'set' command"),
            ("ERR", "value is not an integer or out of range"),
        ];
        let reply =
            |(code, detail): (&str, &str)| Replied { code: code.into(), detail: detail.into() };
        told.into_iter().map(reply).collect()
    }

    pub fn sqlstate(&self) -> &'static str {
        match self.code.as_str() {
            "WRONGTYPE" => "42804",
            "OOM" => "53200",
            "READONLY" => "25006",
            "NOPERM" => "42501",
            _ => "38000",
        }
    }

    pub fn message(&self) -> String {
        match self.code.as_str() {
            "WRONGTYPE" => "the redis key holds a value of another type",
            "OOM" => "redis is out of memory",
            "READONLY" => "redis is read-only",
            "NOPERM" => "permission denied by redis",
            _ => "redis refused the command",
        }
        .to_owned()
    }

    /// Redis' own words.
    pub fn detail(&self) -> Option<String> {
        let head: String = self.detail.chars().take(HEAD_BYTES_MAX).collect();
        Some(sentence(&format!("{} {head}", self.code)))
    }

    pub fn hint(&self) -> Option<String> {
        let hint = match self.code.as_str() {
            "OOM" => "Raise maxmemory, or set a maxmemory-policy that evicts keys.",
            "READONLY" => "Let pg_cache.url name the primary.",
            "NOPERM" => "Extend the access control list of the Redis user.",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
