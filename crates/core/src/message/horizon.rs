//! From where on the outbox is to be walked.
//!
//! Rows that are deleted stay in the index until VACUUM may take them away, and that may be long. A
//! walk that began at the front each time would step over all of them. Most of what comes stands
//! behind what was sent last; but a transaction that read its position before and commits only now
//! stands before it.
//!
//! Invariant: no row that a snapshot shows stands before the place from which its walk begins,
//! unless it was handled. A transaction reads its position after it got its id. So who has no id
//! yet when a snapshot is taken comes behind all that the snapshot shows; and who has one and runs
//! is remembered, with a place before which it cannot stand, until it is complete. A snapshot ends
//! with the last id that is complete and lists who runs below: those above, up to the next id to be
//! given out, run too.

use std::collections::BTreeMap;
use std::ops::Range;

#[derive(Debug, Default)]
pub struct Horizon {
    from: u64,
    running: BTreeMap<u64, u64>,
}

impl Horizon {
    /// Where the walk under a new snapshot begins.
    pub fn begin(&mut self, is_complete: impl Fn(u64) -> bool) -> u64 {
        let from = &mut self.from;
        self.running.retain(|xid, bound| {
            let complete = is_complete(*xid);
            if complete {
                *from = (*from).min(*bound);
            }
            !complete
        });
        self.from
    }

    /// All that stood from there up to and with this number is handled. These ran in the snapshot:
    /// those that it lists, and from its end to an id that was not given out when it was taken.
    pub fn advance(&mut self, number: u64, listed: &[u64], above: Range<u64>) {
        for xid in listed.iter().copied().chain(above) {
            self.running.entry(xid).or_insert(self.from);
        }
        self.from = self.from.max(number);
    }

    /// The next walk begins at the front.
    pub fn start_over(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// A transaction gets its id.
        Start,
        /// One of them reads its position.
        Position(usize),
        Commit(usize),
        /// The relay takes at most so many.
        Relay(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Start),
            any::<usize>().prop_map(Step::Position),
            any::<usize>().prop_map(Step::Commit),
            (1usize..4).prop_map(Step::Relay),
        ]
    }

    proptest! {
        #[test]
        fn a_walk_misses_nothing_that_its_snapshot_shows(
            steps in prop::collection::vec(step(), 0..80)
        ) {
            // Danger: a row before the horizon is never sent, or sent after those behind it.
            let (mut next_xid, mut log_end) = (1u64, 1u64);
            let mut running: Vec<(u64, Option<u64>)> = Vec::new();
            let mut rows: Vec<(u64, u64)> = Vec::new();
            let mut horizon = Horizon::default();
            let mut last_complete = 0;
            for step in steps {
                log_end += 1;
                match step {
                    Step::Start => {
                        running.push((next_xid, None));
                        next_xid += 1;
                    }
                    Step::Position(which) if !running.is_empty() => {
                        let which = which % running.len();
                        running[which].1.get_or_insert(log_end);
                    }
                    Step::Commit(which) if !running.is_empty() => {
                        let (xid, number) = running.remove(which % running.len());
                        rows.extend(number.map(|number| (number, xid)));
                        last_complete = last_complete.max(xid);
                    }
                    Step::Relay(most) => {
                        let runs: Vec<u64> = running.iter().map(|(xid, _)| *xid).collect();
                        let from = horizon.begin(|xid| xid < next_xid && !runs.contains(&xid));
                        let end = last_complete + 1;
                        let listed: Vec<u64> =
                            runs.iter().copied().filter(|xid| *xid < end).collect();
                        rows.sort_unstable();
                        let first = rows.iter().find(|(number, _)| *number >= from).copied();
                        prop_assert_eq!(first, rows.first().copied(), "from {}", from);
                        let taken: Vec<_> = rows.drain(..most.min(rows.len())).collect();
                        if let Some((number, _)) = taken.last() {
                            horizon.advance(*number, &listed, end..next_xid);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}
