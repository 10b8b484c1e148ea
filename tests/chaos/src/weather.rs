//! For which moments the promise to plain Redis readers (S2) holds, and when DDL was under way.
//!
//! Owns two clocks. A *storm* lasts from the moment at which Redis becomes unreachable for a
//! writer, or holds what it held earlier, until everything owed is paid and the sweep is through:
//! that is the promise's own limit. The invariant: a check counts only if no part of it fell into a
//! storm. Break it and the poller accuses the product of what it never promised.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// How many statements of the last changes are kept.
const RECENT_MAX: usize = 10;

/// Of how many changes the standby may be behind before it is taken to be behind all of them.
const POSITIONS_MAX: usize = 100;

#[derive(Debug, Default)]
pub struct Weather {
    /// Odd while it storms.
    turns: AtomicU64,
    lost: AtomicBool,
}

/// A calm moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calm(u64);

impl Weather {
    pub fn storm(&self) {
        self.turns.fetch_or(1, Ordering::SeqCst);
    }

    pub fn calm_down(&self) {
        if self.calm().is_none() {
            self.turns.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A promotion may have lost commits that had returned: from here on nobody knows the history.
    pub fn lose_history(&self) {
        self.lost.store(true, Ordering::SeqCst);
    }

    pub fn history_is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    /// None while it storms.
    pub fn calm(&self) -> Option<Calm> {
        let now = self.turns.load(Ordering::SeqCst);
        now.is_multiple_of(2).then_some(Calm(now))
    }

    /// Whether it was calm all the time since then.
    pub fn still(&self, since: Option<Calm>) -> bool {
        since.is_some() && self.calm() == since
    }
}

/// Counts changes of the catalogue, one after the other, and remembers what each touches.
#[derive(Debug, Default)]
pub struct Changes {
    begun: Mutex<Vec<Touched>>,
    ended: AtomicU64,
    /// Where the primary's log was when so many had ended.
    positions: Mutex<VecDeque<(u64, u64)>>,
    /// How many of them the standby is known to have replayed.
    replayed: AtomicU64,
    recent: Mutex<VecDeque<String>>,
}

/// The beginnings of keys.
type Touched = &'static [&'static str];

impl Changes {
    pub fn begin(&self, touched: Touched) {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).push(touched);
    }

    /// For the details of a violation: what was done last.
    pub fn tell(&self, what: String) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back(what);
        while recent.len() > RECENT_MAX {
            recent.pop_front();
        }
    }

    pub fn recent(&self) -> String {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().map(|what| format!("\n    {what}")).collect()
    }

    pub fn end(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    /// All that have ended so far stand in the primary's log before this position.
    pub fn logged(&self, position: u64) {
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        positions.push_back((self.mark(), position));
        while positions.len() > POSITIONS_MAX {
            positions.pop_front();
        }
    }

    /// The standby has replayed up to this position, or is away and may come back with less.
    pub fn replayed_to(&self, position: Option<u64>) {
        let positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = |(_, logged): &&(u64, u64)| position.is_some_and(|now| *logged <= now);
        let last = positions.iter().rev().find(passed);
        self.replayed.store(last.map_or(0, |(ended, _)| *ended), Ordering::SeqCst);
    }

    /// How many had ended at this moment.
    pub fn mark(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// How many the standby had replayed at this moment, at the least.
    pub fn mark_of_standby(&self) -> u64 {
        self.replayed.load(Ordering::SeqCst)
    }

    /// Whether one that touches this key was under way at some moment since then.
    pub fn any_since(&self, mark: u64, key: &str) -> bool {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let since = begun.iter().skip(usize::try_from(mark).unwrap_or(0));
        since.copied().flatten().any(|touched| key.starts_with(touched))
    }
}

#[cfg(test)]
mod tests {
    use super::{Changes, Weather};

    #[test]
    fn a_storm_in_between_is_noticed() {
        // A check across a storm would be counted as a proof, or as a violation.
        let weather = Weather::default();
        let calm = weather.calm();
        assert!(weather.still(calm));
        weather.storm();
        assert!(weather.calm().is_none() && !weather.still(calm));
        weather.storm();
        weather.calm_down();
        assert!(weather.calm().is_some() && !weather.still(calm));
    }

    #[test]
    fn a_change_under_way_or_in_between_is_noticed() {
        // A late message of PostgreSQL's own would be taken for a stale entry.
        let changes = Changes::default();
        let mark = changes.mark();
        assert!(!changes.any_since(mark, "parts:1"));
        changes.begin(&["parts", "base"]);
        let during = changes.mark();
        assert!(changes.any_since(mark, "parts:1") && changes.any_since(during, "base:x"));
        assert!(!changes.any_since(mark, "items:1"), "what it does not touch has no excuse");
        changes.end();
        assert!(changes.any_since(mark, "parts:1") && changes.any_since(during, "parts:1"));
        assert!(!changes.any_since(changes.mark(), "parts:1"));
    }

    #[test]
    fn a_standby_is_excused_until_it_has_replayed_a_change_and_no_longer() {
        // Whatever a standby answers would be excused for as long as anything ever changed.
        let changes = Changes::default();
        changes.begin(&["parts"]);
        changes.end();
        changes.logged(100);
        changes.replayed_to(Some(99));
        assert!(changes.any_since(changes.mark_of_standby(), "parts:1"));
        changes.replayed_to(Some(100));
        assert!(!changes.any_since(changes.mark_of_standby(), "parts:1"));
        changes.begin(&["parts"]);
        assert!(changes.any_since(changes.mark_of_standby(), "parts:1"), "it may be there already");
        changes.end();
        changes.logged(200);
        changes.replayed_to(Some(150));
        assert!(changes.any_since(changes.mark_of_standby(), "parts:1"));
        changes.replayed_to(None);
        assert_eq!(changes.mark_of_standby(), 0, "it may go back to what it has on disk");
    }
}
