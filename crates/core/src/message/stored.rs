//! Owns the memory of which keys were just stored, and for which transactions.
//!
//! A prepared transaction owes its keys, so that they are deleted whatever Redis has lost by then;
//! and when it commits it stores some of them. A key that was stored for the very transaction that
//! owes it need not be deleted any more: what stood there from before is gone. Invariant: it holds
//! for one generation, since a Redis that was restarted may have the old value back.

use std::collections::{HashSet, VecDeque};

/// Of how many it is known; of others the debt deletes the key, which is then absent, never old.
const KNOWN_MAX: usize = 10_000;

type Known = (u64, Box<[u8]>);

#[derive(Debug, Default)]
pub struct JustStored {
    generation: u128,
    known: HashSet<Known>,
    order: VecDeque<Known>,
}

impl JustStored {
    /// What follows is stored under this generation.
    pub fn begin(&mut self, generation: u128) {
        if self.generation != generation {
            *self = Self { generation, ..Self::default() };
        }
    }

    pub fn note(&mut self, xid: u64, key: &[u8]) {
        let one = (xid, Box::from(key));
        if self.known.insert(one.clone()) {
            self.order.push_back(one);
        }
        if self.order.len() > KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub fn has(&self, xid: u64, key: &[u8]) -> bool {
        self.known.contains(&(xid, Box::from(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_knows_the_last_ones_of_one_generation() {
        // Danger: a key is not deleted that another transaction owes, or that a restarted Redis has
        // as it was before; or memory grows with all that was ever stored.
        let mut stored = JustStored::default();
        stored.begin(1);
        stored.note(700, b"a");
        stored.note(700, b"a");
        assert!(stored.has(700, b"a") && !stored.has(701, b"a") && !stored.has(700, b"b"));
        for xid in 0..KNOWN_MAX as u64 {
            stored.note(xid, b"other");
        }
        assert!(!stored.has(700, b"a") && stored.has(0, b"other"));
        assert_eq!((stored.known.len(), stored.order.len()), (KNOWN_MAX, KNOWN_MAX));
        stored.begin(1);
        assert!(stored.has(0, b"other"));
        stored.begin(2);
        assert!(!stored.has(0, b"other"));
    }
}
