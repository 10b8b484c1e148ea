//! BUMP, DEL behind it, and the tokens of what will be stored: one request, packed once.
//!
//! Invariant: where there is something to bump, the proof of the server stands last, so that it
//! tells of the server after all of this was done. Asked before, a server that is demoted in
//! between would vouch for what it then loses. A tag table in shared memory is not Redis' to lose:
//! then there is nothing to bump here, and the caller says how long ago the server that deletes the
//! keys may have proved itself.

use std::ops::Range;

use crate::key::{self, EntryKeys};
use crate::pending::Keys;
use crate::resp::{self, Look, Settled};
use crate::tag::{Bucket, Tag};
use crate::tagtable;
use crate::token::Token;

/// How many keys one DEL takes, each with its sidecar and its lease: on one server all names of a
/// key go in one step whatever else goes with them, and a command for each key would cost more than
/// its work.
const DEL_KEYS_MAX: usize = 200;

/// How many buckets one script call may take: it holds up everybody else on that Redis.
const BUMP_BUCKETS_MAX: usize = 2000;

/// How many tokens one command writes down.
const BOOK_TOKENS_MAX: usize = 200;

/// What a transaction tells the tag table before it commits.
pub struct Bump<'a> {
    pub table: &'a [u8],
    /// In a table of another generation nobody is dropped: after a crash, transaction IDs may be
    /// given out again. `None`: that of a former run, which ends with this.
    pub generation: Option<u128>,
    pub xid: u64,
    /// Of a snapshot taken a moment ago: its end, and the transactions that ran in it.
    pub xmax: u64,
    pub in_progress: &'a [u64],
    pub buckets: &'a [Bucket],
}

impl Bump<'_> {
    /// Appends the calls of BUMP; how many there are.
    fn write(&self, packed: &mut Vec<u8>, script: &str) -> usize {
        let generation = self.generation.map(tagtable::generation_text);
        let generation = generation.as_ref().map_or(&[][..], |text| &text[..]);
        let running: Vec<String> = self.in_progress.iter().map(u64::to_string).collect();
        let running = running.join(",");
        for buckets in self.buckets.chunks(BUMP_BUCKETS_MAX) {
            resp::write_command(packed, 8 + buckets.len(), b"EVALSHA");
            resp::write_argument(packed, script.as_bytes());
            resp::write_number(packed, 1);
            resp::write_argument(packed, self.table);
            resp::write_argument(packed, generation);
            resp::write_number(packed, self.xid);
            resp::write_number(packed, self.xmax);
            resp::write_argument(packed, running.as_bytes());
            for bucket in buckets {
                resp::write_field(packed, *bucket);
            }
        }
        self.buckets.len().div_ceil(BUMP_BUCKETS_MAX)
    }
}

/// How long a token waits for a backend that has most likely died.
const TOKEN_SECONDS: u64 = 24 * 3600;

/// The keys that are to be gone.
pub struct Gone<'a> {
    /// The database's, in front of every key.
    pub prefix: &'a [u8],
    pub keys: &'a Keys,
    /// Left beside keys in the place of those that stood there.
    pub tokens: &'a [Token],
    /// Where those of transactions that prepare are written down before they are laid.
    pub book: &'a [u8],
    /// For tests that show what taking the lease is good for.
    pub keep_leases: bool,
}

