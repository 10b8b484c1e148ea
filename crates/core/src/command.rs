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
    /// Concerns the server as a whole, or other clients of it.
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

/// Those that change the connection. Of CLIENT, see `CLIENT`; of SCRIPT, DEBUG alone. On what looks
/// like a request of HTTP (HOST:, POST) Redis hangs up; its COMMAND does not list those.
const CONNECTION: [&str; 25] = [
    "ASKING",
    "AUTH",
    "DISCARD",
    "EXEC",
    "HELLO",
    "HOST:",
    "MONITOR",
    "MULTI",
    "POST",
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
const ADMINISTRATIVE: [&str; 26] = [
    "ACL",
    "BGREWRITEAOF",
    "BGSAVE",
    "CLUSTER",
    "COMMANDLOG",
    "CONFIG",
    "DEBUG",
    "FAILOVER",
    "FLUSHALL",
    "FLUSHDB",
    "FUNCTION",
    "HOTKEYS",
    "LATENCY",
    "MIGRATE",
    "MODULE",
    "PFDEBUG",
    "PFSELFTEST",
    "REPLICAOF",
    "RESTORE-ASKING",
    "SAVE",
    "SENTINEL",
    "SHUTDOWN",
    "SLAVEOF",
    "SLOWLOG",
    "SWAPDB",
    "TRIMSLOTS",
];

/// The words of CLIENT that only read what this connection is, and those that concern others. Any
/// other changes the connection, or is too new to be known.
const CLIENT_READS: [&str; 6] = ["GETNAME", "GETREDIR", "HELP", "ID", "INFO", "TRACKINGINFO"];
const CLIENT_OTHERS: [&str; 5] = ["KILL", "LIST", "PAUSE", "UNBLOCK", "UNPAUSE"];

/// The words of SCRIPT that take nothing away from others.
const SCRIPT_OWN: [&str; 4] = ["EXISTS", "HELP", "LOAD", "SHOW"];

impl Kind {
    /// Of a command by its name, in whatever case, and its arguments.
    pub fn of(name: &[u8], arguments: &[impl AsRef<[u8]>]) -> Kind {
        let word = arguments.first().map(AsRef::as_ref).unwrap_or_default();
        if is(name, "CLIENT") {
            return Self::of_client(word);
        }
        if is(name, "SCRIPT") {
            return Self::of_script(word);
        }
        let reads = is(name, "XREAD") || is(name, "XREADGROUP");
        if is_in(name, &BLOCKING) || (reads && blocks(arguments)) {
            return Kind::Blocking;
        }
        if is_in(name, &CONNECTION) {
            return Kind::Connection;
        }
        if is_in(name, &ADMINISTRATIVE) { Kind::Administrative } else { Kind::Ordinary }
    }

    fn of_client(word: &[u8]) -> Kind {
        if is_in(word, &CLIENT_READS) {
            return Kind::Ordinary;
        }
        if is_in(word, &CLIENT_OTHERS) { Kind::Administrative } else { Kind::Connection }
    }

    fn of_script(word: &[u8]) -> Kind {
        if is_in(word, &SCRIPT_OWN) {
            return Kind::Ordinary;
        }
        if is(word, "DEBUG") { Kind::Connection } else { Kind::Administrative }
    }

    /// Why it is refused, in a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Kind::Ordinary => "It concerns data.",
            Kind::Blocking => "It may wait for others, and holds up the connection meanwhile.",
            Kind::Connection => "It would change the connection that all commands share.",
            Kind::Administrative => "It concerns the whole Redis server.",
        }
    }
}

/// What does the same in another way, in a sentence.
pub fn instead_of(name: &[u8]) -> Option<&'static str> {
    const WAYS: [(&[&str], &str); 8] = [
        (
            &["BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH", "XREAD", "XREADGROUP"],
            "Let redis_dequeue wait, or send the command that does not wait, such as LPOP.",
        ),
        (&["BZMPOP", "BZPOPMAX", "BZPOPMIN"], "Send ZMPOP, ZPOPMAX or ZPOPMIN: they do not wait."),
        (&["WAIT", "WAITAOF"], "Set min-replicas-to-write in Redis."),
        (
            &["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"],
            "Subscribe in an application; redis_publish is how it is told.",
        ),
        (
            &["MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"],
            "Send a script with EVAL, or let redis_at_commit send the commands after the commit.",
        ),
        (&["SELECT"], "The number of the database stands in pg_cache.url."),
        (&["AUTH", "HELLO"], "User and password stand in pg_cache.url."),
        (&["MONITOR", "CLIENT", "SCRIPT"], "Use redis-cli, which has a connection of its own."),
    ];
    WAYS.iter().find(|(names, _)| is_in(name, names)).map(|(_, way)| *way)
}

