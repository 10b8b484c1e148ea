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

/// Counts changes of the catalogue.
#[derive(Debug, Default)]
pub struct Changes {
    begun: AtomicU64,
    ended: AtomicU64,
    recent: Mutex<VecDeque<String>>,
}

impl Changes {
    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
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

    /// How many had ended at this moment.
    pub fn mark(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// Whether one was under way at some moment since then.
    pub fn any_since(&self, mark: u64) -> bool {
        self.begun.load(Ordering::SeqCst) != mark
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
        assert!(!changes.any_since(mark));
        changes.begin();
        let during = changes.mark();
        assert!(changes.any_since(mark) && changes.any_since(during));
        changes.end();
        assert!(changes.any_since(mark) && changes.any_since(during));
        assert!(!changes.any_since(changes.mark()));
    }
}
