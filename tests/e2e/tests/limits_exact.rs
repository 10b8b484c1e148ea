//! The script is the function that was proved, and fifty sessions share one limit.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use pg_cache_core::gcra::{Arrival, Exact, Limit};
use pg_cache_e2e::Scene;
use pg_cache_testbed::Redis;
use redis::Connection;

const SCRIPT: &str = include_str!("../../../src/client/lua/limit_1.lua");
const CLOCK: &str = "redis.call('TIME')";
const TTL_MAX_S: i64 = 2_592_000;

/// Seconds of the run with fifty connections.
const SECONDS: &str = "PG_CACHE_LIMIT_SECONDS";

/// The script with its time from the arguments: only a test can make one.
fn with_a_fake_clock() -> String {
    assert_eq!(SCRIPT.matches(CLOCK).count(), 1, "the script asks for the time once");
    SCRIPT.replace(CLOCK, "{ ARGV[6], ARGV[7] }")
}

struct Call {
    limit: Limit,
    now_micros: u64,
    cost: u64,
}

/// A sequence on one key: rates that change now and then, time that mostly passes slowly.
fn sequence(seed: u64, calls: usize) -> Vec<Call> {
    let mut dice = fastrand::Rng::with_seed(seed);
    // No key may expire while the test runs, and no number be small by chance.
    let mut now_micros = 4_000_000_000_000_000 + dice.u64(0..1_000_000);
    let scaled = |dice: &mut fastrand::Rng, bits_max: u32| {
        let bits = dice.u32(1..=bits_max);
        dice.u64(0..1 << bits)
    };
    let rate = |dice: &mut fastrand::Rng| {
        let max = scaled(dice, 31) as i32;
        (max.max(1), scaled(dice, 27) + 1)
    };
    let (mut max, mut period_ms) = rate(&mut dice);
    let mut made = Vec::with_capacity(calls);
    while made.len() < calls {
        if dice.u8(..) < 3 {
            (max, period_ms) = rate(&mut dice);
        }
        let burst = if dice.bool() { None } else { Some(scaled(&mut dice, 10) as i32) };
        let Ok(limit) = Limit::new(max, period_ms, burst, TTL_MAX_S) else { continue };
        let interval = (period_ms * 1000).div_ceil(max as u64);
        let patience = dice.u64(1..=4);
        now_micros += dice.u64(0..=interval * patience);
        let cost = if dice.bool() { 1 } else { dice.u64(0..=limit.limit().min(1 << 31) + 1) };
        made.push(Call { limit, now_micros, cost });
    }
    made
}

type Reply = (bool, u64, u64);

/// The script's answers to all of them, in one pipeline, and what stands under the key at the end.
fn answers(redis: &mut Connection, sha: &str, key: &str, calls: &[Call]) -> (Vec<Reply>, String) {
    let mut pipeline = redis::pipe();
    for Call { limit, now_micros, cost } in calls {
        let terms = limit.terms(*cost);
        pipeline.cmd("EVALSHA").arg(sha).arg(1).arg(key).arg(terms.max);
        pipeline.arg(terms.cost.micros).arg(terms.cost.rest);
        pipeline.arg(terms.capacity.micros).arg(terms.capacity.rest);
        pipeline.arg(now_micros / 1_000_000).arg(now_micros % 1_000_000);
    }
    let replies = pipeline.query(redis).unwrap();
    let found: Option<String> = redis::cmd("GET").arg(key).query(redis).unwrap();
    (replies, found.unwrap_or_default())
}

