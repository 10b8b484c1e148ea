//! A server that talks nonsense, half of it, or nothing: the query still answers, the counters say
//! why, and one warning is heard. Each byte is a fake's, for no real Redis does any of this.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use pg_cache_e2e::counters::counted;
use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::stopwatch::timed;
use pg_cache_e2e::trouble::{ANSWER, QUERY, answers, expect, prepare, ten_answers, use_url};
use pg_cache_e2e::{Scene, cached};
use pg_cache_testbed::fake::{FakeRedis, Reply, bulk};
use pg_cache_testbed::process::memory_peak_kb;

#[test]
fn error_replies_are_counted_by_their_kind() {
    // Danger: all trouble looks the same to whoever has to end it.
    let scene = Scene::new();
    prepare(&scene);
    for (reply, reason) in [
        ("-NOAUTH Authentication required.\r\n", "noauth"),
        ("-LOADING Redis is loading the dataset in memory\r\n", "loading"),
        ("-OOM command not allowed when used memory > 'maxmemory'.\r\n", "oom"),
        ("-READONLY You can't write against a read only replica.\r\n", "readonly"),
        ("-NOPERM this user has no permissions to run the 'mget' command\r\n", "noperm"),
        ("-BUSY Redis is busy running a script.\r\n", "busy"),
        ("-MASTERDOWN Link with MASTER is down\r\n", "busy"),
        ("-MISCONF Redis is configured to save RDB snapshots\r\n", "server_error"),
        ("-ERR something else\r\n", "server_error"),
        ("-\r\n", "server_error"),
        ("!21\r\nSYNTAX invalid syntax\r\n", "server_error"),
    ] {
        for opening in [false, true] {
            let what =
                format!("{} {}", reply.trim_end(), if opening { "at HELLO" } else { "later" });
            let answer = move |_: &_| Reply::bytes(reply);
            let fake =
                if opening { FakeRedis::start(answer) } else { FakeRedis::after_handshake(answer) };
            let (mut client, notices) = scene.connect_listening();
            use_url(&mut client, &fake.url());
            if opening && reason == "server_error" {
                // A server that does not know HELLO is too old rather than broken.
                let counters = ten_answers(&mut client, &what);
                let named = ["server_error", "version", "breaker"];
                let named: i64 = named.iter().map(|r| counters.reason(r)).sum();
                assert_eq!(named, 10, "{what}: {counters:?}");
                continue;
            }
            expect(&mut client, &notices, &what, reason);
        }
    }
}

#[test]
fn garbage_is_a_protocol_error() {
    // Danger: bytes of another protocol are parsed into an answer, or crash the backend.
    let scene = Scene::new();
    prepare(&scene);
    for garbage in [
        &b"hello world\r\n"[..],
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"\x00\x01\x02\x03\r\n",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\r\n",
        b"*-2\r\n",
        b"$-2\r\n",
        b"$abc\r\n",
        b"*abc\r\n",
        b"*2147483647\r\n+x\r\n?\r\n",
        b"*9223372036854775807\r\n?\r\n",
        b"*99999999999999999999999\r\n",
        b"$99999999999999999999999\r\n",
        b"%9223372036854775807\r\n?\r\n",
        b"$3\r\nabcXX",
        b":12a\r\n",
        b"#x\r\n",
        b",one\r\n",
        b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n",
        b"*2\r\n:1\r\n:2\r\n",
        b"*0\r\n",
        b"*1\r\n$-1\r\n",
        b"*3\r\n$-1\r\n$-1\r\n$-1\r\n",
        b"_\r\n",
        b"*2\r\n*0\r\n*0\r\n",
        b">2\r\n+message\r\n+x\r\n?\r\n",
    ] {
        let what = format!("{:?}", String::from_utf8_lossy(garbage));
        let fake = FakeRedis::before(&scene.redis, move |request, reply| {
            Reply::bytes(if request.is_introduction() { &reply } else { garbage })
        });
        let (mut client, notices) = scene.connect_listening();
        client.batch_execute("SET pg_cache.timeout_ms = 100").unwrap();
        use_url(&mut client, &fake.url());
        expect(&mut client, &notices, &what, "protocol");
        let opening = FakeRedis::start(move |_| Reply::bytes(garbage));
        let (mut client, notices) = scene.connect_listening();
        client.batch_execute("SET pg_cache.timeout_ms = 100").unwrap();
        use_url(&mut client, &opening.url());
        let counters = ten_answers(&mut client, &what);
        assert_eq!((counters.hits, counters.fills, counters.misses), (0, 0, 10), "{what}");
        assert!(notices.warnings().len() <= 1, "{what}");
    }
}

