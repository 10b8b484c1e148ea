//! Whether to look for a reply at once, again and again, before going to sleep for it.
//!
//! A reply from the same machine comes within tens of microseconds, and a process that sleeps for
//! it may pay as much again to be woken. But where Redis has to share a core with whoever looks, or
//! is farther away, looking only costs. Which it is, no setting can say: so both ways are timed,
//! and the faster one is taken. Invariant: the slower way is taken at most once in [`TRY_EVERY`],
//! once both are known, and a tie is slept through.

use std::time::Duration;

/// How often the way that seems slower gets another try.
pub const TRY_EVERY: u32 = 32;

/// Longer is not told apart: what matters is tens of microseconds, and one reply that was held up
/// must not outweigh many.
const TIME_MAX: Duration = Duration::from_micros(500);

/// A mean is moved by this part of each difference.
const WEIGHT: u32 = 8;

/// What one connection has seen.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Eagerness {
    asked: u32,
    looking: Option<Duration>,
    sleeping: Option<Duration>,
}

impl Eagerness {
    /// Asked once a request.
    pub fn is_worth_it(&mut self) -> bool {
        let (Some(looking), Some(sleeping)) = (self.looking, self.sleeping) else {
            return self.looking.is_none();
        };
        self.asked = self.asked.wrapping_add(1);
        let is_faster = looking + looking / WEIGHT < sleeping;
        let is_tried = self.asked.is_multiple_of(TRY_EVERY);
        is_faster != is_tried
    }

    /// How long it took from the request to the first bytes of its reply, by one way or the other.
    pub fn took(&mut self, looked: bool, time: Duration) {
        let time = time.min(TIME_MAX);
        let mean = if looked { &mut self.looking } else { &mut self.sleeping };
        *mean = Some(mean.map_or(time, |mean| (mean * (WEIGHT - 1) + time) / WEIGHT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(time: u64) -> Duration {
        Duration::from_micros(time)
    }

    /// How many of `requests` look, where looking and sleeping take so long.
    fn looks(eagerness: &mut Eagerness, requests: u32, looking: u64, sleeping: u64) -> u32 {
        let mut looks = 0;
        for _ in 0..requests {
            let looked = eagerness.is_worth_it();
            looks += u32::from(looked);
            eagerness.took(looked, us(if looked { looking } else { sleeping }));
        }
        looks
    }

    #[test]
    fn what_comes_from_afar_is_slept_for() {
        // Danger: every hit through a slow network burns a core for nothing.
        let mut eagerness = Eagerness::default();
        let tried = looks(&mut eagerness, 10_000, 900, 900);
        assert!((1..=10_000 / TRY_EVERY + 2).contains(&tried), "{tried}");
    }

    #[test]
    fn the_faster_way_is_taken() {
        // Danger: a hit takes twice as long as it could.
        let near = looks(&mut Eagerness::default(), 10_000, 30, 60);
        assert!(near >= 10_000 - 10_000 / TRY_EVERY - 2, "{near}");
        let crowded = looks(&mut Eagerness::default(), 10_000, 60, 30);
        assert!(crowded <= 10_000 / TRY_EVERY + 2, "{crowded}");
    }

    #[test]
    fn what_changes_is_noticed() {
        // Danger: Redis moves to another core, and nobody notices.
        let mut eagerness = Eagerness::default();
        looks(&mut eagerness, 1_000, 30, 60);
        looks(&mut eagerness, 1_000, 90, 60);
        assert!(looks(&mut eagerness, 1_000, 90, 60) <= 1_000 / TRY_EVERY + 1);
        looks(&mut eagerness, 1_000, 30, 60);
        assert!(looks(&mut eagerness, 1_000, 30, 60) >= 1_000 - 1_000 / TRY_EVERY - 1);
    }

    #[test]
    fn one_slow_reply_changes_nothing() {
        // Danger: a query that took Redis a second makes all later ones slow.
        let mut eagerness = Eagerness::default();
        looks(&mut eagerness, 1_000, 20, 200);
        eagerness.took(true, Duration::from_secs(1));
        assert!((0..5).all(|_| eagerness.is_worth_it()));
    }
}
