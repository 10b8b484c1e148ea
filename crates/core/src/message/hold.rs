//! How much of a batch of the outbox may be sent at once.
//!
//! Invariant: nothing goes ahead of what its transaction owes: the payment would delete the key
//! that was just set. And behind a message about a key that is *unsure*, of which nobody knows
//! whether its token stands, the next one about that key waits until the first one's row is
//! deleted: sent again after the second one, the first would find no token, and bring back what is
//! older.

use std::collections::HashSet;
use std::hash::Hash;

use super::Message;

/// What stands before a token of which nobody knows whether it was laid.
pub const UNSURE: &[u8] = b"?";

/// What the relay puts before the others: they come in the order of their commits, so they may also
/// follow one that was unsure.
pub const IN_ORDER: &[u8] = b"+";

/// How many of these, from the front, may go: each with its transaction, if it is understood.
pub fn sendable<'a>(
    batch: impl Iterator<Item = (u64, Option<&'a Message>)>,
    is_owing: impl Fn(u64) -> bool,
) -> usize {
    let mut unsure: HashSet<&[u8]> = HashSet::new();
    let may_go = |(xid, message): &(u64, Option<&'a Message>)| {
        if is_owing(*xid) {
            return false;
        }
        let Some(Message::Store { key, token, .. }) = message else { return true };
        if unsure.contains(&key[..]) {
            return false;
        }
        if token.starts_with(UNSURE) {
            unsure.insert(key);
        }
        true
    };
    batch.take_while(may_go).count()
}

/// Which of these wait: those of transactions whose debts cannot be paid for now, and all that
/// follows them to the same place. Each with its transaction and its place.
pub fn waiting<T: Hash + Eq>(
    batch: impl Iterator<Item = (u64, T)>,
    is_owing: impl Fn(u64) -> bool,
) -> Vec<bool> {
    let mut places = HashSet::new();
    let waits = |(xid, place): (u64, T)| {
        let waits = is_owing(xid) || places.contains(&place);
        if waits {
            places.insert(place);
        }
        waits
    };
    batch.map(waits).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Stored;
    use super::*;

    fn store(key: &[u8], token: &[u8]) -> Message {
        let (key, token) = (key.into(), token.into());
        Message::Store { key, token, ttl_ms: None, value: Stored::Nothing }
    }

    fn count(batch: &[(u64, Message)], owing: &[u64]) -> usize {
        let batch = batch.iter().map(|(xid, message)| (*xid, Some(message)));
        sendable(batch, |xid| owing.contains(&xid))
    }

    #[test]
    fn whoever_owes_holds_up_what_is_behind() {
        // Danger: a row is set, and then deleted by the debt of its own transaction.
        let publish = Message::Publish { channel: b"c"[..].into(), payload: b"p"[..].into() };
        let batch = [(1, store(b"a", b"x")), (2, publish), (3, store(b"a", b"z"))];
        assert_eq!(count(&batch, &[]), 3);
        assert_eq!(count(&batch, &[4]), 3);
        assert_eq!(count(&batch, &[3]), 2);
        assert_eq!(count(&batch, &[2, 3]), 1);
        assert_eq!(count(&batch, &[1]), 0);
        assert_eq!(sendable([(1, None), (2, None)].into_iter(), |xid| xid == 2), 1);
    }

    #[test]
    fn nothing_follows_an_unsure_one_to_its_key() {
        // Danger: both are sent, the worker dies, both are sent again, and the older one stays.
        let batch = [
            (1, store(b"a", b"x")),
            (2, store(b"a", b"?y")),
            (3, store(b"b", b"?")),
            (4, store(b"a", b"z")),
            (5, store(b"c", b"w")),
        ];
        assert_eq!(count(&batch, &[]), 3);
        assert_eq!(count(&batch[3..], &[]), 2);
        assert_eq!(count(&[batch[2].clone(), batch[2].clone()], &[]), 1);
    }
    #[test]
    fn what_follows_to_another_place_does_not_wait() {
        // Danger: one debt that cannot be paid stops every event of the database; or what waits for
        // its payment is overtaken within its stream.
        let batch = [(1, "a"), (2, "b"), (3, "b"), (4, "a"), (2, "c"), (1, "c"), (3, "d")];
        let told = |owing: &[u64]| waiting(batch.into_iter(), |xid| owing.contains(&xid));
        assert_eq!(told(&[]), [false; 7]);
        assert_eq!(told(&[2]), [false, true, true, false, true, true, false]);
        assert_eq!(told(&[1, 3]), [true, false, true, true, false, true, true]);
    }
}
