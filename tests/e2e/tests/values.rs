//! Keys of every byte that text allows, values from nothing to the limit, and what foreign hands
//! may do to an entry.

use pg_cache_e2e::counters::{commands, counted, forget_commands, keys, value};
use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::{Scene, cached, same_as_direct};

const QUERY: &str = "SELECT 1 AS v";
const ANSWER: &str = r#"[{"v":1}]"#;
const OVERHEAD_BYTES: usize = r#"[{"v":""}]"#.len();

fn cached_text_of(bytes: usize) -> String {
    format!("SELECT repeat('x', {bytes}) AS v")
}

#[test]
fn keys_of_every_byte_that_text_allows_are_stored_under_exactly_themselves() {
    // Danger: a key that is escaped, cut or read as a pattern is one that no other program finds,
    // or that two callers share.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut all: Vec<String> =
        (1..=0x7ff_u32).filter_map(char::from_u32).map(String::from).collect();
    all.extend(
        ["\u{ffff}", "\u{10ffff}", "😀", "", " ", "a b", "a\r\nb", "\r\n", "*", "a*", "[a]"]
            .map(String::from),
    );
    all.extend(
        [
            "{",
            "}",
            "{}",
            "{a}",
            "{a}b",
            "a{b}c{d}",
            "}{",
            "{{a}}",
            "$1",
            "%s",
            "a#0123456789abcdef",
        ]
        .map(String::from),
    );
    all.extend(
        ["a:b", "a::b", ":", "pgc", "PGC:x", "'", "\"", "\\", "\\0", "NULL", "null"]
            .map(String::from),
    );
    all.sort();
    all.dedup();
    let ((), filling) = counted(&mut client, |c| {
        for (number, key) in all.iter().enumerate() {
            let query = format!("SELECT {number} AS v");
            assert_eq!(cached(c, key, &query), Ok(format!(r#"[{{"v":{number}}}]"#)), "{key:?}");
        }
    });
    assert_eq!(filling.fills, all.len() as i64, "{filling:?}");
    let mut redis = scene.redis.client();
    for (number, key) in all.iter().enumerate() {
        let stored: Option<String> = redis::cmd("GET").arg(key).query(&mut redis).unwrap();
        assert_eq!(stored, Some(format!(r#"[{{"v":{number}}}]"#)), "GET {key:?}");
    }
    let ((), reading) = counted(&mut client, |c| {
        for (number, key) in all.iter().enumerate() {
            cached(c, key, &format!("SELECT {number} AS v")).unwrap();
        }
    });
    assert_eq!((reading.hits, reading.misses), (all.len() as i64, 0), "{reading:?}");
    assert_eq!(keys(&scene.redis, "pgc:l:*"), [""; 0], "leases are given back");
}

#[test]
fn a_key_of_1024_bytes_is_taken_and_one_more_is_refused() {
    // Danger: a limit in characters lets a key of 4 kB through; a limit that is one off cuts users.
    let scene = Scene::new();
    let mut client = scene.connect();
    for key in ["k".repeat(1024), "é".repeat(512), "😀".repeat(256)] {
        assert_eq!(cached(&mut client, &key, QUERY).as_deref(), Ok(ANSWER));
        assert_eq!(value(&scene.redis, &key).as_deref(), Some(ANSWER.as_bytes()));
    }
    for key in ["k".repeat(1025), format!("{}k", "é".repeat(512)), "😀".repeat(257)] {
        assert_eq!(cached(&mut client, &key, QUERY), Err("54000".into()));
    }
    assert_eq!(cached(&mut client, "pgc:e:mine", QUERY), Err("42939".into()));
    assert_eq!(cached(&mut client, "pgc:", QUERY), Err("42939".into()));
}

#[test]
fn values_of_every_size_come_back_whole() {
    // Danger: a reply that arrives in several reads is cut, or a buffer's end is a boundary.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("SET pg_cache.timeout_ms = 10000").unwrap();
    let mut sizes = vec![0, 1, 2];
    for power in 6..=23 {
        sizes.extend([(1_usize << power) - 1, 1 << power, (1 << power) + 1]);
    }
    sizes.retain(|bytes| bytes + OVERHEAD_BYTES <= 8 << 20);
    sizes.push((8 << 20) - OVERHEAD_BYTES);
    for bytes in sizes {
        let query = cached_text_of(bytes);
        let ((first, second), counters) = counted(&mut client, |c| {
            (cached(c, "size", &query).unwrap(), cached(c, "size", &query).unwrap())
        });
        assert_eq!(first.len(), bytes + OVERHEAD_BYTES);
        assert!(first == second && first.matches('x').count() == bytes, "{bytes} bytes differ");
        assert_eq!((counters.fills, counters.hits), (1, 1), "{bytes} bytes: {counters:?}");
    }
}

#[test]
fn values_of_random_bytes_and_characters_come_back_whole() {
    // Danger: line ends, quotes and bytes that look like the protocol's own.
    let scene = Scene::new();
    let mut client = scene.connect();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..60 {
        let length = 1 << random.u32(0..14);
        let text: String = (0..length)
            .map(|_| match random.u8(0..4) {
                0 => *random
                    .choice(&['\r', '\n', '$', '*', '-', '+', '"', '\\', '\'', '\t'])
                    .unwrap(),
                1 => random.char('\u{1}'..'\u{7f}'),
                2 => random.char('\u{80}'..'\u{d7ff}'),
                _ => random.char('\u{10000}'..'\u{10ffff}'),
            })
            .collect();
        let query = format!("SELECT '{}'::text AS v", text.replace('\'', "''"));
        let key = format!("random:{round}");
        same_as_direct(&mut client, &key, &query).unwrap();
        let (_, counters) = counted(&mut client, |c| same_as_direct(c, &key, &query));
        assert_eq!(counters.hits, 1, "{counters:?}");
    }
}

#[test]
fn a_value_above_the_limit_is_returned_not_stored_and_counted() {
    // Danger: one report fills Redis and evicts everything else; or the caller gets an error.
    let scene = Scene::new();
    let mut client = scene.connect();
    for (limit, settings) in [(8 << 20, ""), (1024, "SET pg_cache.value_bytes_max = 1024")] {
        client.batch_execute(settings).unwrap();
        let over = cached_text_of(limit + 1 - OVERHEAD_BYTES);
        for _ in 0..2 {
            let (answer, counters) = counted(&mut client, |c| cached(c, "large", &over).unwrap());
            assert_eq!(answer.len(), limit + 1);
            assert_eq!(counters.reason("too_large"), 1, "{counters:?}");
            assert_eq!((counters.fills, counters.hits), (0, 0), "{counters:?}");
            assert_eq!(value(&scene.redis, "large"), None);
        }
        let exactly = cached_text_of(limit - OVERHEAD_BYTES);
        cached(&mut client, "large", &exactly).unwrap();
        assert_eq!(value(&scene.redis, "large").unwrap().len(), limit);
        scene.redis.cli(&["DEL", "large"]);
    }
    assert_eq!(keys(&scene.redis, "pgc:l:*"), [""; 0], "the lease is given back");
}

#[test]
fn a_result_above_the_limit_leaves_no_older_entry_behind() {
    // Danger: the query's result grew too large to store and readers keep the small one it was.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("CREATE TABLE t (v text); INSERT INTO t VALUES ('small')").unwrap();
    cached(&mut client, "grown", "SELECT v FROM t").unwrap();
    client.batch_execute("UPDATE t SET v = repeat('x', 5000)").unwrap();
    client.batch_execute("SET pg_cache.value_bytes_max = 1024").unwrap();
    scene.redis.cli(&["DEL", "grown"]);
    let answer = cached(&mut client, "grown", "SELECT v FROM t").unwrap();
    assert!(answer.len() > 5000);
    assert_eq!(value(&scene.redis, "grown"), None);
}

#[test]
fn a_foreign_value_in_place_of_ours_is_neither_served_nor_replaced() {
    // Danger: a program that SETs the key speaks with the database's voice, or loses what it SET.
    let scene = Scene::new();
    let mut client = scene.connect();
    let forged = r#"[{"v":2}]"#;
    for (how, command) in [
        ("same length", vec!["SET", "k", forged]),
        ("other length", vec!["SET", "k", "x"]),
        ("empty", vec!["SET", "k", ""]),
        ("one byte more", vec!["APPEND", "k", " "]),
        ("one byte other", vec!["SETRANGE", "k", "6", "7"]),
    ] {
        assert_eq!(cached(&mut client, "k", QUERY).as_deref(), Ok(ANSWER));
        scene.redis.cli(&command);
        let foreign = scene.redis.cli(&["DUMP", "k"]);
        let (answer, counters) = counted(&mut client, |c| cached(c, "k", QUERY));
        assert_eq!(answer.as_deref(), Ok(ANSWER), "{how}");
        assert_eq!(counters.reason("foreign"), 1, "{how}: {counters:?}");
        assert_eq!(counters.fills, 0, "{how}: {counters:?}");
        let other = counted(&mut client, |c| cached(c, "k", "SELECT 7 AS other")).1;
        assert_eq!((other.reason("foreign"), other.fills), (1, 0), "{how}: {other:?}");
        assert_eq!(scene.redis.cli(&["DUMP", "k"]), foreign, "{how}");
        scene.redis.cli(&["DEL", "k"]);
    }
}

#[test]
fn what_another_program_keeps_under_the_key_is_neither_served_nor_replaced() {
    // Danger: a key that is a shop's session or queue already, which a fill destroys. A value that
    // looks like an answer is none without our sidecar.
    let scene = Scene::new();
    let mut client = scene.connect();
    for (command, kind) in [
        (vec!["SET", "k", "session"], "string"),
        (vec!["SET", "k", ANSWER], "string"),
        (vec!["SET", "k", ""], "string"),
        (vec!["LPUSH", "k", "x"], "list"),
        (vec!["HSET", "k", "f", "v"], "hash"),
        (vec!["SADD", "k", "m"], "set"),
        (vec!["XADD", "k", "1-1", "f", "v"], "stream"),
    ] {
        scene.redis.cli(&["DEL", "k"]);
        scene.redis.cli(&command);
        let before = scene.redis.cli(&["DUMP", "k"]);
        for _ in 0..3 {
            let (answer, counters) = counted(&mut client, |c| cached(c, "k", QUERY));
            assert_eq!(answer.as_deref(), Ok(ANSWER), "{command:?}");
            assert!(counters.reason("foreign") >= 1, "{command:?}: {counters:?}");
            assert_eq!((counters.hits, counters.fills), (0, 0), "{command:?}: {counters:?}");
        }
        assert_eq!(scene.redis.cli(&["TYPE", "k"]), kind, "{command:?}");
        assert_eq!(scene.redis.cli(&["DUMP", "k"]), before, "{command:?}");
        assert_eq!(scene.redis.cli(&["PTTL", "k"]), "-1", "{command:?}");
        assert_eq!(keys(&scene.redis, "*"), ["k"], "{command:?}");
    }
    scene.redis.cli(&["DEL", "k"]);
    assert_eq!(counted(&mut client, |c| cached(c, "k", QUERY)).1.fills, 1);
}

#[test]
fn a_damaged_sidecar_is_a_miss() {
    // Danger: bytes of an older or newer version, or of nobody, decide whether a value is served.
    let scene = Scene::new();
    let mut client = scene.connect();
    cached(&mut client, "k", QUERY).unwrap();
    let sidecar = keys(&scene.redis, "pgc:e:*").remove(0);
    let whole = value(&scene.redis, &sidecar).unwrap();
    let mut version = whole.clone();
    version[0] = version[0].wrapping_add(1);
    let mut longer = whole.clone();
    longer.push(0);
    for (how, bytes) in [
        ("nothing", Vec::new()),
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("cut by one", whole[..whole.len() - 1].to_vec()),
        ("longer", longer),
        ("version", version),
        ("all ones", vec![0xff; whole.len()]),
        ("all zeroes", vec![0; whole.len()]),
        ("text", b"hello".to_vec()),
    ] {
        let mut redis = scene.redis.client();
        let () = redis::cmd("SET").arg(&sidecar).arg(bytes).query(&mut redis).unwrap();
        let (answer, counters) = counted(&mut client, |c| cached(c, "k", QUERY));
        assert_eq!(answer.as_deref(), Ok(ANSWER), "{how}");
        assert_eq!(counters.reason("format"), 1, "{how}: {counters:?}");
        assert_eq!(counters.fills, 1, "{how}: {counters:?}");
    }
}

#[test]
fn flipping_any_bit_of_the_sidecar_never_yields_another_answer() {
    // Danger: a field of the sidecar that nobody checks.
    let scene = Scene::new();
    let mut client = scene.connect();
    cached(&mut client, "k", QUERY).unwrap();
    let sidecar = keys(&scene.redis, "pgc:e:*").remove(0);
    let whole = value(&scene.redis, &sidecar).unwrap();
    let mut redis = scene.redis.client();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let () = redis::cmd("SET").arg(&sidecar).arg(bytes).query(&mut redis).unwrap();
        assert_eq!(cached(&mut client, "k", QUERY).as_deref(), Ok(ANSWER), "bit {bit}");
    }
}

#[test]
fn a_sidecar_with_an_absurd_cost_or_time_harms_nobody() {
    // Danger: numbers from Redis are summed and overflow: a panic in the reader's transaction.
    let scene = Scene::new();
    let mut client = scene.connect();
    cached(&mut client, "k", QUERY).unwrap();
    let sidecar = keys(&scene.redis, "pgc:e:*").remove(0);
    let whole = value(&scene.redis, &sidecar).unwrap();
    // All that follows what is checked: format, generation, fingerprint, length and hash.
    let checked = 1 + 16 + 16 + 8 + 8;
    let mut redis = scene.redis.client();
    for byte in [0xff, 0x7f, 0x80] {
        for end in [checked + 8, checked + 16] {
            let mut bytes = whole.clone();
            bytes[checked..end].fill(byte);
            let () = redis::cmd("SET").arg(&sidecar).arg(&bytes).query(&mut redis).unwrap();
            for _ in 0..3 {
                let (answer, counters) = counted(&mut client, |c| cached(c, "k", QUERY));
                assert_eq!(answer.as_deref(), Ok(ANSWER), "{byte:x} to {end}");
                assert_eq!(counters.hits, 1, "the layout has changed: {counters:?}");
            }
            client.batch_execute("SELECT redis_explain('k', 'SELECT 1 AS v')").unwrap();
        }
    }
}

#[test]
fn a_refused_call_sends_nothing() {
    // Danger: an argument error that is found only after Redis was asked, or a lease left behind.
    let scene = Scene::new();
    let mut client = scene.connect();
    cached(&mut client, "k", QUERY).unwrap();
    forget_commands(&scene);
    for sql in [
        "SELECT redis_cached('k', 0, 'SELECT 1')",
        "SELECT redis_cached('k', -1, 'SELECT 1')",
        "SELECT redis_cached('k', 99999999, 'SELECT 1')",
        "SELECT redis_cached(NULL, 60, 'SELECT 1')",
        "SELECT redis_cached('k', 60, NULL)",
        "SELECT redis_cached('k', 60, 'SELECT 1; SELECT 2')",
        "SELECT redis_cached('k', 60, 'SELECT random()')",
        "SELECT redis_cached('k', 60, 'SELEC 1')",
        "SELECT redis_cached('k', 60, 'SELECT * FROM nowhere')",
        "SELECT redis_cached('pgc:x', 60, 'SELECT 1')",
    ] {
        let error = client.query_one(sql, &[]).unwrap_err();
        assert_ne!(sqlstate(&error), "XX000", "{sql}: {error:?}");
    }
    assert!(commands(&scene.redis).is_empty(), "{:?}", commands(&scene.redis));
}

#[test]
fn an_error_of_the_query_while_it_runs_gives_the_lease_back() {
    // Danger: a query that fails once makes everybody wait for a filler that is not there.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("CREATE TABLE t (v int); INSERT INTO t VALUES (0)").unwrap();
    let query = "SELECT 1 / v AS v FROM t";
    assert_eq!(cached(&mut client, "k", query), Err("22012".into()));
    client.batch_execute("UPDATE t SET v = 1").unwrap();
    let (answer, counters) = counted(&mut client, |c| cached(c, "k", query));
    assert_eq!(answer.as_deref(), Ok(ANSWER));
    assert_eq!((counters.fills, counters.reason("lease_wait")), (1, 0), "{counters:?}");
}

#[test]
fn a_huge_foreign_value_under_one_key_does_not_stop_the_others() {
    // Danger: a value beyond every limit breaks the connection, opens the breaker, and takes the
    // cache away from all other keys each time that somebody asks for this one.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("SET pg_cache.timeout_ms = 10000").unwrap();
    cached(&mut client, "k", QUERY).unwrap();
    cached(&mut client, "good", QUERY).unwrap();
    let sidecar = keys(&scene.redis, "pgc:e:*:k").remove(0);
    let mut redis = scene.redis.client();
    for (what, name) in [("value", "k"), ("sidecar", sidecar.as_str())] {
        let () = redis::cmd("SET").arg(name).arg(vec![b'x'; 40 << 20]).query(&mut redis).unwrap();
        for round in 0..3 {
            let ((one, other), counters) =
                counted(&mut client, |c| (cached(c, "k", QUERY), cached(c, "good", QUERY)));
            println!("{what}, round {round}: {counters:?}");
            assert_eq!(one.as_deref(), Ok(ANSWER), "{what}");
            assert_eq!(other.as_deref(), Ok(ANSWER), "{what}");
            assert!(counters.hits >= 1, "{what}, round {round}: {counters:?}");
            assert_eq!(counters.reason("breaker"), 0, "{what}, round {round}: {counters:?}");
        }
    }
}

#[test]
fn an_entry_larger_than_this_sessions_limit_is_no_trouble() {
    // Danger: two sessions with different limits; the smaller one takes every answer for an attack.
    let scene = Scene::new();
    let mut large = scene.connect();
    let query = cached_text_of(2 << 20);
    let whole = cached(&mut large, "k", &query).unwrap();
    let (mut small, notices) = scene.connect_listening();
    small.batch_execute("SET pg_cache.value_bytes_max = 1024").unwrap();
    for _ in 0..3 {
        let (answers, counters) = counted(&mut small, |c| {
            (cached(c, "k", &query).unwrap(), cached(c, "other", QUERY).unwrap())
        });
        assert!(answers.0 == whole);
        assert_eq!(answers.1, ANSWER);
        assert_eq!(counters.reason("breaker"), 0, "{counters:?}");
    }
    assert_eq!(notices.warnings().len(), 0, "{:?}", notices.warnings());
}
