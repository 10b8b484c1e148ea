//! The limit against a bucket that leaks, against redis-cell's own table, and at its bounds.

use proptest::prelude::*;

use super::*;

const TTL_MAX_S: i64 = 2_592_000;
/// Above it, doubles skip integers.
const LUA_EXACT_MAX: u64 = 1 << 53;
/// In 2100, in microseconds since 1970.
const LATE_MICROS: u64 = 4_102_444_800_000_000;

fn limit(max: i32, period_ms: u64, burst: i32) -> Limit {
    Limit::new(max, period_ms, Some(burst), TTL_MAX_S).unwrap()
}

/// A bucket with a hole: each request pours its cost in, and it leaks all the time. Nothing here
/// knows of arrival times: the water is kept, and drained by what passed since the last call. One
/// request is `period` of water, and `max` of it leaks in a microsecond.
struct Bucket {
    water: i128,
    last_micros: i128,
}

impl Bucket {
    fn ask(&mut self, rate: (i128, i128), burst: i128, now_micros: u64, cost: i128) -> Decision {
        let (leak, request) = (rate.0, rate.1);
        let passed = i128::from(now_micros) - self.last_micros;
        self.last_micros = i128::from(now_micros);
        self.water = (self.water - passed * leak).max(0);
        let room = (burst + 1) * request;
        let allowed = self.water + cost * request <= room;
        if allowed {
            self.water += cost * request;
        }
        let time_for = |water: i128| u64::try_from((water + leak - 1) / leak).unwrap();
        let never = cost > burst + 1;
        let overflow = self.water + cost * request - room;
        Decision {
            allowed,
            limit: u64::try_from(burst + 1).unwrap(),
            remaining: u64::try_from((room - self.water).max(0) / request).unwrap(),
            retry_after_micros: (!allowed && !never).then(|| time_for(overflow)),
            reset_after_micros: time_for(self.water),
        }
    }
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn up_to(&mut self, most: u64) -> u64 {
        // Knuth's multiplier of MMIX; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 16) % (most + 1)
    }

    /// As often small as large.
    fn scaled(&mut self, most: u64) -> u64 {
        let bits = self.up_to(u64::from(64 - most.leading_zeros()));
        self.up_to(most.min(1 << bits.min(62)))
    }
}

#[test]
fn a_hundred_thousand_answers_are_those_of_a_leaking_bucket() {
    // Danger: a rounding, a carry or a comparison that is wrong once in ten thousand requests, and
    // then for ever, since each answer hangs on all before it.
    const SEQUENCES: u64 = 200;
    const CALLS: u64 = 600;
    let mut dice = Dice(2026);
    let (mut allowed, mut refused) = (0, 0);
    for _ in 0..SEQUENCES {
        let max = dice.scaled(5_000_000) + 1;
        let period_ms = dice.scaled(TTL_MAX_S as u64 * 1000 / 30) + 1;
        let rate = (i128::from(max), i128::from(period_ms) * 1000);
        let interval = (period_ms * 1000).div_ceil(max);
        let mut now = 1_700_000_000_000_000 + dice.up_to(1_000_000_000_000);
        let mut bucket = Bucket { water: 0, last_micros: i128::from(now) };
        let mut stored = None;
        for _ in 0..CALLS {
            now += dice.scaled(interval * 3);
            // The burst changes between calls too, as far as the key may live.
            let burst = dice.scaled(29.min(max * 29)) as i32;
            let cost = dice.scaled(burst as u64 + 2);
            let subject = limit(max as i32, period_ms, burst);
            let (answer, left) = subject.decide(stored, now, cost);
            let expected = bucket.ask(rate, i128::from(burst), now, i128::from(cost));
            assert_eq!(answer, expected, "{subject:?}, cost {cost}, at {now}, {stored:?}");
            stored = left;
            *(if answer.allowed { &mut allowed } else { &mut refused }) += 1;
        }
    }
    assert!(allowed + refused >= 100_000);
    assert!(allowed.min(refused) > 10_000, "{allowed} allowed, {refused} refused: one-sided");
}

