//! Owns the decision whether to say something again.
//!
//! Invariant: between two things said lie at least `every_ms`. Without it a Redis that is down
//! writes one line into the server log for every query.

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limiter {
    every_ms: u64,
    last_ms: Option<u64>,
    held_back: u64,
    suppressed: u64,
}

impl Limiter {
    pub fn new(every_ms: u64) -> Self {
        Limiter { every_ms, last_ms: None, held_back: 0, suppressed: 0 }
    }

    /// Whether it may be said now. If the clock went back, the wait begins anew from there: it
    /// neither says too much nor falls silent until the clock has caught up.
    pub fn allow(&mut self, now_ms: u64) -> bool {
        match self.last_ms {
            Some(last_ms) if now_ms < last_ms => self.last_ms = Some(now_ms),
            Some(last_ms) if now_ms - last_ms < self.every_ms => {}
            _ => {
                self.last_ms = Some(now_ms);
                self.suppressed = std::mem::take(&mut self.held_back);
                return true;
            }
        }
        self.held_back = self.held_back.saturating_add(1);
        false
    }

    /// How often it was held back before the last time it was allowed.
    pub fn suppressed(&self) -> u64 {
        self.suppressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_is_said_and_the_next_a_minute_later() {
        // Danger: a server log of nothing but our warning, or no warning at all.
        let mut limiter = Limiter::new(60_000);
        assert!(limiter.allow(5));
        assert_eq!(limiter.suppressed(), 0);
        assert!(!limiter.allow(5));
        assert!(!limiter.allow(60_004));
        assert!(limiter.allow(60_005));
        assert_eq!(limiter.suppressed(), 2);
        assert!(limiter.allow(120_005));
        assert_eq!(limiter.suppressed(), 0);
    }

    #[test]
    fn a_clock_that_goes_back_does_not_silence_it() {
        // Danger: the clock is set back by a day, and nobody is warned for a day.
        let mut limiter = Limiter::new(60_000);
        assert!(limiter.allow(86_400_000));
        assert!(!limiter.allow(0));
        assert!(limiter.allow(60_000));
    }

    proptest! {
        #[test]
        fn no_two_are_nearer_than_the_interval(
            every_ms in 1u64..50, steps in prop::collection::vec(0u64..30, 0..100),
        ) {
            // Danger: as above, in a pattern nobody thought of.
            let mut limiter = Limiter::new(every_ms);
            let (mut now_ms, mut last, mut held_back) = (0, None::<u64>, 0);
            for step in steps {
                now_ms += step;
                if limiter.allow(now_ms) {
                    prop_assert!(last.is_none_or(|last| now_ms - last >= every_ms));
                    prop_assert_eq!(limiter.suppressed(), held_back);
                    (last, held_back) = (Some(now_ms), 0);
                } else {
                    prop_assert!(last.is_some_and(|last| now_ms - last < every_ms));
                    held_back += 1;
                }
            }
        }
    }
}
