//! What many backends see of one breaker.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use proptest::prelude::*;

const PROBE_MS: u64 = 700;

/// No jitter.
const FULL: u64 = 0;

fn opened(at_ms: u64) -> SharedBreaker {
    let breaker = SharedBreaker::default();
    for strike in 1..=STRIKES {
        assert_eq!(breaker.admit(at_ms, PROBE_MS), Permit::Free);
        assert_eq!(breaker.failed(Permit::Free, at_ms, FULL), strike == STRIKES);
    }
    breaker
}

#[test]
fn a_few_failures_in_a_row_open_it_for_everybody() {
    // Danger: every backend waits out a dead server for itself.
    let breaker = opened(1000);
    assert_eq!(breaker.admit(1000, PROBE_MS), Permit::Refused { retry_in_ms: 100 });
    assert_eq!(breaker.admit(1099, PROBE_MS), Permit::Refused { retry_in_ms: 1 });
    assert_eq!((breaker.open_ms(1040), breaker.failures()), (60, u32::from(STRIKES)));
    assert!(breaker.is_open() && !SharedBreaker::default().is_open());
    // Nor is it trusted when it is time for one to try: as if all who come then were that one.
    assert_eq!(breaker.open_ms(1100), 0);
    assert!(breaker.is_open());
    breaker.succeeded();
    assert!(!breaker.is_open());
}

#[test]
fn a_success_of_anybody_takes_strikes_back() {
    // Danger: one backend whose values are too large for its timeout shuts all others out.
    let breaker = SharedBreaker::default();
    for now_ms in 0..100 {
        for _ in 1..STRIKES {
            assert!(!breaker.failed(Permit::Free, now_ms, FULL));
        }
        breaker.succeeded();
    }
    assert_eq!(breaker.admit(100, PROBE_MS), Permit::Free);
}

#[test]
fn one_goes_ahead_and_the_others_wait_for_what_it_finds() {
    // Danger: after each delay all 500 try at once, and wait out the dead server together.
    let breaker = opened(0);
    assert_eq!(breaker.admit(100, PROBE_MS), Permit::Probe);
    assert_eq!(breaker.admit(100, PROBE_MS), Permit::Refused { retry_in_ms: PROBE_MS });
    assert!(breaker.failed(Permit::Probe, 300, FULL));
    assert_eq!(breaker.admit(499, PROBE_MS), Permit::Refused { retry_in_ms: 1 });
    assert_eq!(breaker.admit(500, PROBE_MS), Permit::Probe);
    breaker.succeeded();
    assert_eq!(breaker.admit(500, PROBE_MS), Permit::Free);
    assert_eq!(breaker.failures(), 0);
}

#[test]
fn a_probe_that_dies_is_not_waited_for() {
    // Danger: the backend that tries is killed, and nobody ever tries again.
    let breaker = opened(0);
    assert_eq!(breaker.admit(100, PROBE_MS), Permit::Probe);
    assert_eq!(breaker.admit(100 + PROBE_MS, PROBE_MS), Permit::Probe);
    assert_eq!(breaker.admit(100 + PROBE_MS, u64::MAX), Permit::Refused { retry_in_ms: PROBE_MS });
    assert_eq!(breaker.admit(100 + 2 * PROBE_MS, u64::MAX), Permit::Probe);
    let refused = Permit::Refused { retry_in_ms: LONGEST_MS };
    assert_eq!(breaker.admit(100 + 2 * PROBE_MS, PROBE_MS), refused);
}

#[test]
fn those_who_were_under_way_do_not_lengthen_the_delay() {
    // Danger: 500 calls fail in the same moment, and the first delay is the longest one.
    let breaker = opened(0);
    for _ in 0..500 {
        assert!(breaker.failed(Permit::Free, 0, FULL));
    }
    assert_eq!(breaker.open_ms(0), 100);
}

#[test]
fn of_many_at_once_exactly_one_probes() {
    // Danger: a race between the look and the claim lets several through.
    let breaker = opened(0);
    let probes = AtomicUsize::new(0);
    for round in 1..200u64 {
        let now_ms = round * 20_000;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    if breaker.admit(now_ms, PROBE_MS) == Permit::Probe {
                        probes.fetch_add(1, Ordering::SeqCst);
                        breaker.failed(Permit::Probe, now_ms, FULL);
                    }
                });
            }
        });
        assert_eq!(probes.swap(0, Ordering::SeqCst), 1, "round {round}");
    }
}

#[test]
fn addresses_are_told_apart_until_there_are_too_many() {
    // Danger: one dead server shuts out another; or a table that is full loops for ever.
    let breakers = Breakers::default();
    let of = |name: &str| breakers.of(&[name, ""]).map(std::ptr::from_ref);
    let names: Vec<String> = (0..ADDRESSES_MAX).map(|number| format!("redis://{number}")).collect();
    let places: Vec<_> = names.iter().map(|name| of(name).expect("there is room")).collect();
    for (name, place) in names.iter().zip(&places) {
        assert_eq!(of(name), Some(*place));
    }
    let distinct: std::collections::BTreeSet<_> = places.iter().collect();
    assert_eq!(distinct.len(), ADDRESSES_MAX);
    assert_eq!(of("redis://one.more"), None);
}

proptest! {
    #[test]
    fn it_never_shuts_out_for_longer_than_the_longest(
        steps in prop::collection::vec((0u64..30_000, any::<u64>(), 0u8..4, any::<u64>()), 1..200),
    ) {
        // Danger: a night's outage is followed by an hour without a cache.
        let breaker = SharedBreaker::default();
        let mut now_ms = 0;
        for (passed_ms, probe_ms, what, random) in steps {
            now_ms += passed_ms;
            match what {
                0 => breaker.succeeded(),
                1 => _ = breaker.failed(Permit::Probe, now_ms, random),
                2 => _ = breaker.failed(Permit::Free, now_ms, random),
                _ => _ = breaker.admit(now_ms, probe_ms),
            }
            prop_assert!(breaker.open_ms(now_ms) <= LONGEST_MS);
            prop_assert_eq!(breaker.open_ms(now_ms + LONGEST_MS), 0);
        }
    }

    #[test]
    fn a_word_holds_every_state(failures: u8, delay_ms in 0u64..65_536, since_ms in 0u64..1 << 40) {
        // Danger: a year of uptime, or a long delay, runs into another field.
        let state = State { failures, delay_ms, since_ms };
        prop_assert_eq!(State::unpack(state.pack()), state);
    }
}