#[test]
fn the_table_of_redis_cell_is_ours() {
    // Danger: who comes from redis-cell meets other answers. Its own cases: five at once, then one
    // a second; milliseconds, cost, remaining, reset, retry, limited.
    let cases = [
        (0, 6, 5, 0, None, true),
        (0, 1, 4, 1000, None, false),
        (0, 1, 3, 2000, None, false),
        (0, 1, 2, 3000, None, false),
        (0, 1, 1, 4000, None, false),
        (0, 1, 0, 5000, None, false),
        (0, 1, 0, 5000, Some(1000), true),
        (3000, 1, 2, 3000, None, false),
        (3100, 1, 1, 3900, None, false),
        (4000, 1, 1, 4000, None, false),
        (8000, 1, 4, 1000, None, false),
        (9500, 1, 4, 1000, None, false),
        (9500, 0, 4, 1000, None, false),
        (9500, 2, 2, 3000, None, false),
        (9500, 5, 2, 3000, Some(3000), true),
    ];
    let (subject, mut stored) = (limit(1, 1000, 4), None);
    for (number, (at_ms, cost, remaining, reset_ms, retry_ms, limited)) in
        cases.into_iter().enumerate()
    {
        let (answer, left) = subject.decide(stored, LATE_MICROS + at_ms * 1000, cost);
        stored = left;
        let expected = Decision {
            allowed: !limited,
            limit: 5,
            remaining,
            retry_after_micros: retry_ms.map(|ms: u64| ms * 1000),
            reset_after_micros: reset_ms * 1000,
        };
        assert_eq!(answer, expected, "case {number}");
    }
}

#[test]
fn thirds_of_a_second_do_not_drift() {
    // Danger: 3 a second counted as one every 333,333 µs lets 3.000003 through, and counted as
    // 333,334 refuses a client that keeps to the rate. One that always asks as early as it may, for
    // ten days: its request n comes at the first microsecond after (n - 1) / 3 seconds.
    let (subject, mut stored) = (limit(3, 1000, 1), None);
    let mut now = LATE_MICROS;
    for number in 0..2_600_000_u64 {
        let (mut answer, mut left) = subject.decide(stored, now, 1);
        if let Some(wait) = answer.retry_after_micros {
            now += wait;
            (answer, left) = subject.decide(stored, now, 1);
        }
        assert!(answer.allowed, "request {number}: {answer:?}");
        let due = LATE_MICROS + (number.saturating_sub(1) * 1_000_000).div_ceil(3);
        assert_eq!(now, due, "request {number}");
        stored = left;
    }
}

#[test]
fn without_a_burst_so_many_come_at_once_as_in_a_period() {
    // Danger: "5 a minute" lets one through, and then none for twelve seconds.
    let subject = Limit::new(5, 60_000, None, TTL_MAX_S).unwrap();
    let mut stored = None;
    for left in (0..5).rev() {
        let (answer, next) = subject.decide(stored, LATE_MICROS, 1);
        assert_eq!((answer.allowed, answer.remaining, answer.limit), (true, left, 5));
        stored = next;
    }
    let (answer, _) = subject.decide(stored, LATE_MICROS, 1);
    assert_eq!((answer.allowed, answer.retry_after_micros), (false, Some(12_000_000)));
}

