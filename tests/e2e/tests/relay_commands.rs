//! Commands of users in the outbox: what is wrong with one of them is not wrong with the server.

use std::time::{Duration, Instant};

use pg_cache_core::key::stream_record;
use pg_cache_core::message::Message;
use pg_cache_e2e::Scene;
use pg_cache_e2e::outbox::{append, events, put, rows, wake};
use pg_cache_e2e::registry::{count, repair};
use pg_cache_testbed::eventually;
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

const ASIDE: &str = "SELECT count(*) FROM redis_outbox WHERE number < -(1::bigint << 61)";

fn command(words: &[&str]) -> Message {
    Message::Command { arguments: words.iter().map(|word| word.as_bytes().into()).collect() }
}

#[track_caller]
fn only_left(client: &mut Client, aside: i64) {
    eventually(SOON, "the others have left", || {
        wake(client);
        rows(client) == aside && count(client, ASIDE) == aside
    });
}

#[test]
fn a_script_that_nobody_knows_keeps_nothing_waiting() {
    // Danger: one EVALSHA with a digest that Redis does not know is taken for a server that has
    // lost all scripts: the worker tries again and again, never puts it aside, and the records of
    // streams grow with all that passes.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    client
        .batch_execute(
            "BEGIN; SELECT redis_at_commit('EVALSHA', repeat('f', 40), '0');
             PREPARE TRANSACTION 'unknown_script'",
        )
        .unwrap();
    client.batch_execute("COMMIT PREPARED 'unknown_script'").unwrap();
    for number in 0..5 {
        put(&mut client, &[append("s", &number.to_string())]);
        only_left(&mut client, 1);
    }
    assert_eq!(events(&scene.redis, "s"), ["0", "1", "2", "3", "4"]);
    let record = String::from_utf8(stream_record(b"s")).unwrap();
    let held = scene.redis.cli(&["HVALS", &record]);
    assert_eq!(held.split_whitespace().count(), 2, "a claim and the last place: {held}");
}

#[test]
fn a_script_may_answer_in_the_words_of_a_server_in_trouble() {
    // Danger: an application's script says BUSY of a lock of its own, and every event waits for it.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let says = |word: &str| format!("return redis.error_reply('{word} so the application says')");
    put(&mut client, &[command(&["EVAL", &says("LOADING"), "0"])]);
    only_left(&mut client, 1);
    let words = ["OOM", "BUSY", "READONLY", "NOSCRIPT", "EXECABORT", "MISCONF", "NOAUTH"];
    let mut together: Vec<Message> =
        words.iter().map(|word| command(&["EVAL", &says(word), "0"])).collect();
    together.push(command(&["INCR", "counted"]));
    together.push(append("s", "0"));
    put(&mut client, &together);
    only_left(&mut client, 8);
    assert_eq!(events(&scene.redis, "s"), ["0"]);
    assert_eq!(scene.redis.cli(&["GET", "counted"]).trim(), "1");
}

#[test]
fn a_command_waits_for_a_server_that_is_full() {
    // Danger: the refusal of a server that is full is taken for the command's own fault, and what
    // comes behind it overtakes it.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    put(&mut client, &[command(&["SET", "first", "1"])]);
    wake(&mut client);
    scene.quiet();
    assert_eq!((rows(&mut client), count(&mut client, ASIDE)), (1, 0), "it waits");
    put(&mut client, &[command(&["SET", "second", "1"])]);
    wake(&mut client);
    scene.quiet();
    assert_eq!((rows(&mut client), count(&mut client, ASIDE)), (2, 0), "both wait");
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    only_left(&mut client, 0);
    assert_eq!(scene.redis.cli(&["EXISTS", "first", "second"]).trim(), "2");
}

#[test]
fn what_needs_no_memory_leaves_for_a_server_that_is_full() {
    // Danger: in a transaction a full Redis refuses all, also what would make room.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.quiet();
    scene.redis.cli(&["SET", "large", "x"]);
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    put(
        &mut client,
        &[
            Message::Publish { channel: b"c"[..].into(), payload: b"p"[..].into() },
            command(&["DEL", "large"]),
            command(&["SET", "first", "1"]),
            command(&["DEL", "behind"]),
        ],
    );
    eventually(SOON, "it is deleted", || {
        wake(&mut client);
        rows(&mut client) == 2
    });
    assert_eq!(scene.redis.cli(&["EXISTS", "large"]).trim(), "0");
    assert_eq!(count(&mut client, ASIDE), 0, "nothing passes what has no room");
}

/// A script that keeps Redis busy for about so many seconds, and then counts.
fn busy_for(scene: &Scene, seconds: f64) -> String {
    let script =
        |turns: f64| format!("for i = 1, {turns:.0} do end return redis.call('INCR', KEYS[1])");
    let started = Instant::now();
    scene.redis.cli(&["EVAL", &script(1e7), "1", "measured"]);
    script(1e7 * seconds / started.elapsed().as_secs_f64())
}

/// Commands of which each waits for the one before, as they differ.
fn one_by_one(script: &str, count: usize) -> Vec<Message> {
    let one = |number: usize| command(&["EVAL", script, "1", "slow", &number.to_string()]);
    (0..count).map(one).collect()
}

fn slow_ones(scene: &Scene) -> usize {
    scene.redis.cli(&["GET", "slow"]).trim().parse().unwrap_or(0)
}

#[test]
fn whoever_wants_the_database_waits_for_no_queue_of_slow_commands() {
    // Danger: each of a thousand commands is in time, all of them take minutes, and so long DROP
    // DATABASE fails, no debt is paid, and VACUUM takes nothing away.
    let scene = Scene::alone();
    let name = format!("{}_slow", scene.database());
    scene.create_database(&name);
    let mut client = scene.connect_to("postgres", &name);
    repair(&mut client);
    put(&mut client, &one_by_one(&busy_for(&scene, 0.3), 60));
    wake(&mut client);
    eventually(SOON, "some have gone", || slow_ones(&scene) > 1);
    drop(client);
    scene.postgres().connect().batch_execute(&format!("DROP DATABASE {name}")).unwrap();
    let gone = slow_ones(&scene);
    assert!(gone < 40, "{gone} have gone");
}

#[test]
fn slow_commands_that_were_aside_follow_one_another() {
    // Danger: those for which there was no time pass for refused ones, and rest as long as these.
    const COMMANDS: usize = 12;
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.redis.cli(&["SET", "slow", "no number"]);
    put(&mut client, &one_by_one(&busy_for(&scene, 0.15), COMMANDS));
    only_left(&mut client, COMMANDS as i64);
    scene.quiet();
    scene.redis.cli(&["DEL", "slow"]);
    let started = Instant::now();
    only_left(&mut client, 0);
    println!("all in {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    assert_eq!(slow_ones(&scene), COMMANDS);
}

#[test]
fn slow_commands_leave_a_few_at_a_time() {
    // Danger: so many commands wait that all together take longer than an answer may: they are
    // carried out, given up and sent again for ever, and nothing behind them leaves.
    const COMMANDS: usize = 50;
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let started = Instant::now();
    // The worker waits for two seconds; all together take longer.
    let slow = busy_for(&scene, 0.08);
    put(&mut client, &vec![command(&["EVAL", &slow, "1", "slow"]); COMMANDS]);
    put(&mut client, &[append("s", "0")]);
    only_left(&mut client, 0);
    assert_eq!(events(&scene.redis, "s"), ["0"]);
    let times = slow_ones(&scene);
    println!("{times} times in {:?}", started.elapsed());
    assert!((COMMANDS..3 * COMMANDS).contains(&times), "{times} times");
}
