//! Owns what a walk through all keys left, as Redis refused it, for the next try to look at.
//!
//! Whatever else was there is deleted, and what is there by now was filled since: a try that looked
//! at all again would delete that each time. Invariant: nothing that was noted is left out. Were
//! it, it would stay old for who reads Redis.

use std::collections::HashSet;

/// Names that are known; beyond that it may be any.
const NAMES_MAX: usize = 1_000;

#[derive(Debug, Default)]
pub struct Left {
    names: HashSet<Vec<u8>>,
    is_any: bool,
}

impl Left {
    pub fn note(&mut self, name: &[u8]) {
        if !self.is_any {
            self.names.insert(name.to_vec());
        }
        if self.names.len() > NAMES_MAX {
            self.note_any();
        }
    }

    /// It may be anything.
    pub fn note_any(&mut self) {
        *self = Self { names: HashSet::new(), is_any: true };
    }

    /// All that is left; `None` if it may be anything.
    pub fn names(&self) -> Option<Vec<Vec<u8>>> {
        (!self.is_any).then(|| self.names.iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_known_by_name_or_may_be_anything() {
        // Danger: one name too many is forgotten, and stays old; or they take memory without end.
        let mut left = Left::default();
        for number in (0..NAMES_MAX).chain(0..NAMES_MAX) {
            left.note(number.to_string().as_bytes());
        }
        assert_eq!(left.names().map(|names| names.len()), Some(NAMES_MAX));
        left.note(b"one more");
        assert_eq!(left.names(), None);
        left.note(b"the next");
        assert_eq!(left.names(), None, "it stays so");
        assert!(left.names.is_empty());
    }
}
