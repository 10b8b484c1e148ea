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
//!
//! Who got its id since the last walk stands behind the end of the log at that time, so a few
//! transactions that overlap do not keep the horizon where it once was; and where a walk finds
//! nothing, all up to the end of the log is handled.
//!
//! Ids above a snapshot's end may be those of subtransactions, of which one statement can have
//! millions. So they are remembered as a range, with the place of the first, until a snapshot ends
//! behind them: that one lists who runs without them.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

#[derive(Debug, Default)]
pub struct Horizon {
    from: u64,
    running: BTreeMap<u64, u64>,
    /// Those of whom no snapshot has told yet.
    recent: Range<u64>,
    /// The place before which none of them can stand.
    recent_bound: u64,
    /// Where the log ended before it was advanced last.
    log_end: u64,
}

/// How things stood at a walk.
#[derive(Debug, Clone)]
pub struct Moment<'a> {
    /// Who ran, as the snapshot lists them, without subtransactions.
    pub listed: &'a [u64],
    /// From the snapshot's end to an id that was not given out when it was taken.
    pub above: Range<u64>,
    /// Where the log ended before the snapshot was taken.
    pub log_end: u64,
}

impl Horizon {
    /// Where the walk under a new snapshot begins: who runs, as it lists them, and its end.
    pub fn begin(&mut self, listed: &[u64], end: u64) -> u64 {
        let runs: HashSet<u64> = listed.iter().copied().collect();
        let from = &mut self.from;
        self.running.retain(|xid, bound| {
            let complete = *xid < end && !runs.contains(xid);
            if complete {
                *from = (*from).min(*bound);
            }
            !complete
        });
        if !self.recent.is_empty() && self.recent.start < end {
            *from = (*from).min(self.recent_bound);
            self.note_listed(listed);
            self.recent.start = end.min(self.recent.end);
        }
        self.from
    }

    /// All that stood from there up to and with this number is handled; without one, all that the
    /// snapshot shows is.
    pub fn advance(&mut self, number: Option<u64>, moment: &Moment<'_>) {
        let Moment { listed, above, log_end } = moment;
        self.note_listed(listed);
        if self.recent.is_empty() {
            (self.recent, self.recent_bound) = (above.clone(), self.log_end);
        } else {
            self.recent.end = self.recent.end.max(above.end);
        }
        self.from = self.from.max(number.unwrap_or(*log_end));
        self.log_end = *log_end;
    }

    /// Whoever ran when it was advanced last is known; any other had no id then.
    fn note_listed(&mut self, listed: &[u64]) {
        for xid in listed {
            let is_recent = self.recent.contains(xid);
            let bound = if is_recent { self.recent_bound } else { self.log_end };
            self.running.entry(*xid).or_insert(bound);
        }
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
        /// One of them begins a subtransaction, which is undone or not.
        Sub(bool),
        /// One of them reads its position.
        Position(usize),
        Commit(usize),
        /// The relay takes at most so many; none if Redis is away.
        Relay(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Start),
            any::<bool>().prop_map(Step::Sub),
            any::<usize>().prop_map(Step::Position),
            any::<usize>().prop_map(Step::Commit),
            (0usize..4).prop_map(Step::Relay),
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
                    Step::Sub(is_undone) if !running.is_empty() => {
                        last_complete = last_complete.max(if is_undone { next_xid } else { 0 });
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
                        let end = last_complete + 1;
                        let listed: Vec<u64> =
                            runs.iter().copied().filter(|xid| *xid < end).collect();
                        let from = horizon.begin(&listed, end);
                        rows.sort_unstable();
                        let first = rows.iter().find(|(number, _)| *number >= from).copied();
                        prop_assert_eq!(first, rows.first().copied(), "from {}", from);
                        if most == 0 {
                            continue;
                        }
                        let taken: Vec<_> = rows.drain(..most.min(rows.len())).collect();
                        let moment = Moment { listed: &listed, above: end..next_xid, log_end };
                        horizon.advance(taken.last().map(|(number, _)| *number), &moment);
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn transactions_that_overlap_do_not_keep_it_back() {
        // Danger: whoever runs at a walk is remembered with a place long ago; there is always one,
        // and so each walk steps over all that was ever deleted.
        let mut horizon = Horizon::default();
        for round in 1..100u64 {
            // Its predecessor ran until now.
            let from = horizon.begin(&[], round);
            assert!(round < 3 || from >= 100 * (round - 2), "round {round}: from {from}");
            let moment = Moment { listed: &[], above: round..round + 1, log_end: 100 * round };
            let number = (round % 2 == 0).then_some(100 * round - 50);
            horizon.advance(number, &moment);
        }
    }

    #[test]
    fn a_walk_that_finds_nothing_need_not_be_done_again() {
        // Danger: a worker that has just begun, with an outbox in which nothing is left but what a
        // forgotten transaction keeps from VACUUM: every look goes through all of it.
        let mut horizon = Horizon::default();
        let forgotten = Moment { listed: &[7], above: 9..9, log_end: 1000 };
        assert_eq!(horizon.begin(&[7], 9), 0);
        horizon.advance(None, &forgotten);
        assert_eq!(horizon.begin(&[7], 9), 1000);
        assert_eq!(horizon.begin(&[], 10), 0, "it may have left something anywhere");
    }

    #[test]
    fn a_statement_with_millions_of_subtransactions_takes_no_room() {
        // Danger: a loop that catches an error for each row: the worker remembers each of its ids
        // for as long as that statement runs, and asks for each of them at every batch.
        let mut horizon = Horizon::default();
        let mut next_xid = 11;
        for round in 1..1000u64 {
            let listed: &[u64] = if round == 1 { &[] } else { &[10] };
            let from = horizon.begin(listed, next_xid - 1);
            assert!(round < 3 || from >= 100 * (round - 2), "round {round}: from {from}");
            let above = next_xid - 1..next_xid + 5000;
            next_xid = above.end + 1;
            horizon.advance(None, &Moment { listed, above, log_end: 100 * round });
            assert!(horizon.running.len() <= 1, "round {round}: {}", horizon.running.len());
        }
        assert_eq!(horizon.begin(&[], next_xid), 0, "what it commits may stand anywhere");
    }
}
