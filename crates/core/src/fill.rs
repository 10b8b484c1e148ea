//! Owns the way of a reader that missed: take the lease, wait for who has it, or compute.
//!
//! Invariant: only the holder of the lease is told to fill, and the waits of one call never add
//! up to more than `fill_wait_ms`, whatever the clock does. Without the first, a popular key that
//! expires sends every client to the database at once; without the second, a dead filler stops
//! the page that a cache was to make faster.

/// The longest pause between two looks for somebody else's fill.
pub const WAIT_MS_MAX: u64 = 20;

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// `SET lease token NX PX`, then look again, in one pipeline.
    Lease,
    /// Somebody else fills: pause, interruptible.
    Wait { ms: u64 },
    /// Run the query; if `fill`, store the result under our lease.
    Compute { fill: bool },
    /// Serve the entry just looked at.
    Serve,
    /// Serve the entry just looked at, and give back the lease that we took for nothing.
    ServeAndRelease,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The first look found nothing that may be served.
    Missed,
    /// Our token stands in the lease; `hit` is what the look behind it found.
    Leased { hit: bool },
    /// Somebody else's token stands in the lease; `hit` is what the look behind it found.
    Taken { hit: bool },
    /// The pause is over.
    Waited,
}

/// One call's way from a miss to an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fill {
    deadline_ms: u64,
    /// What may still be spent on pauses. Kept besides the deadline because a clock that stands
    /// still or goes back must not make anybody wait longer.
    budget_ms: u64,
    next_wait_ms: u64,
}

impl Fill {
    pub fn new(now_ms: u64, fill_wait_ms: u64) -> Self {
        Fill {
            deadline_ms: now_ms.saturating_add(fill_wait_ms),
            budget_ms: fill_wait_ms,
            next_wait_ms: 1,
        }
    }

    pub fn step(&mut self, event: Event, now_ms: u64, random: u64) -> Effect {
        match event {
            // After the last pause comes a last look: the fill may have arrived during the pause.
            Event::Missed | Event::Waited => Effect::Lease,
            Event::Leased { hit: true } => Effect::ServeAndRelease,
            Event::Leased { hit: false } => Effect::Compute { fill: true },
            Event::Taken { hit: true } => Effect::Serve,
            Event::Taken { hit: false } => match self.pause(now_ms, random) {
                0 => Effect::Compute { fill: false },
                ms => Effect::Wait { ms },
            },
        }
    }

    /// The next pause, 0 at the deadline. Half of it is random, so that those who wait for one
    /// fill do not all look in the same millisecond.
    fn pause(&mut self, now_ms: u64, random: u64) -> u64 {
        let left_ms = self.budget_ms.min(self.deadline_ms.saturating_sub(now_ms));
        let full_ms = self.next_wait_ms;
        let ms = (full_ms - random % (full_ms / 2 + 1)).min(left_ms);
        self.next_wait_ms = (full_ms * 2).min(WAIT_MS_MAX);
        self.budget_ms -= ms;
        ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FULL: u64 = 0;

    #[test]
    fn a_miss_asks_for_the_lease() {
        // Danger: everybody who misses computes.
        assert_eq!(Fill::new(0, 5000).step(Event::Missed, 0, FULL), Effect::Lease);
    }

    #[test]
    fn the_lease_is_the_right_to_fill() {
        // Danger: a fill without a lease replaces a newer entry.
        let effect = Fill::new(0, 5000).step(Event::Leased { hit: false }, 0, FULL);
        assert_eq!(effect, Effect::Compute { fill: true });
    }

    #[test]
    fn a_lease_taken_for_nothing_is_given_back() {
        // Danger: it stands until it expires, and the next miss waits for a fill that never comes.
        let effect = Fill::new(0, 5000).step(Event::Leased { hit: true }, 0, FULL);
        assert_eq!(effect, Effect::ServeAndRelease);
    }

    #[test]
    fn somebody_elses_fill_is_served() {
        // Danger: those who waited compute all the same.
        let effect = Fill::new(0, 5000).step(Event::Taken { hit: true }, 0, FULL);
        assert_eq!(effect, Effect::Serve);
    }

    #[test]
    fn pauses_grow_and_end_at_the_deadline() {
        // Danger: a busy loop over Redis, or a page that waits for a dead filler.
        let mut fill = Fill::new(1000, 100);
        let mut now_ms = 1000;
        for ms in [1, 2, 4, 8, 16, 20, 20, 20, 9] {
            assert_eq!(fill.step(Event::Taken { hit: false }, now_ms, FULL), Effect::Wait { ms });
            now_ms += ms;
            assert_eq!(fill.step(Event::Waited, now_ms, FULL), Effect::Lease);
        }
        assert_eq!(now_ms, 1100);
        let effect = fill.step(Event::Taken { hit: false }, now_ms, FULL);
        assert_eq!(effect, Effect::Compute { fill: false });
    }

    #[test]
    fn the_last_look_may_still_hit_or_fill() {
        // Danger: the fill that arrived in the last pause is thrown away and computed again.
        let mut fill = Fill::new(0, 10);
        assert_eq!(fill.step(Event::Waited, 10, FULL), Effect::Lease);
        assert_eq!(fill.clone().step(Event::Taken { hit: true }, 10, FULL), Effect::Serve);
        let effect = fill.step(Event::Leased { hit: false }, 10, FULL);
        assert_eq!(effect, Effect::Compute { fill: true });
    }

    #[test]
    fn who_may_not_wait_computes_at_once() {
        // Danger: fill_wait_ms = 0 still waits, or never fills.
        let mut fill = Fill::new(7, 0);
        assert_eq!(fill.step(Event::Missed, 7, FULL), Effect::Lease);
        let effect = fill.step(Event::Taken { hit: false }, 7, FULL);
        assert_eq!(effect, Effect::Compute { fill: false });
    }

    proptest! {
        #[test]
        fn pauses_never_add_up_to_more_than_allowed(
            fill_wait_ms in 0u64..300, start in any::<u64>(), random in any::<u64>(),
            clock in prop::collection::vec(any::<i16>(), 400),
        ) {
            // Danger: a clock that stands still or goes back keeps a reader waiting for ever.
            let mut fill = Fill::new(start, fill_wait_ms);
            let (mut now_ms, mut waited_ms, mut computed) = (start, 0, false);
            for drift in clock {
                match fill.step(Event::Taken { hit: false }, now_ms, random) {
                    Effect::Wait { ms } => {
                        prop_assert!((1..=WAIT_MS_MAX).contains(&ms));
                        waited_ms += ms;
                    }
                    effect => {
                        prop_assert_eq!(effect, Effect::Compute { fill: false });
                        computed = true;
                        break;
                    }
                }
                now_ms = now_ms.saturating_add_signed(i64::from(drift));
            }
            prop_assert!(computed && waited_ms <= fill_wait_ms);
        }
    }

    #[test]
    fn the_jitter_reaches_both_ends() {
        // Danger: all who wait for one fill look in the same millisecond.
        let pause = |random| {
            let mut fill = Fill { next_wait_ms: WAIT_MS_MAX, ..Fill::new(0, 5000) };
            fill.pause(0, random)
        };
        let pauses: std::collections::BTreeSet<u64> = (0..100).map(pause).collect();
        assert_eq!(pauses, (10..=20).collect());
    }
}
