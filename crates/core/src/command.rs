//! Owns the answer to which Redis commands a statement may send over the backend's connection.
//!
//! Invariant: no command that waits, that changes what the connection is, or that concerns the
//! whole server goes out unasked. If one did, every later answer on the connection would be that to
//! another question, a commit would wait for a list that stays empty, or everybody's data be gone.

/// What a command is to the connection and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Concerns data.
    Ordinary,
    /// Waits for others.
    Blocking,
    /// Makes another connection of this one, or of its answers.
    Connection,
    /// Concerns the server as a whole.
    Administrative,
}

/// Those that wait.
const BLOCKING: [&str; 10] = [
    "BLMOVE",
    "BLMPOP",
    "BLPOP",
    "BRPOP",
    "BRPOPLPUSH",
    "BZMPOP",
    "BZPOPMAX",
    "BZPOPMIN",
    "WAIT",
    "WAITAOF",
];

/// Those that change the connection.
const CONNECTION: [&str; 24] = [
    "ASKING",
    "AUTH",
    "CLIENT",
    "DISCARD",
    "EXEC",
    "HELLO",
    "MONITOR",
    "MULTI",
    "PSUBSCRIBE",
    "PSYNC",
    "PUNSUBSCRIBE",
    "QUIT",
    "READONLY",
    "READWRITE",
    "REPLCONF",
    "RESET",
    "SELECT",
    "SSUBSCRIBE",
    "SUBSCRIBE",
    "SUNSUBSCRIBE",
    "SYNC",
    "UNSUBSCRIBE",
    "UNWATCH",
    "WATCH",
];

/// Those of an administrator.
const ADMINISTRATIVE: [&str; 23] = [
    "ACL",
    "BGREWRITEAOF",
    "BGSAVE",
    "CLUSTER",
    "CONFIG",
    "DEBUG",
    "FAILOVER",
    "FLUSHALL",
    "FLUSHDB",
    "FUNCTION",
    "LATENCY",
    "MIGRATE",
    "MODULE",
    "PFDEBUG",
    "PFSELFTEST",
    "REPLICAOF",
    "RESTORE-ASKING",
    "SAVE",
    "SCRIPT",
    "SHUTDOWN",
    "SLAVEOF",
    "SLOWLOG",
    "SWAPDB",
];

impl Kind {
    /// Of a command by its name, in whatever case, and its arguments.
    pub fn of(name: &[u8], arguments: &[impl AsRef<[u8]>]) -> Kind {
        let is_in = |list: &[&str]| list.iter().any(|word| is(name, word));
        let reads = is(name, "XREAD") || is(name, "XREADGROUP");
        if is_in(&BLOCKING) || (reads && blocks(arguments)) {
            return Kind::Blocking;
        }
        if is_in(&CONNECTION) {
            return Kind::Connection;
        }
        if is_in(&ADMINISTRATIVE) { Kind::Administrative } else { Kind::Ordinary }
    }

    /// Why it is refused, in a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Kind::Ordinary => "It concerns data.",
            Kind::Blocking => "It may wait for others, and a commit must not.",
            Kind::Connection => "It would change the connection that all commands share.",
            Kind::Administrative => "It concerns the whole Redis server.",
        }
    }
}

/// These wait only if asked to, before the names of their streams.
fn blocks(arguments: &[impl AsRef<[u8]>]) -> bool {
    let before = arguments.iter().take_while(|argument| !is(argument.as_ref(), "STREAMS"));
    before.into_iter().any(|argument| is(argument.as_ref(), "BLOCK"))
}

fn is(word: &[u8], other: &str) -> bool {
    word.eq_ignore_ascii_case(other.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_a_connection_or_a_server_is_known() {
        // Danger: redis_at_commit('subscribe', …) leaves a connection that answers nothing more.
        let kind = |words: &[&str]| Kind::of(words[0].as_bytes(), &words[1..]);
        for (command, expected) in [
            (&["SET", "BLOCK", "x"][..], Kind::Ordinary),
            (&["zadd", "k", "1", "m"], Kind::Ordinary),
            (&["XREAD", "COUNT", "1", "STREAMS", "block", "0"], Kind::Ordinary),
            (&["xread", "block", "0", "streams", "s", "0"], Kind::Blocking),
            (&["blpop", "k", "0"], Kind::Blocking),
            (&["Subscribe", "c"], Kind::Connection),
            (&["SELECT", "1"], Kind::Connection),
            (&["client", "reply", "off"], Kind::Connection),
            (&["FlushAll"], Kind::Administrative),
            (&["config", "set", "dir", "/"], Kind::Administrative),
        ] {
            assert_eq!(kind(command), expected, "{command:?}");
        }
    }

    #[test]
    fn the_lists_are_sorted_and_each_word_stands_once() {
        // Danger: two lists that disagree about a command.
        let mut all = [&BLOCKING[..], &CONNECTION[..], &ADMINISTRATIVE[..]].concat();
        for list in [&BLOCKING[..], &CONNECTION[..], &ADMINISTRATIVE[..]] {
            assert!(list.is_sorted());
        }
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
    }
}
