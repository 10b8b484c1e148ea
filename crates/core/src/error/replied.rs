//! Owns what an error in Redis' reply to a user's command is called, a part of the catalogue.
//!
//! Invariant: as in the catalogue; the code that Redis gives decides, and its prose only where the
//! code is ERR, which says nothing. Prose that nobody knows is an error like any other.

use super::{Error, sentence};

const HEAD_BYTES_MAX: usize = 1024;

/// Redis refused one command: its code, such as WRONGTYPE, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replied {
    pub code: String,
    pub detail: String,
}

/// What one refusal is called: a row of the tables below.
#[derive(Clone, Copy)]
struct Called {
    sqlstate: &'static str,
    message: &'static str,
    hint: &'static str,
}

const fn called(sqlstate: &'static str, message: &'static str, hint: &'static str) -> Called {
    Called { sqlstate, message, hint }
}

/// By the code.
const CODES: [(&str, Called); 19] = [
    (
        "WRONGTYPE",
        called(
            "42804",
            "the redis key holds a value of another type",
            "Ask redis_command('TYPE', ...) for its type.",
        ),
    ),
    (
        "NOQUEUE",
        called(
            "42809",
            "the redis stream is no queue",
            "A queue's entries have a payload; redis_dequeue takes no other streams apart.",
        ),
    ),
    (
        "OOM",
        called(
            "53200",
            "redis is out of memory",
            "Raise maxmemory, or set a maxmemory-policy that evicts keys.",
        ),
    ),
    ("READONLY", called("25006", "redis is read-only", "Let pg_cache.url name the primary.")),
    (
        "NOPERM",
        called(
            "42501",
            "permission denied by redis",
            "Extend the access control list of the Redis user.",
        ),
    ),
    (
        "NOGROUP",
        called(
            "42704",
            "the redis stream has no such group",
            "Create it with redis_command('XGROUP', 'CREATE', ..., 'MKSTREAM').",
        ),
    ),
    ("BUSYGROUP", called("42710", "the redis stream has that group already", "")),
    (
        "BUSYKEY",
        called("42710", "the redis key exists already", "Say REPLACE, or delete it before."),
    ),
    (
        "NOSCRIPT",
        called(
            "42883",
            "redis does not know the script",
            "Send EVAL with its text: then Redis knows it, until it restarts.",
        ),
    ),
    ("MOVED", CLUSTER),
    ("ASK", CLUSTER),
    (
        "CROSSSLOT",
        called(
            "22023",
            "the keys lie in different slots of the redis cluster",
            "Put what they have in common in braces, as in {user:1}:a and {user:1}:b.",
        ),
    ),
    (
        "TRYAGAIN",
        called(
            "55006",
            "redis is moving the keys to another node",
            "Try again when it has finished.",
        ),
    ),
    (
        "MISCONF",
        called(
            "58030",
            "redis cannot write its data to disk",
            "See the log of Redis; stop-writes-on-bgsave-error says whether it takes writes.",
        ),
    ),
    (
        "NOREPLICAS",
        called(
            "55000",
            "redis has too few replicas to take writes",
            "See min-replicas-to-write in Redis.",
        ),
    ),
    ("EXECABORT", called("40000", "redis discarded the transaction", "")),
    ("NOTBUSY", called("55000", "redis runs no script", "")),
    ("UNKILLABLE", called("55000", "the redis script has written and cannot be killed", "")),
    ("INPROG", called("55006", "redis is failing over", "Try again when it has finished.")),
];

const CLUSTER: Called = called(
    "0A000",
    "another node of the redis cluster holds the key",
    "Let pg_cache.url name a server that is no cluster.",
);

const NUMBER: Called =
    called("22P02", "redis expected a number", "Numbers are written as digits, without blanks.");
const RANGE: Called = called("22003", "the number is out of range for redis", "");
const UNKNOWN: Called = called(
    "42883",
    "redis does not know the command",
    "Give the name alone: each of its arguments is an argument of its own.",
);
const SYNTAX: Called =
    called("42601", "redis does not understand the arguments of the command", "");
const COUNT: Called = called("42601", "wrong number of arguments for the redis command", "");
const EXPIRE: Called = called("22023", "redis does not take that time to live", "");
const NO_KEY: Called = called("42704", "there is no such redis key", "");
const DISALLOWED: Called = called("42501", "redis does not allow the command here", "");

/// By what ERR goes on with, in Redis and Valkey.
const WORDS: [(&str, Called); 21] = [
    ("unknown command", UNKNOWN),
    ("unknown subcommand", UNKNOWN),
    ("Unknown subcommand", UNKNOWN),
    ("wrong number of arguments", COUNT),
    ("syntax error", SYNTAX),
    ("value is not an integer or out of range", NUMBER),
    ("value is not a valid float", NUMBER),
    ("hash value is not an integer", NUMBER),
    ("hash value is not a float", NUMBER),
    ("min or max is not a float", NUMBER),
    ("increment or decrement would overflow", RANGE),
    ("increment would produce NaN or Infinity", RANGE),
    ("value is out of range", RANGE),
    ("index out of range", RANGE),
    ("invalid expire time", EXPIRE),
    ("no such key", NO_KEY),
    ("DEBUG command not allowed", DISALLOWED),
    ("The user executing the script can't run", DISALLOWED),
    ("ACL failure in script", DISALLOWED),
    ("MODULE command not allowed", DISALLOWED),
    ("CONFIG SET failed", called("22023", "redis does not take the setting", "")),
];