impl Gone<'_> {
    /// Appends the commands that write tokens down; how many there are.
    fn write_down(&self, packed: &mut Vec<u8>) -> usize {
        let prepared: Vec<&Token> = self.tokens.iter().filter(|token| token.is_prepared).collect();
        for tokens in prepared.chunks(BOOK_TOKENS_MAX) {
            resp::write_command(packed, 2 + 2 * tokens.len(), b"HSET");
            resp::write_argument(packed, self.book);
            for token in tokens {
                resp::write_argument(packed, &token.token);
                resp::write_argument(packed, &self.beside(token));
            }
        }
        prepared.len().div_ceil(BOOK_TOKENS_MAX)
    }

    /// The name under which a token stands.
    fn beside(&self, token: &Token) -> Vec<u8> {
        EntryKeys::new(&[self.prefix, &token.key].concat()).token()
    }

    /// The keys beside which a token is left, if they are not deleted with the others: they were in
    /// mid-transaction, and what was on its way then may have arrived since.
    fn deleted_before(&self) -> Vec<&[u8]> {
        let keys = self.tokens.iter().map(|token| &token.key[..]);
        keys.filter(|key| !self.keys.contains(Tag::key(key), key)).collect()
    }

    /// Appends the commands that delete keys with all that stands beside them; how many there are.
    fn delete<'a>(
        &self,
        packed: &mut Vec<u8>,
        mut keys: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> usize {
        let commands = keys.len().div_ceil(DEL_KEYS_MAX);
        let names = if self.keep_leases { 3 } else { 4 };
        while keys.len() > 0 {
            let together = keys.len().min(DEL_KEYS_MAX);
            resp::write_command(packed, 1 + names * together, b"DEL");
            keys.by_ref().take(together).for_each(|key| self.write(packed, key));
        }
        commands
    }

    /// Appends the command that leaves a token, behind the deletion of the one before.
    fn lay(&self, packed: &mut Vec<u8>, one: &Token) {
        let (beside, Token { token, lasts, .. }) = (self.beside(one), one);
        resp::write_command(packed, if *lasts { 3 } else { 5 }, b"SET");
        resp::write_argument(packed, &beside);
        resp::write_argument(packed, token);
        if !lasts {
            resp::write_argument(packed, b"EX");
            resp::write_number(packed, TOKEN_SECONDS);
        }
    }

    /// Appends the names of a key: of its value, its sidecar, its token and its lease. A statement
    /// may name a key for each row, so nothing is put together elsewhere first.
    fn write(&self, packed: &mut Vec<u8>, key: &[u8]) {
        resp::write_joined(packed, self.prefix, key);
        let end = packed.len() - resp::LINE_END.len();
        let value = end - self.prefix.len() - key.len()..end;
        let [sidecar, lease, token] = key::heads(&packed[value.clone()]);
        let heads = [sidecar, token, lease];
        let gone = if self.keep_leases { &heads[..2] } else { &heads };
        resp::write_repeated(packed, gone, value);
    }
}

/// The request.
#[derive(Debug)]
pub struct Settlement {
    packed: Vec<u8>,
    answer: Settled,
}

impl Settlement {
    /// `script` is the hash of BUMP; the keys stand without the database's prefix. Without a bump,
    /// there is a proof only if it `is_due`.
    pub fn new(
        script: &str,
        bump: Option<&Bump<'_>>,
        gone: &Gone<'_>,
        is_due: impl FnOnce() -> bool,
    ) -> Self {
        let mut packed = Vec::with_capacity(512);
        let generations = bump.map_or(0, |bump| bump.write(&mut packed, script));
        let dels = gone.delete(&mut packed, gone.keys.iter().map(|(_, key)| key))
            + gone.delete(&mut packed, gone.deleted_before().into_iter());
        let books = gone.write_down(&mut packed);
        for token in gone.tokens {
            gone.lay(&mut packed, token);
        }
        let proof = bump.is_some() || is_due();
        if proof {
            resp::write_proof(&mut packed);
        }
        let answer = Settled { generations, numbers: dels + books, oks: gone.tokens.len(), proof };
        Self { packed, answer }
    }

    pub fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// How many answers it has: a generation for each call of BUMP, one for each DEL, each writing
    /// into the book and each token, and the proof.
    pub fn replies(&self) -> usize {
        let Settled { generations, numbers, oks, proof } = self.answer;
        generations + numbers + oks + usize::from(proof)
    }

    /// How many of them, the first ones, are generations.
    pub fn bumps(&self) -> usize {
        self.answer.generations
    }

    /// Whether the last of them is the proof.
    pub fn proves(&self) -> bool {
        self.answer.proof
    }

