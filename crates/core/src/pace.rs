//! Whether to tell Redis what a transaction changes as soon as it has changed it, or at its commit.
//!
//! Told at once, Redis works while the client sends the next statement, and the commit waits for
//! nothing. But readers of what changes compute from then until the transaction ends, and one that
//! stays open for a minute would keep them computing for a minute. So a transaction is told at once
//! only if those before it ended soon after the same number of changing statements. Invariant: for
//! each one that is told and stays open, [`PENALTY`] others ended soon.

/// How many transactions of one kind make a habit.
const TRUSTED: u32 = 16;

const TRUST_MAX: u32 = 2 * TRUSTED;

/// How many habitual transactions make up for one that was not.
pub const PENALTY: u32 = 8;

/// What one connection remembers of its transactions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// After so many statements that changed something new, they had no more to tell.
    changes: u32,
    trust: u32,
}

impl Pace {
    pub const fn new() -> Self {
        Self { changes: 0, trust: 0 }
    }

    /// Whether the end is near after so many statements that changed something new.
    pub fn is_near_end(&self, changes: u32) -> bool {
        self.trust >= TRUSTED && changes == self.changes
    }

    /// A transaction has ended after so many of them; `soon`: it committed at once behind the last.
    pub fn ended(&mut self, changes: u32, soon: bool) {
        if self.trust == 0 {
            self.changes = changes;
        }
        self.trust = match soon && changes == self.changes {
            true => (self.trust + 1).min(TRUST_MAX),
            false => self.trust.saturating_sub(PENALTY),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accustomed(changes: u32) -> Pace {
        let mut pace = Pace::new();
        (0..100).for_each(|_| pace.ended(changes, true));
        pace
    }

    #[test]
    fn a_new_connection_has_no_habit() {
        // Danger: a session that opens one transaction and stays keeps all readers computing.
        let mut pace = Pace::new();
        for _ in 0..TRUSTED {
            assert!(!pace.is_near_end(1));
            pace.ended(1, true);
        }
        assert!(pace.is_near_end(1));
    }

    #[test]
    fn only_the_last_change_is_told_at() {
        // Danger: the first of two changes is told, and the commit tells both once more.
        let pace = accustomed(2);
        assert_eq!([1, 2, 3].map(|changes| pace.is_near_end(changes)), [false, true, false]);
    }

    #[test]
    fn transactions_that_stay_open_are_seldom_told_ahead() {
        // Danger: readers compute for as long as each of them stays.
        let mut pace = accustomed(1);
        let mut ahead = 0;
        for round in 0..1000 {
            let stays = round % 2 == 0;
            ahead += u32::from(stays && pace.is_near_end(1));
            pace.ended(1, !stays);
        }
        assert!(ahead <= 1000 / 2 / PENALTY, "{ahead}");
    }

    #[test]
    fn whatever_the_mix_many_end_soon_for_each_that_is_told_and_stays() {
        // Danger: a pooled connection that makes one report among its updates tells of each.
        for every in 2..40 {
            let (mut pace, mut told, mut soon) = (Pace::new(), 0, 0);
            for round in 0..10_000 {
                let stays = round % every == 0;
                told += u32::from(stays && pace.is_near_end(1));
                soon += u32::from(!stays);
                pace.ended(1, !stays);
            }
            assert!(told * PENALTY <= soon, "one of {every}: {told} of {soon}");
        }
    }

    #[test]
    fn one_exception_breaks_no_habit_and_three_do() {
        // Danger: a lock that was waited for once makes all later commits slow.
        let mut pace = accustomed(1);
        pace.ended(1, false);
        assert!(pace.is_near_end(1));
        pace.ended(3, true);
        assert!(pace.is_near_end(1));
        pace.ended(1, false);
        assert!(!pace.is_near_end(1));
    }

    #[test]
    fn a_new_habit_takes_the_place_of_an_old_one() {
        // Danger: a connection that a pool gives to another part of the program never learns.
        let mut pace = accustomed(1);
        (0..50).for_each(|_| pace.ended(4, true));
        assert!(pace.is_near_end(4));
    }
}
