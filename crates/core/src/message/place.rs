//! Where a message stands in the outbox: by this the relay orders, and a stream's record tells what
//! it holds already.
//!
//! Invariant: no two messages of one database have the same place, and a later transaction's is
//! greater. `number` is a position in the write-ahead log that the transaction read before its
//! commit record: whoever committed before another began to commit has the smaller one.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub number: u64,
    /// Tells apart who read the same position.
    pub xid: u64,
    /// The order within the transaction.
    pub seq: u64,
}

impl Place {
    /// The inverse of `to_string`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| u64::from_str_radix(part, 16).ok());
        let (number, xid, seq) = (parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(Self { number, xid, seq })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:x}.{:x}.{:x}", self.number, self.xid, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn its_text_never_changes() {
        // Danger: after an upgrade the last batch of a stream is not recognised, and sent again.
        let place = Place { number: 0x1a2b, xid: 700, seq: 0 };
        assert_eq!(place.to_string(), "1a2b.2bc.0");
        for text in ["", "1", "1.2", "1.2.3.4", "1.2.x", " 1.2.3", "1..3"] {
            assert_eq!(Place::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_comes_back_as_it_was(number: u64, xid: u64, seq: u64) {
            // Danger: as above.
            let place = Place { number, xid, seq };
            prop_assert_eq!(Place::parse(&place.to_string()), Some(place));
        }
    }
}
