//! Owns the decision whether to try a server that has failed.
//!
//! Invariant: after a failure there is no try for a while that grows with every further failure,
//! is never the same for two backends, and never longer than `LONGEST_MS` from now, whatever the
//! clock does. Without it a Redis that is down costs every call a connect timeout, and all
//! backends come back to a recovering server in the same instant.

pub mod shared;

/// The delay after the first failure, before jitter.
pub const FIRST_MS: u64 = 100;

/// The longest delay, before jitter.
pub const LONGEST_MS: u64 = 10_000;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
    failed_at_ms: u64,
    delay_ms: u64,
}

impl Breaker {
    pub fn new() -> Self {
        Breaker::default()
    }

    /// Whether the server may be tried now.
    pub fn may_try(&self, now_ms: u64) -> bool {
        self.retry_in_ms(now_ms) == 0
    }

    /// A try failed.
    pub fn failed(&mut self, now_ms: u64, random: u64) {
        self.delay_ms = delay_ms(self.failures, random);
        self.failures = self.failures.saturating_add(1);
        self.failed_at_ms = now_ms;
    }

    /// A try succeeded: the next failure is a first one again.
    pub fn succeeded(&mut self) {
        *self = Breaker::default();
    }

    /// Whether calls are answered without a try now.
    pub fn is_open(&self, now_ms: u64) -> bool {
        !self.may_try(now_ms)
    }

    /// How long until the server may be tried. A clock that went back behind the failure says
    /// nothing about how long ago that was: try, rather than wait for it to catch up.
    pub fn retry_in_ms(&self, now_ms: u64) -> u64 {
        match now_ms.checked_sub(self.failed_at_ms) {
            Some(passed_ms) => self.delay_ms.saturating_sub(passed_ms),
            None => 0,
        }
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// `random` spreads the backends over the second half of the delay.
fn delay_ms(doublings: u32, random: u64) -> u64 {
    let doublings = doublings.min(u64::BITS - 1);
    let full_ms = FIRST_MS.saturating_mul(1 << doublings).min(LONGEST_MS);
    full_ms - random % (full_ms / 2 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// No jitter: `random % (full / 2 + 1)` is 0.
    const FULL: u64 = 0;

    #[test]
    fn delays_double_up_to_the_longest() {
        // Danger: a server that is down for hours costs every call a connect timeout.
        let mut breaker = Breaker::new();
        assert!(breaker.may_try(0) && !breaker.is_open(0));
        for expected in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            breaker.failed(5, FULL);
            assert_eq!(breaker.retry_in_ms(5), expected);
            assert!(!breaker.may_try(5 + expected - 1) && breaker.is_open(5 + expected - 1));
            assert!(breaker.may_try(5 + expected) && !breaker.is_open(5 + expected));
        }
        assert_eq!(breaker.failures(), 9);
    }

    #[test]
    fn the_first_success_closes_it() {
        // Danger: after one bad night every hiccup costs ten seconds without a cache.
        let mut breaker = Breaker::new();
        for now_ms in 0..10 {
            breaker.failed(now_ms, FULL);
        }
        breaker.succeeded();
        assert!(breaker.may_try(10));
        assert_eq!(breaker.failures(), 0);
        breaker.failed(10, FULL);
        assert_eq!(breaker.retry_in_ms(10), FIRST_MS);
    }

    #[test]
    fn a_clock_that_goes_back_does_not_lock_redis_out() {
        // Danger: the clock is set back by an hour, and the cache is gone for an hour.
        let mut breaker = Breaker::new();
        breaker.failed(3_600_000, FULL);
        assert!(breaker.may_try(0));
        breaker.failed(0, FULL);
        assert_eq!(breaker.retry_in_ms(0), 200);
    }

    #[test]
    fn failures_without_end_do_not_overflow() {
        // Danger: a shift by 64 in a backend that has been without Redis for a week.
        let mut breaker = Breaker { failures: u32::MAX - 1, ..Breaker::new() };
        for _ in 0..3 {
            breaker.failed(u64::MAX, u64::MAX);
            assert!(breaker.retry_in_ms(u64::MAX) <= LONGEST_MS);
        }
        assert_eq!(breaker.failures(), u32::MAX);
    }

    proptest! {
        #[test]
        fn a_delay_is_jittered_and_bounded(
            failures in 1u32..80,
            random in any::<u64>(),
            failed_at in 0..u64::MAX - LONGEST_MS,
            now in any::<u64>(),
        ) {
            // Danger: all backends come back at the same moment, or one never does.
            let mut breaker = Breaker::new();
            for _ in 0..failures {
                breaker.failed(failed_at, random);
            }
            let full_ms = (FIRST_MS << (failures - 1).min(30)).min(LONGEST_MS);
            prop_assert!((full_ms / 2..=full_ms).contains(&breaker.retry_in_ms(failed_at)));
            prop_assert!(breaker.retry_in_ms(now) <= LONGEST_MS);
            prop_assert!(breaker.may_try(failed_at + LONGEST_MS));
        }
    }

    #[test]
    fn the_jitter_reaches_both_ends() {
        // Danger: a jitter that is always the same is none.
        let delay = |random| {
            let mut breaker = Breaker::new();
            breaker.failed(0, random);
            breaker.retry_in_ms(0)
        };
        let delays: std::collections::BTreeSet<u64> = (0..1000).map(delay).collect();
        assert_eq!(delays, (50..=100).collect());
    }
}
