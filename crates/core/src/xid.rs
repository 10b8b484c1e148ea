//! What PostgreSQL can be asked of a transaction by its id.
//!
//! Ids that we keep are 64 bits wide; by the lower 32 PostgreSQL tells apart those that lie within
//! half a turn of the next one. Invariant: it is asked of no other. Of one further back it would
//! find that it is yet to come: an error, or a wait without end.

/// Ids this far back are over: PostgreSQL gives out none any more when the oldest that may run is
/// three million short of half a turn behind.
const LONG_AGO: u64 = (1 << 31) - (1 << 21);

/// When a transaction had its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// Nobody has it yet.
    ToCome,
    /// The half by which PostgreSQL knows it.
    Recent(u32),
    /// So long ago that it is over.
    Over,
}

/// The age of an id, by the next one to be given out.
pub fn age(xid: u64, next: u64) -> Age {
    match next.checked_sub(xid) {
        None | Some(0) => Age::ToCome,
        Some(LONG_AGO..) => Age::Over,
        Some(_) => Age::Recent(xid as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TURN: u64 = 1 << 32;

    #[test]
    fn what_was_long_ago_is_over() {
        // Danger: an id of more than half a turn ago is taken for one of the future, and one of a
        // whole turn ago for the one that has its lower half now.
        let next = 5 * TURN + 800;
        for ago in [LONG_AGO, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, 3 << 30, TURN, 5 * TURN] {
            assert_eq!(age(next - ago, next), Age::Over, "{ago}");
        }
        assert_eq!(age(0, 1 << 31), Age::Over);
    }

    #[test]
    fn what_nobody_has_yet_is_not_over() {
        // Danger: a list that holds ids of a lost future is taken for settled.
        for ahead in [0, 1, 1 << 31, TURN] {
            assert_eq!(age(800 + ahead, 800), Age::ToCome, "{ahead}");
        }
        assert_eq!(age(u64::MAX, 0), Age::ToCome);
    }

    #[test]
    fn who_may_still_run_is_not_over() {
        // Danger: a change of the schema that took for ever has committed, its messages are not yet
        // sent, and nobody waits for them.
        let next = 5 * TURN + 800;
        let oldest = next - ((1 << 31) - 3_000_000);
        assert_eq!(age(oldest, next), Age::Recent(oldest as u32));
    }

    #[test]
    fn the_last_before_a_turn_are_recent_behind_it() {
        // Danger: for a while after each turn, nobody waits for who is ending.
        assert_eq!(age(TURN - 1, TURN + 5), Age::Recent(u32::MAX));
        assert_eq!(age(TURN + 4, TURN + 5), Age::Recent(4));
        assert_eq!(age(3, 4), Age::Recent(3));
    }

    proptest! {
        #[test]
        fn postgresql_is_only_asked_of_what_it_takes_for_past(xid: u64, next: u64) {
            // Danger: as above, at a distance that nobody thought of.
            if let Age::Recent(narrow) = age(xid, next) {
                prop_assert!((narrow.wrapping_sub(next as u32) as i32) < 0);
                prop_assert!(next - xid < TURN / 2);
            }
        }

        #[test]
        fn near_ids_are_recent(next in 1u64.., ago in 1u64..LONG_AGO) {
            // Danger: one that is ending passes for one that is over.
            prop_assume!(ago <= next);
            let recent = matches!(age(next - ago, next), Age::Recent(_));
            prop_assert!(recent);
        }
    }
}