#[test]
fn announced_sizes_do_not_become_memory() {
    // Danger: ten bytes from a stranger make the backend ask for 10 GB, or recurse until it dies.
    let scene = Scene::new();
    prepare(&scene);
    let deep = "*1\r\n".repeat(200_000);
    let maps = "%1\r\n+k\r\n".repeat(100_000);
    for reply in [
        "$9999999999\r\n",
        "$2147483647\r\nabc",
        "$536870912\r\nabc",
        "*2147483647\r\n",
        "*536870912\r\n",
        "%2147483647\r\n",
        "~2147483647\r\n",
        "=9999999999\r\n",
        "!9999999999\r\n",
        "*2\r\n$9999999999\r\n",
        deep.as_str(),
        maps.as_str(),
    ] {
        let what = reply.get(..16).unwrap_or(reply).trim_end().to_owned();
        for opening in [false, true] {
            let bytes = reply.to_owned();
            let answer = move |_: &_| Reply::bytes(bytes.clone());
            let fake =
                if opening { FakeRedis::start(answer) } else { FakeRedis::after_handshake(answer) };
            let mut client = scene.connect();
            client
                .batch_execute(
                    "SET pg_cache.timeout_ms = 100; SET pg_cache.connect_timeout_ms = 100",
                )
                .unwrap();
            let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
            cached(&mut client, "warm", QUERY).unwrap();
            let before = memory_peak_kb(pid);
            use_url(&mut client, &fake.url());
            let counters = answers(&mut client, 2, &what);
            let named = ["protocol", "timeout", "breaker", "too_large"];
            let named: i64 = named.iter().map(|reason| counters.reason(reason)).sum();
            assert_eq!(named, 2, "{what}: {counters:?}");
            let grown = memory_peak_kb(pid).saturating_sub(before);
            assert!(grown < 100 << 10, "{what}: grew by {grown} kB");
        }
    }
}

#[test]
fn a_close_at_any_point_is_a_closed_connection() {
    // Danger: half a value is taken for a whole one.
    let scene = Scene::new();
    prepare(&scene);
    for part in [
        &b""[..],
        b"*",
        b"*2\r\n",
        b"*2\r\n$100\r\nabc",
        b"*2\r\n$3\r\nabc\r\n",
        b"*2\r\n$3\r\nabc\r",
        b"$5\r\nhel",
    ] {
        let what = format!("{:?}", String::from_utf8_lossy(part));
        for opening in [false, true] {
            let reply =
                if part.is_empty() { Reply::Close } else { Reply::BytesThenClose(part.to_vec()) };
            let answer = move |_: &_| reply.clone();
            let fake =
                if opening { FakeRedis::start(answer) } else { FakeRedis::after_handshake(answer) };
            let (mut client, notices) = scene.connect_listening();
            use_url(&mut client, &fake.url());
            expect(&mut client, &notices, &what, "closed");
        }
    }
}

#[test]
fn half_a_reply_and_then_nothing_is_a_timeout() {
    // Danger: the deadline begins anew with every byte.
    let scene = Scene::new();
    prepare(&scene);
    let begun = Mutex::new(HashSet::new());
    let fake = FakeRedis::before(&scene.redis, move |request, reply| {
        let mut begun = begun.lock().unwrap();
        if begun.contains(&request.connection) {
            return Reply::Silence;
        }
        if request.is_introduction() {
            return Reply::Bytes(reply);
        }
        begun.insert(request.connection);
        Reply::bytes("*2\r\n$100\r\nabc")
    });
    let (mut client, notices) = scene.connect_listening();
    client.batch_execute("SET pg_cache.timeout_ms = 100").unwrap();
    use_url(&mut client, &fake.url());
    expect(&mut client, &notices, "half a reply", "timeout");
    let silent = FakeRedis::start(|_| Reply::Silence);
    let (mut client, notices) = scene.connect_listening();
    client
        .batch_execute("SET pg_cache.timeout_ms = 100; SET pg_cache.connect_timeout_ms = 100")
        .unwrap();
    use_url(&mut client, &silent.url());
    expect(&mut client, &notices, "silent from the start", "timeout");
}

#[test]
fn a_queue_that_is_full_is_bounded_by_the_connect_timeout() {
    // Danger: connecting to a Unix socket has no timeout of its own.
    let scene = Scene::new();
    prepare(&scene);
    let fake = FakeRedis::never_accepts();
    let (mut client, _) = scene.connect_listening();
    client.batch_execute("SET pg_cache.connect_timeout_ms = 150").unwrap();
    use_url(&mut client, &fake.url());
    let ((answer, took), counters) = counted(&mut client, |c| timed(|| cached(c, "k", QUERY)));
    assert_eq!(answer.as_deref(), Ok(ANSWER));
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(counters.reason("connect") + counters.reason("timeout"), 1, "{counters:?}");
}