    /// Reads the answers; in `ranges` the generations and the text of the proof.
    pub fn read(&self, bytes: &[u8], ranges: &mut Vec<Option<Range<usize>>>) -> Look {
        resp::read_settled(bytes, self.answer, ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settlement(buckets: &[Bucket], keys: &[&[u8]]) -> Settlement {
        let bump = Bump {
            table: b"t",
            generation: Some(1),
            xid: 7,
            xmax: 12,
            in_progress: &[7, 9],
            buckets,
        };
        let keys = keys.iter().collect();
        let gone = Gone { prefix: b"p:", keys: &keys, tokens: &[], book: b"b", keep_leases: false };
        Settlement::new("sha", Some(&bump), &gone, || false)
    }

    /// Danger: an argument too few or too many, and every command behind it is read wrong.
    #[test]
    fn it_is_what_redis_reads() {
        let found = settlement(&[Bucket(5), Bucket::CATALOGUE], &[b"{a}"]);
        let keys = EntryKeys::new(b"p:{a}");
        let tag = keys.sidecar().escape_ascii().to_string();
        let lease = keys.lease().escape_ascii().to_string();
        let token = keys.token().escape_ascii().to_string();
        let expected = format!(
            "*10\r\n$7\r\nEVALSHA\r\n$3\r\nsha\r\n$1\r\n1\r\n$1\r\nt\r\n\
             $32\r\n{:032x}\r\n$1\r\n7\r\n$2\r\n12\r\n$3\r\n7,9\r\n$1\r\n5\r\n$1\r\nC\r\n\
             *5\r\n$3\r\nDEL\r\n$5\r\np:{{a}}\r\n${}\r\n{tag}\r\n${}\r\n{token}\r\n\
             ${}\r\n{lease}\r\n\
             *2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n",
            1,
            tag.len(),
            token.len(),
            lease.len()
        );
        assert_eq!(
            found.packed().escape_ascii().to_string(),
            expected.as_bytes().escape_ascii().to_string()
        );
        assert_eq!((found.bumps(), found.replies()), (1, 3));
    }

    /// Danger: a value is stored that nobody's token stands for, or a token stays for ever; or what
    /// arrived after a deletion in mid-transaction is read when the transaction has committed.
    #[test]
    fn tokens_stand_beside_their_keys() {
        let token = |key: &[u8], lasts| {
            let token = b"x.1"[..].into();
            Token { key: key.into(), token, lasts, is_prepared: false }
        };
        let tokens = [token(b"a", false), token(b"b", true)];
        let named: Keys = [b"a"].iter().collect();
        let gone =
            Gone { prefix: b"p:", keys: &named, tokens: &tokens, book: b"b", keep_leases: false };
        let bump =
            Bump { table: b"t", generation: None, xid: 7, xmax: 8, in_progress: &[], buckets: &[] };
        let found = Settlement::new("sha", Some(&bump), &gone, || false);
        let [a, b] = [&b"p:a"[..], b"p:b"].map(|key| EntryKeys::new(key).token());
        let [a, b] = [a, b].map(|name| String::from_utf8(name).unwrap());
        let mut deleted = Vec::new();
        gone.delete(&mut deleted, [&b"a"[..]].into_iter());
        gone.delete(&mut deleted, [&b"b"[..]].into_iter());
        let deleted = String::from_utf8(deleted).unwrap();
        let expected = format!(
            "{deleted}*5\r\n$3\r\nSET\r\n${}\r\n{a}\r\n$3\r\nx.1\r\n$2\r\nEX\r\n$5\r\n86400\r\n\
             *3\r\n$3\r\nSET\r\n${}\r\n{b}\r\n$3\r\nx.1\r\n\
             *2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n",
            a.len(),
            b.len()
        );
        assert_eq!(String::from_utf8_lossy(found.packed()), expected);
        let bytes = b":0\r\n:1\r\n+OK\r\n+OK\r\n=5\r\ntxt:a\r\n";
        let mut ranges = Vec::new();
        assert_eq!(found.read(bytes, &mut ranges), Look::Complete { used: bytes.len() });
        assert_eq!((found.replies(), ranges.len()), (5, 1));
    }

    /// Danger: a prepared transaction is rolled back, and nobody knows of its tokens any more.
    #[test]
    fn tokens_of_what_prepares_are_written_down_before_they_are_laid() {
        let token = |seq: usize, is_prepared| Token {
            key: b"a"[..].into(),
            token: format!("x.{seq}").into_bytes().into(),
            lasts: true,
            is_prepared,
        };
        let bump =
            Bump { table: b"t", generation: None, xid: 7, xmax: 8, in_progress: &[], buckets: &[] };
        let settle = |tokens: &[Token]| {
            let keys = &[b"a"].iter().collect();
            let gone = Gone { prefix: b"p:", keys, tokens, book: b"b", keep_leases: false };
            Settlement::new("sha", Some(&bump), &gone, || false)
        };
        let found = settle(&[token(1, true), token(2, false)]);
        let name = String::from_utf8(EntryKeys::new(b"p:a").token()).unwrap();
        let length = name.len();
        let expected = format!(
            "*4\r\n$4\r\nHSET\r\n$1\r\nb\r\n$3\r\nx.1\r\n${length}\r\n{name}\r\n\
             *3\r\n$3\r\nSET\r\n${length}\r\n{name}\r\n$3\r\nx.1\r\n"
        );
        assert!(String::from_utf8_lossy(found.packed()).contains(&expected));
        let bytes = b":1\r\n:1\r\n+OK\r\n+OK\r\n=5\r\ntxt:a\r\n";
        let mut ranges = Vec::new();
        assert_eq!(found.read(bytes, &mut ranges), Look::Complete { used: bytes.len() });
        assert_eq!(found.replies(), 5);
        let many: Vec<Token> = (0..201).map(|seq| token(seq, true)).collect();
        assert_eq!(settle(&many).replies(), 1 + 2 + 201 + 1);
    }

    /// Danger: one script call holds Redis up for as long as a transaction is large.
    #[test]
    fn large_ones_are_cut() {
        let buckets: Vec<Bucket> = (0..2001).map(Bucket).collect();
        let keys: Vec<[u8; 4]> = (0..401i32).map(i32::to_be_bytes).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let found = settlement(&buckets, &keys);
        assert_eq!((found.bumps(), found.replies()), (2, 6));
    }

    /// Danger: a commit that has only keys to delete asks for what it does not need, or waits for
    /// an answer that does not come.
    #[test]
    fn without_a_bump_nothing_is_asked_but_to_delete() {
        let keys = [b"a"].iter().collect();
        let gone = Gone { prefix: b"p:", keys: &keys, tokens: &[], book: b"b", keep_leases: false };
        assert!(Settlement::new("sha", None, &gone, || true).proves());
        let found = Settlement::new("sha", None, &gone, || false);
        assert!(found.packed().starts_with(b"*5\r\n$3\r\nDEL\r\n$3\r\np:a\r\n"));
        assert_eq!((found.bumps(), found.replies(), found.proves()), (0, 1, false));
        let mut ranges = Vec::new();
        assert_eq!(found.read(b":4\r\n:9\r\n", &mut ranges), Look::Complete { used: 4 });
        assert!(ranges.is_empty());
    }

    /// Danger: the answer to one command is taken for that to another.
    #[test]
    fn answers_are_read_in_their_order() {
        let found = settlement(&[Bucket(5)], &[b"a"]);
        let bytes = b"$2\r\nab\r\n:12\r\n=7\r\ntxt:abc\r\n";
        let mut ranges = Vec::new();
        assert_eq!(found.read(bytes, &mut ranges), Look::Complete { used: bytes.len() });
        assert_eq!(ranges, [Some(4..6), Some(21..24)]);
        let stub = b"_\r\n:0\r\n=5\r\ntxt:a\r\n";
        assert_eq!(found.read(stub, &mut ranges), Look::Complete { used: stub.len() });
        assert_eq!(ranges, [None, Some(15..16)]);
        for end in 0..bytes.len() {
            let look = found.read(&bytes[..end], &mut ranges);
            assert!(matches!(look, Look::Incomplete { .. }), "{end}: {look:?}");
        }
        for other in [&b"-NOSCRIPT x\r\n"[..], b"$2\r\nab\r\n-OOM\r\n", b":1\r\n", b">1\r\n"] {
            assert_eq!(found.read(other, &mut ranges), Look::Other, "{}", other.escape_ascii());
        }
    }
}
