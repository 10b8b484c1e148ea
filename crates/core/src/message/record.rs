//! What stands in the record of a stream, as it was found.
//!
//! A server that went back (recovered to a point in time, promoted without the last of its
//! primary's log) finds places there of transactions that it has lost. Those behind the end of its
//! log are no row's: a row's place is read before the row is written. Known, they would be taken
//! for rows that are not deleted yet until the log has come so far: with each batch the record
//! would be added to, and never replaced. Left standing, they would be known to whoever adopts the
//! stream when the log has come so far, and a new row that has such a place would count as
//! delivered. So they are left out of both, before anything is appended. (Of a stream that nobody
//! adopts before the log has come so far they stay for one batch. A new row that counted as
//! delivered then would need the very position, id and order of one that was lost.)
//!
//! Invariant: no place that a row of this server has is left out, or its event would be appended
//! twice.

use super::place::Place;

#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// What rows of this server may have.
    pub places: Vec<Place>,
    /// Whether there were others.
    pub goes_beyond: bool,
}

impl Record {
    /// Of a text that an append left. The log ended there, after all rows that count were seen.
    pub fn read(text: &str, log_end: u64) -> Self {
        let all = text.split(' ').filter_map(Place::parse);
        let (places, beyond): (Vec<Place>, Vec<Place>) =
            all.partition(|place| place.number < log_end);
        Self { places, goes_beyond: !beyond.is_empty() }
    }
}

/// Places as an append leaves them.
pub fn text(places: impl Iterator<Item = Place>) -> String {
    places.map(|place| place.to_string()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::adopted::Adopted;
    use super::*;
    use proptest::prelude::*;

    fn place() -> impl Strategy<Value = Place> {
        (0..40u64, 1..3u64, 0..3u64).prop_map(|(number, xid, seq)| Place { number, xid, seq })
    }

    #[test]
    fn an_empty_one_holds_nothing() {
        // Danger: a stream that was never appended to is written to when it is adopted.
        assert_eq!(Record::read("", 7), Record { places: Vec::new(), goes_beyond: false });
    }

    proptest! {
        #[test]
        fn it_keeps_what_rows_of_this_server_may_have(
            recorded in prop::collection::vec(place(), 0..9),
            log_end in 0..50u64,
        ) {
            // Danger: the event of a row that was delivered and not deleted is appended again; or a
            // row that comes to a place that another history had is taken for delivered.
            let record = Record::read(&text(recorded.iter().copied()), log_end);
            let (ours, beyond): (Vec<Place>, Vec<Place>) =
                recorded.into_iter().partition(|place| place.number < log_end);
            prop_assert_eq!(&record.places, &ours);
            prop_assert_eq!(record.goes_beyond, !beyond.is_empty());
            let left = text(record.places.iter().copied());
            let again = Record::read(&left, u64::MAX);
            prop_assert_eq!(again, Record { places: ours, goes_beyond: false });
        }

        #[test]
        fn it_is_replaced_soon_whatever_it_held(
            recorded in prop::collection::vec(place(), 0..9),
            log_end in 0..50u64,
        ) {
            // Danger: every append adds to it, for as long as the log is behind what was lost.
            let mut adopted = Adopted::new(9);
            let record = Record::read(&text(recorded.into_iter()), log_end);
            adopted.add(b"s", record.places.into_iter());
            let next = Place { number: log_end, xid: 3, seq: 0 };
            adopted.record(b"s", [next].into_iter());
            adopted.forget_until(b"s", next);
            prop_assert!(!adopted.must_keep(b"s"), "{:?}", adopted);
        }
    }
}