#[test]
fn the_script_decides_as_the_proved_function_does() {
    // Danger: what is proved is not what runs. 20,000 requests on a real server, its clock taken
    // from the arguments; each answer and all that is kept, to the last unit.
    const KEYS: u64 = 40;
    const CALLS: usize = 500;
    let redis = Redis::start();
    let mut connection = redis.client();
    let script = with_a_fake_clock();
    let sha: String = redis::cmd("SCRIPT").arg("LOAD").arg(&script).query(&mut connection).unwrap();
    let (mut allowed, mut refused) = (0, 0);
    for seed in 0..KEYS {
        let (key, calls) = (format!("k:{seed}"), sequence(seed, CALLS));
        let (replies, found) = answers(&mut connection, &sha, &key, &calls);
        let mut stored: Option<Arrival> = None;
        for (number, (call, reply)) in calls.iter().zip(replies).enumerate() {
            let Call { limit, now_micros, cost } = call;
            let (expected, left) = limit.decide(stored, *now_micros, *cost);
            let (is_allowed, micros, rest) = reply;
            let told = limit.told(is_allowed, Exact { micros, rest }, *cost);
            assert_eq!(told, expected, "{key}, call {number}, {limit:?}, {cost}, {stored:?}");
            stored = left;
            *(if is_allowed { &mut allowed } else { &mut refused }) += 1;
        }
        assert_eq!(found, stored.map(|arrival| arrival.text()).unwrap_or_default());
    }
    assert!(allowed > 1000 && refused > 1000, "{allowed} allowed, {refused} refused");
}

/// The server's time in microseconds.
fn time_of(redis: &mut Connection) -> u64 {
    let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(redis).unwrap();
    seconds * 1_000_000 + micros
}

/// How many of its requests one session sees admitted, from when all are there until the end.
fn admitted(scene: &Scene, call: &str, all_there: &Barrier, goes_on: &AtomicBool) -> u64 {
    let mut client = scene.connect();
    let statement = client.prepare(call).unwrap();
    // Once when all are connected, and once when the burst is spent.
    all_there.wait();
    all_there.wait();
    let mut count = 0;
    while goes_on.load(Ordering::Relaxed) {
        count += u64::from(client.query_one(&statement, &[]).unwrap().get::<_, bool>(0));
    }
    count
}

#[test]
fn fifty_sessions_get_what_the_limit_allows_and_no_more() {
    // Danger: two sessions read the same state and both pass; or requests are refused that the rate
    // has room for. By the server's own time: never more than the burst and what the time gave back
    // since before the first, never less than that up to a refusal after the last.
    const SESSIONS: usize = 50;
    const MAX: u64 = 400;
    const BURST: u64 = 199;
    let scene = Scene::alone();
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let call =
        |cost: u64| format!("SELECT allowed FROM redis_rate_limit('k', {MAX}, 1, {BURST}, {cost})");
    let (goes_on, all_there) = (AtomicBool::new(true), Barrier::new(SESSIONS + 1));
    let (mut redis, mut judge) = (scene.redis.client(), scene.connect());
    let (one, all) = (call(1), call(BURST + 1));
    let mut ask = |sql: &str| -> bool { judge.query_one(sql, &[]).unwrap().get(0) };
    let (mut total, before, after_first) = thread::scope(|scope| {
        let session = || scope.spawn(|| admitted(&scene, &one, &all_there, &goes_on));
        let sessions: Vec<_> = (0..SESSIONS).map(|_| session()).collect();
        all_there.wait();
        // The whole burst at once: the sessions have half a second to come before any is idle.
        let before = time_of(&mut redis);
        assert!(ask(&all));
        let after_first = time_of(&mut redis);
        all_there.wait();
        thread::sleep(Duration::from_secs(seconds));
        goes_on.store(false, Ordering::Relaxed);
        let sum: u64 = sessions.into_iter().map(|session| session.join().unwrap()).sum();
        (sum + BURST + 1, before, after_first)
    });
    let before_last = time_of(&mut redis);
    while ask(&one) {
        total += 1;
    }
    let after = time_of(&mut redis);
    let most = BURST + 1 + (after - before) * MAX / 1_000_000;
    let least = BURST + before_last.saturating_sub(after_first) * MAX / 1_000_000;
    println!("{total} admitted in {} µs, between {least} and {most}", after - before);
    assert!(total <= most, "{total} admitted, at most {most}");
    assert!(total >= least, "{total} admitted, at least {least}");
}
