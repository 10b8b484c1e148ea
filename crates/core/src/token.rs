//! Owns the token that stands beside a key, from before the commit that stores the key until the
//! key is stored.
//!
//! Invariant: no two transactions have tokens of one text, and a token tells which one laid it. So
//! whoever finds one can find out whether its transaction may still commit: while it may, its token
//! must stay, however long that takes; without it the value would never be set.

use std::rc::Rc;

/// A key that is to be stored after the commit, and the mark that says by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Without the database's prefix.
    pub key: Box<[u8]>,
    pub token: Box<[u8]>,
    /// It stays until it is used, however long that takes.
    pub lasts: bool,
    /// Its transaction prepares: if that is rolled back, by whoever it is, nobody is left who knows
    /// of the token. So it is written into the book first.
    pub is_prepared: bool,
}

/// What all tokens of a transaction begin with: the cluster, the database, its id, and a number
/// that no other transaction of a copy of them has.
pub fn origin(system: u64, database: u32, xid: u64, random: u64) -> String {
    format!("{system:x}.{database:x}.{xid}.{random:x}")
}

/// The token of one message.
pub fn text(origin: &str, seq: u64) -> Box<[u8]> {
    format!("{origin}.{seq}").into_bytes().into()
}

/// The id of the transaction that laid a token.
pub fn writer(token: &[u8]) -> Option<u64> {
    let mut parts = std::str::from_utf8(token).ok()?.split('.');
    let xid = parts.nth(2)?.parse().ok()?;
    (parts.count() == 2).then_some(xid)
}

/// The same, if it is one of this database.
pub fn writer_here(token: &[u8], system: u64, database: u32) -> Option<u64> {
    let ours = format!("{system:x}.{database:x}.");
    writer(token).filter(|_| token.starts_with(ours.as_bytes()))
}

/// The name of the book: a hash of the tokens that prepared transactions laid, each with the name
/// under which it stands.
pub fn book(system: u64, database: u32, shard: u32) -> Vec<u8> {
    format!("pgc:p:{{{system}.{database}.{shard}}}").into_bytes()
}

/// The tokens that the running transaction has laid, by the levels of its savepoints.
///
/// Invariant: what is undone, be it the transaction or a savepoint of it, has its tokens taken away
/// afterwards. They would stay for good: no message uses them.
#[derive(Debug, Default)]
pub struct Laid {
    standing: Vec<(u32, Rc<Vec<Token>>)>,
    undone: Vec<Rc<Vec<Token>>>,
}

impl Laid {
    /// These may stand in Redis from now on.
    pub fn lay(&mut self, level: u32, tokens: Rc<Vec<Token>>) {
        self.standing.push((level, tokens));
    }

    /// A savepoint became part of the level below it.
    pub fn release(&mut self, level: u32) {
        for (of, _) in self.standing.iter_mut().filter(|(of, _)| *of >= level) {
            *of = level.saturating_sub(1);
        }
    }

    /// A savepoint at this level and all above it are undone.
    pub fn roll_back(&mut self, level: u32) {
        let undone = self.standing.extract_if(.., |(of, _)| *of >= level);
        self.undone.extend(undone.map(|(_, tokens)| tokens));
    }

    /// The transaction is over: those of what was undone, of all of it if it was aborted.
    pub fn end(&mut self, is_aborted: bool) -> Vec<Rc<Vec<Token>>> {
        if is_aborted {
            self.roll_back(0);
        }
        self.standing.clear();
        std::mem::take(&mut self.undone)
    }
}

/// What is known of the transaction that laid a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It may commit yet.
    No,
    Committed,
    Aborted,
    /// So long ago that nobody knows how; then it does not commit any more.
    Unknown,
}

/// What becomes of a token in the book and of its entry there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Keep,
    /// Its message is in the outbox: whoever sends that takes the token away.
    Strike,
    /// Nobody will ever use it.
    Remove,
}

impl Ended {
    pub fn fate(self) -> Fate {
        match self {
            Ended::No => Fate::Keep,
            Ended::Committed | Ended::Unknown => Fate::Strike,
            Ended::Aborted => Fate::Remove,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_tells_its_transaction() {
        // Danger: the token of a prepared transaction is taken for that of another, which was
        // rolled back, and goes.
        let token = text(&origin(u64::MAX, 5, 71_234, 0xab), 9);
        assert_eq!(&token[..], b"ffffffffffffffff.5.71234.ab.9", "its text never changes");
        assert_eq!(writer(&token), Some(71_234));
        for other in ["", "x", "1.2.3", "1.2.3.4", "1.2.x.4.5", "1.2.3.4.5.6", "1.2.-3.4.5"] {
            assert_eq!(writer(other.as_bytes()), None, "{other}");
        }
        assert_eq!(writer_here(&token, u64::MAX, 5), Some(71_234));
        assert_eq!(writer_here(&token, u64::MAX, 6), None, "another database's");
        assert_eq!(writer_here(&token, 7, 5), None, "another cluster's");
        assert_eq!(book(7, 5, 0), b"pgc:p:{7.5.0}");
    }

    #[test]
    fn what_is_undone_has_its_tokens_taken_away() {
        // Danger: a mark stays beside a key for good; or one goes that its message needs.
        let tokens = |key: u8| {
            let token = [b't', key].into();
            Rc::new(vec![Token { key: [key].into(), token, lasts: true, is_prepared: false }])
        };
        let fill = |laid: &mut Laid| {
            laid.lay(1, tokens(1));
            laid.lay(3, tokens(2));
            laid.release(3);
            laid.lay(3, tokens(3));
            laid.roll_back(3);
        };
        let ended = |mut laid: Laid, is_aborted| -> Vec<u8> {
            let left = laid.end(is_aborted);
            assert!(laid.end(true).is_empty(), "once");
            left.iter().flat_map(|tokens| tokens.iter().map(|token| token.key[0])).collect()
        };
        let mut laid = Laid::default();
        fill(&mut laid);
        assert_eq!(ended(laid, false), [3]);
        let mut laid = Laid::default();
        fill(&mut laid);
        laid.roll_back(2);
        assert_eq!(ended(laid, false), [3, 2]);
        let mut laid = Laid::default();
        fill(&mut laid);
        assert_eq!(ended(laid, true), [3, 1, 2]);
    }

    #[test]
    fn only_a_token_that_nobody_will_use_is_removed() {
        // Danger: a value is never set, since its token is gone.
        let fates = [Ended::No, Ended::Committed, Ended::Aborted, Ended::Unknown].map(Ended::fate);
        assert_eq!(fates, [Fate::Keep, Fate::Strike, Fate::Remove, Fate::Strike]);
    }
}