#[test]
fn what_makes_no_limit_is_refused_by_name() {
    // Danger: max 0 divides by zero; a negative cost gives tokens back; a limit that takes a year
    // to reset leaves its key in Redis for a year.
    let new = |max, burst| Limit::new(max, 1000, burst, TTL_MAX_S).unwrap_err().message();
    assert_eq!(new(0, None), "max out of range: 0");
    assert_eq!(new(i32::MIN, None), "max out of range: -2147483648");
    assert_eq!(new(1, Some(-1)), "burst out of range: -1");
    assert_eq!(new(1, Some(i32::MAX)), "burst out of range: 2147483647");
    assert_eq!(cost(-1).unwrap_err().message(), "cost out of range: -1");
    assert_eq!((cost(0), cost(i32::MAX)), (Ok(0), Ok(i32::MAX as u64)));
    let month = |burst| Limit::new(1, TTL_MAX_S as u64 * 1000, Some(burst), TTL_MAX_S);
    assert!(month(0).is_ok());
    let error = month(1).unwrap_err();
    assert_eq!(error, Limits::ResetTooLong { seconds: 5_184_000, max_seconds: TTL_MAX_S }.into());
    assert!(Limit::new(i32::MAX, 1, Some(BURST_MAX), TTL_MAX_S).is_ok());
}

proptest! {
    #[test]
    fn every_number_for_the_script_is_exact_in_lua(
        max in 1..=i32::MAX,
        period_ms in 1..=u64::from(u32::MAX) * 1000,
        burst in 0..=BURST_MAX,
        cost in 0..=i32::MAX,
        ttl_max in 1..=i64::from(i32::MAX),
    ) {
        // Danger: a sum above 2^53 is rounded, and a limit with large numbers counts wrong, or not
        // at all: adding one to it changes nothing.
        let Ok(subject) = Limit::new(max, period_ms, Some(burst), ttl_max) else { return Ok(()) };
        let Terms { max, cost, capacity } = subject.terms(cost as u64);
        prop_assert!(cost.rest < max && capacity.rest < max);
        // The largest debt that a limit may leave, and this request on top.
        let most = ttl_max as u64 * MICROS_PER_SECOND;
        prop_assert!(capacity.micros <= most);
        prop_assert!(LATE_MICROS + capacity.micros + cost.micros + 1 < LUA_EXACT_MAX);
        prop_assert!(most + cost.micros + 1 < LUA_EXACT_MAX);
    }

    #[test]
    fn no_window_lets_more_through_than_its_time_and_the_burst(
        max in 1..50_i32,
        period_ms in 1..5_000_u64,
        burst in 0..20_i32,
        gaps in prop::collection::vec((0..2_000_000_u64, 0..4_u64), 1..60),
    ) {
        // Danger: the sum of small errors, or an expiry that forgives what is not paid yet.
        let subject = limit(max, period_ms, burst);
        let (mut now, mut stored, mut admitted) = (LATE_MICROS, None, Vec::new());
        for (gap, cost) in gaps {
            now += gap / max as u64;
            let (answer, left) = subject.decide(stored, now, cost);
            stored = left;
            if answer.allowed {
                admitted.push((now, cost));
            }
        }
        for (first, (from, _)) in admitted.iter().enumerate() {
            let mut sum = 0;
            for (at, cost) in &admitted[first..] {
                sum += cost;
                // sum <= burst + 1 + (at - from) * max / period, without the division.
                let period = period_ms * 1000;
                let most = (burst as u64 + 1) * period + (at - from) * max as u64;
                prop_assert!(sum * period <= most);
            }
        }
    }

    #[test]
    fn another_rate_under_the_same_key_gives_nothing_back(
        rates in prop::collection::vec((1..1000_i32, 1..100_000_u64, 0..20_i32, 0..3_u64), 1..20),
    ) {
        // Danger: whoever may ask under a key of his choice resets somebody else's limit by asking
        // under a generous rate.
        let (mut stored, mut paid_at) = (None, 0);
        for (max, period_ms, burst, cost) in rates {
            let (_, left) = limit(max, period_ms, burst).decide(stored, LATE_MICROS, cost);
            stored = left;
            let at = left.map_or(0, |arrival| arrival.at.micros);
            prop_assert!(at >= paid_at);
            paid_at = at;
        }
    }
}
