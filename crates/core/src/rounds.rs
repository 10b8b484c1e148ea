//! Owns the decision whose database is looked at next.
//!
//! Invariant: every database is looked at once, soon after it is first seen, and then again after
//! an interval that depends on what was found there; never two looks at one database nearer to each
//! other than the shorter interval. Without it a database that nobody reads stays without its
//! worker, or a server with a thousand databases does nothing but look.

use std::collections::HashMap;

/// Between two looks at a database that has the extension.
pub const PRESENT_MS: u64 = 60_000;

/// Between two looks at one that has not.
pub const ABSENT_MS: u64 = 600_000;

#[derive(Debug, Default)]
pub struct Rounds {
    /// When each database was looked at.
    looked: HashMap<u32, u64>,
}

impl Rounds {
    /// The databases to look at now, those that waited longest first; never seen ones before all.
    /// `has_extension` says what was found last; nothing counts as present.
    pub fn due(
        &mut self,
        now_ms: u64,
        databases: &[u32],
        has_extension: impl Fn(u32) -> Option<bool>,
    ) -> Vec<u32> {
        self.looked.retain(|database, _| databases.contains(database));
        let mut due: Vec<(Option<u64>, u32)> = databases
            .iter()
            .map(|database| (self.looked.get(database).copied(), *database))
            .filter(|(looked, database)| {
                let every_ms = match has_extension(*database) {
                    Some(false) => ABSENT_MS,
                    Some(true) | None => PRESENT_MS,
                };
                looked.is_none_or(|looked_ms| now_ms.saturating_sub(looked_ms) >= every_ms)
            })
            .collect();
        due.sort_unstable();
        due.into_iter().map(|(_, database)| database).collect()
    }

    /// Somebody was sent to look.
    pub fn looked(&mut self, now_ms: u64, database: u32) {
        self.looked.insert(database, now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_looked_at_once_and_then_by_what_was_found() {
        // Danger: a database that came later is never looked at, or one without the extension
        // all the time.
        let mut rounds = Rounds::default();
        let found = |database| match database {
            1 => Some(true),
            2 => Some(false),
            _ => None,
        };
        assert_eq!(rounds.due(0, &[2, 1], found), [1, 2]);
        assert_eq!(rounds.due(0, &[2, 1], found), [1, 2], "nobody was sent");
        rounds.looked(5, 1);
        rounds.looked(5, 2);
        assert_eq!(rounds.due(5, &[1, 2, 3], found), [3], "it is new");
        rounds.looked(6, 3);
        assert_eq!(rounds.due(PRESENT_MS, &[1, 2, 3], found), [] as [u32; 0]);
        assert_eq!(rounds.due(5 + PRESENT_MS, &[1, 2, 3], found), [1]);
        assert_eq!(rounds.due(6 + PRESENT_MS, &[1, 2, 3], found), [1, 3], "unknown is present");
        assert_eq!(rounds.due(4 + ABSENT_MS, &[1, 2, 3], found), [1, 3]);
        assert_eq!(rounds.due(5 + ABSENT_MS, &[1, 2, 3], found), [1, 2, 3]);
    }

    #[test]
    fn who_waited_longest_is_first_and_the_dropped_are_forgotten() {
        // Danger: with few worker slots the same databases come first for ever; or an oid that is
        // used again is taken for one that was looked at.
        let mut rounds = Rounds::default();
        let found = |_| Some(true);
        rounds.looked(10, 1);
        rounds.looked(5, 2);
        assert_eq!(rounds.due(10 + PRESENT_MS, &[1, 2, 3], found), [3, 2, 1]);
        assert_eq!(rounds.due(11, &[2], found), [] as [u32; 0]);
        assert_eq!(rounds.due(11, &[1, 2], found), [1]);
    }

    #[test]
    fn a_clock_that_goes_back_waits_and_does_not_run_wild() {
        // Danger: an interval below zero is taken for one that is over.
        let mut rounds = Rounds::default();
        rounds.looked(1_000_000, 1);
        assert_eq!(rounds.due(0, &[1], |_| Some(true)), [] as [u32; 0]);
    }
}
