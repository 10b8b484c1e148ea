//! Owns the decision which debts are tried now, when Redis refuses some of them.
//!
//! A refused debt stays where it is, and would be among the first of every step. So debts are gone
//! through in rounds, in their order, each step from where the last one ended. Now and then a round
//! is of all; the others pass over the transactions that are *stuck*: something of theirs was
//! refused. Invariant: each round tries every debt of whoever was not stuck when it began, and a
//! round of all tries every debt. Were one left out, its readers would compute for ever.

use std::collections::HashSet;

/// How long what was refused rests.
const RETRY_EVERY_MS: u64 = 5_000;

/// A debt by its place in the order: the tag as it is stored, and the transaction.
pub type Place = (i64, u64);

#[derive(Debug, Default)]
pub struct Arrears {
    /// Whose debts were refused before this round.
    stuck: HashSet<u64>,
    /// Whose are refused in this one.
    refused: HashSet<u64>,
    /// Up to where it has come; `None` between two.
    cursor: Option<Place>,
    is_of_all: bool,
    due_at_ms: u64,
}

impl Arrears {
    /// A step begins, and with the first one a round.
    pub fn begin_step(&mut self, now_ms: u64) {
        if self.cursor.is_none() {
            self.is_of_all = now_ms >= self.due_at_ms;
        }
    }

    /// Where the step begins: behind this one.
    pub fn cursor(&self) -> Option<Place> {
        self.cursor
    }

    /// Whether the round leaves a transaction out.
    pub fn leaves_out(&self, xid: u64) -> bool {
        !self.is_of_all && self.stuck.contains(&xid)
    }

    /// A debt of this transaction was refused.
    pub fn refuse(&mut self, xid: u64) {
        self.refused.insert(xid);
    }

    /// What was refused just now took long: it rests from now on.
    pub fn rest(&mut self, now_ms: u64) {
        self.due_at_ms = now_ms + RETRY_EVERY_MS;
    }

    /// The step has tried debts up to this one; if none was left, the round is over.
    pub fn end_step(&mut self, last: Option<Place>, now_ms: u64) {
        self.cursor = last;
        if last.is_some() {
            return;
        }
        let refused = std::mem::take(&mut self.refused);
        if self.is_of_all {
            self.stuck = refused;
            self.rest(now_ms);
        } else {
            self.stuck.extend(refused);
        }
    }

    /// Whether something that this transaction owes cannot be paid for now.
    pub fn is_stuck(&self, xid: u64) -> bool {
        self.stuck.contains(&xid) || self.refused.contains(&xid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const STEP_DEBTS: usize = 3;

    /// One step; whether the round goes on.
    fn step(
        arrears: &mut Arrears,
        debts: &mut BTreeSet<Place>,
        now_ms: u64,
        refuses: impl Fn(Place) -> bool,
    ) -> bool {
        arrears.begin_step(now_ms);
        let ahead = debts.iter().copied().filter(|place| Some(*place) > arrears.cursor());
        let tried = ahead.filter(|place| !arrears.leaves_out(place.1));
        let tried: Vec<Place> = tried.take(STEP_DEBTS).collect();
        for place in &tried {
            match refuses(*place) {
                true => arrears.refuse(place.1),
                false => _ = debts.remove(place),
            }
        }
        arrears.end_step(tried.last().copied(), now_ms);
        !tried.is_empty()
    }

    fn round(
        arrears: &mut Arrears,
        debts: &mut BTreeSet<Place>,
        now_ms: u64,
        refuses: impl Fn(Place) -> bool,
    ) {
        while step(arrears, debts, now_ms, &refuses) {}
    }

    proptest! {
        #[test]
        fn whatever_is_refused_holds_up_nobody_else(
            steps in prop::collection::vec(
                (prop::collection::vec((-9i64..9, 0u64..6), 0..9), any::<u32>(), 0u64..9_000),
                1..20,
            )
        ) {
            // Danger: debts that cannot be paid are tried again and again, and no other ever is; or
            // one is taken for refused for ever, and its readers compute for ever.
            let (mut arrears, mut debts) = (Arrears::default(), BTreeSet::new());
            let mut now_ms = 1;
            for (new, refusing, pause_ms) in steps {
                let refuses = |(tag, _): Place| refusing >> (tag + 9) & 1 == 1;
                let stuck: Vec<u64> = (0..6).filter(|xid| arrears.is_stuck(*xid)).collect();
                debts.extend(new);
                let is_of_all = now_ms >= arrears.due_at_ms;
                round(&mut arrears, &mut debts, now_ms, refuses);
                let is_left = |place: &&Place| !refuses(**place) && !stuck.contains(&place.1);
                prop_assert_eq!(debts.iter().find(is_left), None);
                prop_assert!(debts.iter().all(|place| arrears.is_stuck(place.1)));
                if is_of_all {
                    prop_assert!(debts.iter().all(|place| refuses(*place)));
                    let owes = |xid: &u64| debts.iter().any(|place| place.1 == *xid);
                    prop_assert!((0..6).filter(|xid| arrears.is_stuck(*xid)).all(|x| owes(&x)));
                }
                now_ms += pause_ms;
            }
            round(&mut arrears, &mut debts, now_ms + RETRY_EVERY_MS, |_| false);
            prop_assert!(debts.is_empty());
        }
    }

    #[test]
    fn what_is_refused_after_long_rests_from_then_on() {
        // Danger: one that takes longer than the pause to be refused is tried without a pause.
        let mut arrears = Arrears::default();
        arrears.begin_step(1);
        arrears.end_step(None, 1);
        let late_ms = RETRY_EVERY_MS;
        arrears.begin_step(late_ms);
        arrears.refuse(7);
        arrears.rest(late_ms);
        arrears.end_step(None, late_ms);
        arrears.begin_step(1 + RETRY_EVERY_MS);
        assert!(arrears.leaves_out(7), "long after the last round of all, and soon after this");
        arrears.begin_step(late_ms + RETRY_EVERY_MS);
        assert!(!arrears.leaves_out(7));
    }

    #[test]
    fn what_comes_in_the_middle_of_a_round_is_tried_soon() {
        // Danger: many are refused, and one that comes meanwhile waits for the next round of all.
        let (mut arrears, mut debts) = (Arrears::default(), (0..9).map(|tag| (tag, 7)).collect());
        step(&mut arrears, &mut debts, 1, |_| true);
        assert!(arrears.is_stuck(7), "at once");
        debts.extend([(0, 8), (8, 9)]);
        round(&mut arrears, &mut debts, 1, |place| place.1 == 7);
        assert!(debts.contains(&(0, 8)) && !debts.contains(&(8, 9)));
        round(&mut arrears, &mut debts, 2, |place| place.1 == 7);
        assert_eq!(debts.len(), 9);
        assert!(arrears.is_stuck(7) && !arrears.is_stuck(8));
    }
}
