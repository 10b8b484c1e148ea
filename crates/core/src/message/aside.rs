//! Owns the decision what waits behind something that Redis refuses, in bounded memory.
//!
//! What is refused is put aside with all later messages to the same target, and all that is aside
//! is tried again in rounds, each in order from its beginning. Invariant: a message is tried only
//! when every earlier one to its target was delivered; otherwise it would overtake that one.
//!
//! Targets are remembered by hash: two that share one wait for each other. If more refuse than can
//! be remembered, whatever is new is put aside, and a round tries only a part of all targets, so
//! that it can remember those of its part which refuse; the next one tries the next part. So
//! nothing is lost or overtaken, and nobody starves: what is not refused is delivered later.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Targets that are remembered: a few megabytes.
pub const TARGETS_MAX: usize = 100_000;

#[derive(Debug)]
pub struct Aside {
    targets_max: usize,
    /// To whom something was put aside; nothing is known if there were too many.
    known: HashSet<u64>,
    has_too_many: bool,
    /// Who refused in this round.
    refused: HashSet<u64>,
    /// Of how many parts the round tries which.
    parts: u64,
    part: u64,
    /// How many refused in the rounds of the parts before.
    refused_before: usize,
}

impl Aside {
    pub fn new(targets_max: usize) -> Self {
        Self {
            targets_max,
            known: HashSet::new(),
            has_too_many: false,
            refused: HashSet::new(),
            parts: 1,
            part: 0,
            refused_before: 0,
        }
    }

    /// Whether there is anything to try again, as far as a whole round has shown.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty() && !self.has_too_many
    }

    /// Whether what is new to this target waits.
    pub fn holds(&self, target: &[u8]) -> bool {
        self.has_too_many || self.known.contains(&hash_of(target))
    }

    /// Something to this target was put aside.
    pub fn put(&mut self, target: &[u8]) {
        if self.has_too_many {
            return;
        }
        self.known.insert(hash_of(target));
        if self.known.len() > self.targets_max {
            self.lose_track();
        }
    }

    /// Whether this round passes over what is to this target.
    pub fn passes_over(&self, target: &[u8]) -> bool {
        let hash = hash_of(target);
        hash % self.parts != self.part || self.refused.contains(&hash)
    }

    /// A target refused in this round, or something to it was put aside where the round has passed.
    pub fn refuse(&mut self, target: &[u8]) {
        let hash = hash_of(target);
        if hash % self.parts == self.part {
            self.refused.insert(hash);
        }
    }

    /// If more refused in this round than can be remembered, it has to begin anew with a smaller
    /// part of them.
    pub fn must_begin_anew(&mut self) -> bool {
        if self.refused.len() <= self.targets_max {
            return false;
        }
        self.lose_track();
        (self.parts, self.part) = (self.parts.saturating_mul(2), 0);
        (self.refused, self.refused_before) = (HashSet::new(), 0);
        true
    }

    /// The round has tried all of its part.
    pub fn end_round(&mut self) {
        let refused = std::mem::take(&mut self.refused);
        if self.parts == 1 {
            (self.known, self.has_too_many) = (refused, false);
            return;
        }
        self.refused_before += refused.len();
        self.part += 1;
        if self.part == self.parts {
            // One round for all, as soon as it can be expected to remember them.
            if self.refused_before <= self.targets_max / 2 {
                self.parts = 1;
            }
            (self.part, self.refused_before) = (0, 0);
        }
    }

    fn lose_track(&mut self) {
        (self.known, self.has_too_many) = (HashSet::new(), true);
    }
}

fn hash_of(target: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    target.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// The worker: what is aside, in order, and what Redis has.
    struct Worker {
        aside: Aside,
        waiting: Vec<(u8, u32)>,
        delivered: HashMap<u8, Vec<u32>>,
        made: u32,
    }

    impl Worker {
        fn new(targets_max: usize) -> Self {
            let aside = Aside::new(targets_max);
            Self { aside, waiting: Vec::new(), delivered: HashMap::new(), made: 0 }
        }

        fn deliver(&mut self, target: u8, number: u32) {
            self.delivered.entry(target).or_default().push(number);
        }

        fn make(&mut self, target: u8, refuses: impl Fn(u8) -> bool) {
            self.made += 1;
            let held = self.aside.holds(&[target]);
            if held || refuses(target) {
                self.waiting.push((target, self.made));
                self.aside.put(&[target]);
            } else {
                self.deliver(target, self.made);
            }
            self.is_bounded();
        }

        fn round(&mut self, refuses: impl Fn(u8) -> bool) {
            let mut place = 0;
            while place < self.waiting.len() {
                let (target, number) = self.waiting[place];
                if self.aside.passes_over(&[target]) {
                    place += 1;
                } else if refuses(target) {
                    self.aside.refuse(&[target]);
                    if self.aside.must_begin_anew() {
                        place = 0;
                    }
                } else {
                    self.waiting.remove(place);
                    self.deliver(target, number);
                }
                self.is_bounded();
            }
            self.aside.end_round();
        }

        fn is_bounded(&self) {
            let most = self.aside.targets_max + 1;
            assert!(self.aside.known.len() <= most && self.aside.refused.len() <= most);
        }
    }

    proptest! {
        #[test]
        fn nothing_is_overtaken_or_lost_and_memory_is_bounded(
            targets_max in 1usize..6,
            steps in prop::collection::vec((0u8..12, any::<bool>(), any::<u16>()), 0..120)
        ) {
            // Danger: more streams refuse than are remembered, and one is forgotten: its next event
            // overtakes those that wait. Or memory grows with what others put in streams' places.
            let mut worker = Worker::new(targets_max);
            for (target, is_round, refusing) in steps {
                let refuses = |target: u8| refusing >> target & 1 == 1;
                if is_round { worker.round(refuses) } else { worker.make(target, refuses) }
            }
            // The rest of its way through the parts, all of it once more, and one round for all.
            for _ in 0..2 * worker.aside.parts + 1 {
                worker.round(|_| false);
            }
            prop_assert!(worker.waiting.is_empty() && worker.aside.is_empty());
            let all: usize = worker.delivered.values().map(Vec::len).sum();
            prop_assert_eq!(all, worker.made as usize);
            for numbers in worker.delivered.values() {
                prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", numbers);
            }
        }
    }

    #[test]
    fn whoever_is_not_refused_is_served_behind_any_number_that_are() {
        // Danger: those that refuse fill the memory, and what stands behind them is never tried.
        const ROUNDS: usize = 1200; // Through all parts, twice.
        let mut worker = Worker::new(4);
        let refuses = |target: u8| target < 200;
        for target in 0..=255 {
            worker.make(target, refuses);
        }
        assert!(worker.aside.has_too_many);
        for _ in 0..ROUNDS {
            worker.round(refuses);
        }
        assert_eq!(worker.delivered.len(), 56, "all others");
        assert_eq!(worker.waiting.len(), 200);
        for _ in 0..ROUNDS {
            worker.round(|_| false);
        }
        assert!(worker.waiting.is_empty() && worker.aside.is_empty());
        worker.make(1, refuses);
        assert!(!worker.aside.holds(&[2]), "it knows again who waits");
    }
}