const OTHER: Called = called("38000", "redis refused the command", "");

impl From<Replied> for Error {
    fn from(error: Replied) -> Self {
        Error::Replied(error)
    }
}

impl Replied {
    /// One of each, for the catalogue.
    pub fn examples() -> Vec<Self> {
        let told = [
            ("WRONGTYPE", "Operation against a key holding the wrong kind of value"),
            ("NOQUEUE", "The first entry of the stream has no payload"),
            ("OOM", "command not allowed when used memory > 'maxmemory'."),
            ("READONLY", "You can't write against a read only replica."),
            ("NOPERM", "User app has no permissions to run the 'set' command"),
            ("NOGROUP", "No such key 's' or consumer group 'g'"),
            ("BUSYGROUP", "Consumer Group name already exists"),
            ("BUSYKEY", "Target key name already exists."),
            ("NOSCRIPT", "No matching script. Please use EVAL."),
            ("MOVED", "3999 127.0.0.1:6381"),
            ("CROSSSLOT", "Keys in request don't hash to the same slot"),
            ("TRYAGAIN", "Multiple keys request during rehashing of slot"),
            ("MISCONF", "Errors writing to the AOF file: No space left on device"),
            ("NOREPLICAS", "Not enough good replicas to write."),
            ("EXECABORT", "Transaction discarded because of previous errors."),
            ("NOTBUSY", "No scripts in execution right now."),
            ("UNKILLABLE", "Sorry the script already executed write commands against the dataset."),
            ("INPROG", "Failover already in progress."),
            ("ERR", "unknown command 'GETT', with args beginning with: 'k'"),
            ("ERR", "wrong number of arguments for 'get' command"),
            ("ERR", "syntax error"),
            ("ERR", "value is not an integer or out of range"),
            ("ERR", "increment or decrement would overflow"),
            ("ERR", "invalid expire time in 'set' command"),
            ("ERR", "no such key"),
            ("ERR", "DEBUG command not allowed."),
            ("ERR", "CONFIG SET failed (possibly related to argument 'maxmemory')"),
            ("ERR", "Error in a script"),
        ];
        let reply =
            |(code, detail): (&str, &str)| Replied { code: code.into(), detail: detail.into() };
        told.into_iter().map(reply).collect()
    }

    fn called(&self) -> Called {
        let by_code = CODES.iter().find(|(code, _)| *code == self.code);
        let by_words = || {
            let is_told = self.code == "ERR";
            WORDS.iter().find(|(words, _)| is_told && self.detail.starts_with(words))
        };
        by_code.or_else(by_words).map_or(OTHER, |(_, called)| *called)
    }

    pub fn sqlstate(&self) -> &'static str {
        self.called().sqlstate
    }

    pub fn message(&self) -> String {
        self.called().message.to_owned()
    }

    /// Redis' own words.
    pub fn detail(&self) -> Option<String> {
        let head: String = self.detail.chars().take(HEAD_BYTES_MAX).collect();
        let words = format!("{} {head}", self.code);
        // One line, and no blanks where Redis left some.
        let words: Vec<&str> = words.split_whitespace().collect();
        Some(sentence(&words.join(" ")))
    }

    pub fn hint(&self) -> Option<String> {
        let hint = self.called().hint;
        (!hint.is_empty()).then(|| hint.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn reply(code: &str, detail: &str) -> Replied {
        Replied { code: code.into(), detail: detail.into() }
    }

    #[test]
    fn every_name_has_an_example() {
        // Danger: an error that users meet and the documentation does not know.
        let listed: BTreeSet<String> = Replied::examples().iter().map(Replied::message).collect();
        let all = CODES.iter().chain(&WORDS).map(|(_, called)| called.message.to_owned());
        assert_eq!(listed, all.chain([OTHER.message.to_owned()]).collect());
    }

    #[test]
    fn the_code_decides_and_prose_only_behind_err() {
        // Danger: a script's own error, or a value that Redis quotes, is taken for another error.
        assert_eq!(reply("WRONGTYPE", "syntax error").sqlstate(), "42804");
        assert_eq!(reply("MINE", "syntax error").sqlstate(), "38000");
        assert_eq!(reply("ERR", "x: syntax error").sqlstate(), "38000");
        assert_eq!(reply("ERR", "syntax error, sort of").sqlstate(), "42601");
        assert_eq!(reply("ERR", "WRONGTYPE").sqlstate(), "38000");
        assert_eq!(reply("", "").sqlstate(), "38000");
    }

    #[test]
    fn what_redis_said_is_a_short_line() {
        // Danger: a script's error of a megabyte fills the log.
        let detail = |text: &str| reply("ERR", text).detail().unwrap();
        assert_eq!(detail("  a\r\nb  "), "ERR a b.");
        assert!(detail(&"x".repeat(1_000_000)).len() < 2 * HEAD_BYTES_MAX);
    }
}
