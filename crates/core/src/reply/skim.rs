//! Where a reply ends, while it comes in.
//!
//! Invariant: it says "complete" at the last byte of the reply and not before, and looks at each
//! byte about once, however many pieces the reply comes in.

use super::{Head, Lack, head};

/// What is known of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It takes so many bytes, pushes before it among them.
    Complete {
        used: usize,
    },
    /// It takes at least so many.
    Incomplete {
        at_least: usize,
    },
    Malformed(&'static str),
}

/// How far a reply has been looked at.
#[derive(Debug)]
pub struct Skim {
    at: usize,
    /// Up to here no line ends.
    seen: usize,
    /// Elements that are still to come.
    left: u64,
}

impl Default for Skim {
    fn default() -> Self {
        Self { at: 0, seen: 0, left: 1 }
    }
}

impl Skim {
    /// Goes on with what has come so far: all of it, from the first byte of the reply.
    pub fn go_on(&mut self, bytes: &[u8]) -> Progress {
        while self.left > 0 {
            match head(bytes, self.at, self.seen) {
                Ok((head, next)) => {
                    self.at = next;
                    self.seen = next;
                    self.count(&head);
                }
                Err(Lack::More { at_least, seen }) => {
                    self.seen = seen.max(self.at);
                    return Progress::Incomplete { at_least };
                }
                Err(Lack::Malformed(why)) => return Progress::Malformed(why),
            }
        }
        Progress::Complete { used: self.at }
    }

    /// Attributes and pushes are no elements themselves; what they hold is to be passed over.
    fn count(&mut self, head: &Head<'_>) {
        let (is_element, announced) = match head {
            Head::Many(b'|', pairs) => (false, pairs.saturating_mul(2)),
            Head::Many(b'>', members) => (false, *members),
            Head::Many(b'%', pairs) => (true, pairs.saturating_mul(2)),
            Head::Many(_, members) => (true, *members),
            _ => (true, 0),
        };
        self.left = self.left.saturating_add(announced);
        if is_element {
            self.left -= 1;
        }
    }
}