fn is_in(word: &[u8], list: &[&str]) -> bool {
    list.iter().any(|listed| is(word, listed))
}

/// XREAD and XREADGROUP wait only if asked to, before the names of their streams. What GROUP and
/// COUNT are followed by are names and numbers, whatever they look like.
fn blocks(arguments: &[impl AsRef<[u8]>]) -> bool {
    let mut words = arguments.iter().map(AsRef::as_ref);
    while let Some(word) = words.next() {
        let follow = match word {
            _ if is(word, "BLOCK") => return true,
            _ if is(word, "STREAMS") => return false,
            _ if is(word, "GROUP") => 2,
            _ if is(word, "COUNT") || is(word, "CLAIM") => 1,
            _ => 0,
        };
        words.by_ref().take(follow).for_each(drop);
    }
    false
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
            (&["CLIENT"], Kind::Connection),
            (&["CLIENT", "not-known-yet"], Kind::Connection),
            (&["Client", "Id"], Kind::Ordinary),
            (&["CLIENT", "KILL", "ID", "1"], Kind::Administrative),
            (&["script", "load", "return 1"], Kind::Ordinary),
            (&["SCRIPT", "debug", "yes"], Kind::Connection),
            (&["SCRIPT", "FLUSH"], Kind::Administrative),
            (&["SCRIPT"], Kind::Administrative),
            (&["EVAL", "return 1", "0"], Kind::Ordinary),
            (&["FCALL", "f", "0"], Kind::Ordinary),
            (&["SORT", "k", "STORE", "d"], Kind::Ordinary),
            (&["wait", "1", "0"], Kind::Blocking),
            (&["WaitAof", "1", "0", "0"], Kind::Blocking),
            (&["reset"], Kind::Connection),
            (&["post", "x"], Kind::Connection),
            (&["Host:"], Kind::Connection),
            (&["XREADGROUP", "GROUP", "block", "c", "STREAMS", "s", ">"], Kind::Ordinary),
            (&["XREADGROUP", "GROUP", "streams", "streams", "BLOCK", "0"], Kind::Blocking),
            (&["XREAD", "COUNT", "streams", "BLOCK", "0", "STREAMS", "s", "0"], Kind::Blocking),
            (&["XREADGROUP", "block", "9", "group", "g", "c", "streams"], Kind::Blocking),
            (&["XREADGROUP", "GROUP", "g", "c", "BLOCK", "0", "STREAMS", "s", ">"], Kind::Blocking),
            (&["FlushAll"], Kind::Administrative),
            (&["config", "set", "dir", "/"], Kind::Administrative),
        ] {
            assert_eq!(kind(command), expected, "{command:?}");
        }
    }

    #[test]
    fn names_that_only_look_alike_are_others() {
        // Danger: a blank or a byte more gets FLUSHALL past the list. Redis knows no such name.
        for name in [&b" FLUSHALL"[..], b"FLUSHALL ", b"FLUSHALL\r\n", b"CONFIG|SET", b"", b"\xff"]
        {
            assert_eq!(Kind::of(name, &[] as &[&str]), Kind::Ordinary, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn whoever_is_refused_hears_of_another_way() {
        // Danger: a refusal that leaves people with nothing.
        for name in BLOCKING.iter().chain(&["subscribe", "MULTI", "select", "xread"]) {
            assert!(instead_of(name.as_bytes()).is_some(), "{name}");
        }
        assert_eq!(instead_of(b"FLUSHALL"), None);
    }

    #[test]
    fn the_lists_are_sorted_and_each_word_stands_once() {
        // Danger: two lists that disagree about a command.
        let mut all = [&BLOCKING[..], &CONNECTION[..], &ADMINISTRATIVE[..]].concat();
        for list in [&all[..10], &CONNECTION, &ADMINISTRATIVE, &CLIENT_READS, &CLIENT_OTHERS] {
            assert!(list.is_sorted(), "{list:?}");
        }
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
    }
}