#[test]
fn connecting_takes_no_more_than_its_timeout_handshake_included() {
    // Danger: a server that takes its time over each part makes every caller wait twice.
    let scene = Scene::alone();
    prepare(&scene);
    let (mut client, _) = scene.connect_listening();
    let limits = "SET pg_cache.timeout_ms = 1000; SET pg_cache.connect_timeout_ms = 1000";
    client.batch_execute(limits).unwrap();
    let fake = FakeRedis::accepts_late(Duration::from_millis(800));
    use_url(&mut client, &fake.url());
    let (answer, took) = timed(|| cached(&mut client, "k", QUERY));
    assert_eq!(answer.as_deref(), Ok(ANSWER));
    assert!((900..1400).contains(&took.as_millis()), "{took:?}");
}

#[test]
fn a_command_takes_no_more_than_its_timeout_connecting_included() {
    // Danger: a commit waits for the connection, and as long again for the answer.
    let scene = Scene::alone();
    let (mut client, _) = scene.connect_listening();
    let limits = "SET pg_cache.timeout_ms = 1000; SET pg_cache.connect_timeout_ms = 1000";
    client.batch_execute(limits).unwrap();
    let fake = FakeRedis::start(|request| match request.handshake() {
        Some(bytes) => {
            if request.is("HELLO") {
                std::thread::sleep(Duration::from_millis(800));
            }
            Reply::Bytes(bytes)
        }
        None => Reply::Silence,
    });
    use_url(&mut client, &fake.url());
    let (answer, took) = timed(|| client.batch_execute("SELECT redis_get('k')"));
    assert_eq!(sqlstate(&answer.unwrap_err()), "08006");
    assert!((900..1400).contains(&took.as_millis()), "{took:?}");
}

#[test]
fn a_server_that_is_too_old_is_refused_by_name() {
    // Danger: commands that behave otherwise before Redis 7.
    let scene = Scene::new();
    prepare(&scene);
    let fake = FakeRedis::start(|request| match request.handshake() {
        Some(bytes) => {
            let text = String::from_utf8(bytes).unwrap();
            // The same length, so that bulk lengths stay true.
            Reply::bytes(
                text.replace("7.0.", "6.2.").replace("7.2.", "6.2.").replace("7.4.", "6.2."),
            )
        }
        None => Reply::bytes("-ERR no\r\n"),
    });
    let (mut client, notices) = scene.connect_listening();
    use_url(&mut client, &fake.url());
    expect(&mut client, &notices, "6.2", "version");
}

#[test]
fn a_valkey_is_judged_by_its_own_version() {
    // Danger: it says redis_version 7.2.4 whatever it is, and one that is too old is used; or one
    // that is new enough is refused.
    let scene = Scene::new();
    prepare(&scene);
    for (version, is_used) in
        [("7.1.9", false), ("6.9.0", false), ("7.2.5", true), ("8.0.0", true), ("10.1.0", true)]
    {
        let fake = FakeRedis::before(&scene.redis, move |request, reply| {
            if !(request.is("INFO") && request.word(1) == "server") {
                return Reply::Bytes(reply);
            }
            let text = String::from_utf8(reply).unwrap();
            let (_, told) = text.split_once("run_id:").unwrap();
            let version = format!("redis_version:7.2.4\r\nvalkey_version:{version}\r\n");
            Reply::Bytes(bulk(&format!("{version}run_id:{told}")))
        });
        let (mut client, notices) = scene.connect_listening();
        use_url(&mut client, &fake.url());
        if !is_used {
            expect(&mut client, &notices, version, "version");
            continue;
        }
        cached(&mut client, version, QUERY).unwrap();
        let (_, counters) = counted(&mut client, |c| cached(c, version, QUERY).unwrap());
        assert_eq!(counters.hits, 1, "{version}: {counters:?}");
        let sql = "SELECT ok, detail FROM redis_health() WHERE \"check\" = 'server version'";
        let row = client.query_one(sql, &[]).unwrap();
        assert_eq!((row.get(0), row.get(1)), (true, format!("valkey {version}")));
    }
}

#[test]
fn a_reply_too_many_is_never_the_next_calls_answer() {
    // Danger: redis-rs#1252: the reply to yesterday's question.
    let scene = Scene::new();
    prepare(&scene);
    // Every answer of the registered server comes three times: the second one fits the next call,
    // of which it is not the answer.
    let fake = FakeRedis::before(&scene.redis, |request, reply| {
        Reply::Bytes(if request.is_introduction() { reply } else { reply.repeat(3) })
    });
    let (mut client, _) = scene.connect_listening();
    for number in 0..3 {
        cached(&mut client, &number.to_string(), &format!("SELECT {number} AS v")).unwrap();
    }
    use_url(&mut client, &fake.url());
    let ((), counters) = counted(&mut client, |c| {
        for round in 0..4 {
            for number in 0..3 {
                let answer = cached(c, &number.to_string(), &format!("SELECT {number} AS v"));
                let expected = format!(r#"[{{"v":{number}}}]"#);
                assert_eq!(answer.as_deref(), Ok(expected.as_str()), "round {round}");
            }
        }
    });
    assert_eq!((counters.hits, counters.fills), (0, 0), "{counters:?}");
    assert!(counters.reason("protocol") >= 1, "{counters:?}");
}
