//! The one exchange that every hit pays for: MGET of a value and its sidecar, HMGET of the tag
//! table, and the server's proof of itself when it is due; written and read in one pass and without
//! a copy.
//!
//! Knows exactly this much of RESP3 and hands everything else (errors, pushes, other shapes) to the
//! full parser. Invariant: what it calls complete is what the full parser would read, byte for
//! byte; what it cannot be sure of is [`Look::Other`]. If that broke, a reply would be taken for
//! another.

mod plain;

use std::ops::Range;

use crate::decimal;
use crate::tag::Bucket;
use crate::tagtable;

pub use self::plain::{Plain, read_plain};

/// What stands at the beginning of the bytes that came so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// The replies, all of them, and how many bytes they took.
    Complete { used: usize },
    /// Replies of this shape that are not all there yet; with what is known of them, at least this
    /// many bytes long.
    Incomplete { at_least: usize },
    /// Something else.
    Other,
}

/// What ends every head and every argument.
pub const LINE_END: &[u8] = b"\r\n";

/// Appends the question for an entry; if there is a table in Redis, for its generation, its base
/// and these fields; and for the server's proof, if it is to prove itself.
pub fn write_look(
    out: &mut Vec<u8>,
    value_key: &[u8],
    sidecar_key: &[u8],
    table: Option<(&[u8], &[Bucket])>,
    proof: bool,
) {
    write_command(out, 3, b"MGET");
    write_argument(out, value_key);
    write_argument(out, sidecar_key);
    if let Some((table_key, fields)) = table {
        write_command(out, 4 + fields.len(), b"HMGET");
        write_argument(out, table_key);
        write_argument(out, tagtable::GENERATION.as_bytes());
        write_argument(out, tagtable::BASE.as_bytes());
        for field in fields {
            write_field(out, *field);
        }
    }
    if proof {
        write_proof(out);
    }
}

/// Appends the question by which a server proves itself.
pub fn write_proof(out: &mut Vec<u8>) {
    write_command(out, 2, b"INFO");
    write_argument(out, b"replication");
}

/// Appends the head of a command of so many arguments, its name among them, and the name.
pub fn write_command(out: &mut Vec<u8>, arguments: usize, name: &[u8]) {
    write_head(out, b'*', arguments);
    write_argument(out, name);
}

pub fn write_argument(out: &mut Vec<u8>, argument: &[u8]) {
    write_head(out, b'$', argument.len());
    out.extend_from_slice(argument);
    out.extend_from_slice(LINE_END);
}

/// Appends an argument of two parts.
pub fn write_joined(out: &mut Vec<u8>, first: &[u8], second: &[u8]) {
    write_head(out, b'$', first.len() + second.len());
    out.extend_from_slice(first);
    out.extend_from_slice(second);
    out.extend_from_slice(LINE_END);
}

/// Appends an argument for each of these heads, which begins with it and goes on as `out` does at
/// `rest`.
pub fn write_repeated<const N: usize>(out: &mut Vec<u8>, heads: &[[u8; N]], rest: Range<usize>) {
    let Some((first, others)) = heads.split_first() else { return };
    let start = out.len();
    write_head(out, b'$', N + rest.len());
    let name = out.len() - start;
    out.extend_from_slice(first);
    out.extend_from_within(rest);
    out.extend_from_slice(LINE_END);
    let argument = start..out.len();
    for head in others {
        let name = out.len() + name;
        out.extend_from_within(argument.clone());
        out[name..name + N].copy_from_slice(head);
    }
}

pub fn write_number(out: &mut Vec<u8>, number: u64) {
    write_head(out, b'$', decimal::width(number));
    decimal::write(out, number);
    out.extend_from_slice(LINE_END);
}

pub fn write_field(out: &mut Vec<u8>, field: Bucket) {
    write_head(out, b'$', field.field_bytes());
    field.write_field(out);
    out.extend_from_slice(LINE_END);
}

fn write_head(out: &mut Vec<u8>, kind: u8, number: usize) {
    out.push(kind);
    decimal::write(out, number as u64);
    out.extend_from_slice(LINE_END);
}

/// Reads the answer to [`write_look`], with so many fields if it asked for a table. Of a complete
/// one, `ranges` says where the parts stand, None where there is nothing: value, sidecar, then
/// generation, base and the fields, and the text of INFO, as far as they were asked for.
pub fn read_look(
    bytes: &[u8],
    fields: Option<usize>,
    proof: bool,
    ranges: &mut Vec<Option<Range<usize>>>,
) -> Look {
    ranges.clear();
    let mut replies = Replies { bytes, at: 0 };
    match replies.read(fields, proof, ranges) {
        Ok(()) => Look::Complete { used: replies.at },
        Err(look) => look,
    }
}

/// What the answer to a settlement consists of, in this order.
#[derive(Debug, Clone, Copy)]
pub struct Settled {
    /// Bulk strings or nulls.
    pub generations: usize,
    pub numbers: usize,
    pub oks: usize,
    /// Whether the text of INFO ends it.
    pub proof: bool,
}

/// Reads such an answer, in the ranges as [`read_look`] does: the generations, and the text.
pub fn read_settled(
    bytes: &[u8],
    expected: Settled,
    ranges: &mut Vec<Option<Range<usize>>>,
) -> Look {
    ranges.clear();
    let mut replies = Replies { bytes, at: 0 };
    match replies.read_settled(expected, ranges) {
        Ok(()) => Look::Complete { used: replies.at },
        Err(look) => look,
    }
}

/// The bytes, and how far they were read. An error is the answer of [`read_look`].
struct Replies<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The digits of the longest length that is read here. Redis sends no longer one.
const LENGTH_DIGITS_MAX: usize = 10;

/// What a verbatim string of plain text begins with.
const TEXT_HEAD: &[u8] = b"txt:";

impl Replies<'_> {
    fn read(
        &mut self,
        fields: Option<usize>,
        proof: bool,
        ranges: &mut Vec<Option<Range<usize>>>,
    ) -> Result<(), Look> {
        self.array(2, ranges)?;
        if let Some(fields) = fields {
            self.array(2 + fields, ranges)?;
        }
        if proof {
            ranges.push(Some(self.text()?));
        }
        Ok(())
    }

    fn read_settled(
        &mut self,
        expected: Settled,
        ranges: &mut Vec<Option<Range<usize>>>,
    ) -> Result<(), Look> {
        for _ in 0..expected.generations {
            ranges.push(self.bulk()?);
        }
        for _ in 0..expected.numbers {
            self.expect(b":")?;
            self.length()?;
        }
        for _ in 0..expected.oks {
            self.expect(b"+OK\r\n")?;
        }
        if expected.proof {
            ranges.push(Some(self.text()?));
        }
        Ok(())
    }

    fn array(&mut self, items: usize, ranges: &mut Vec<Option<Range<usize>>>) -> Result<(), Look> {
        self.expect(b"*")?;
        if self.length()? != items {
            return Err(Look::Other);
        }
        for _ in 0..items {
            ranges.push(self.bulk()?);
        }
        Ok(())
    }

    /// A bulk string or a null.
    fn bulk(&mut self) -> Result<Option<Range<usize>>, Look> {
        match self.bytes.get(self.at) {
            None => Err(self.incomplete(3)),
            Some(b'_') => {
                self.at += 1;
                self.expect(b"\r\n")?;
                Ok(None)
            }
            Some(_) => {
                self.expect(b"$")?;
                self.blob().map(Some)
            }
        }
    }

    /// A verbatim string of plain text, without its head.
    fn text(&mut self) -> Result<Range<usize>, Look> {
        self.expect(b"=")?;
        let blob = self.blob()?;
        let content = &self.bytes[blob.clone()];
        if !content.starts_with(TEXT_HEAD) || std::str::from_utf8(content).is_err() {
            return Err(Look::Other);
        }
        Ok(blob.start + TEXT_HEAD.len()..blob.end)
    }

    /// A length, so many bytes, and a line end.
    fn blob(&mut self) -> Result<Range<usize>, Look> {
        let length = self.length()?;
        let start = self.at;
        if self.bytes.len() - start < length + 2 {
            return Err(self.incomplete(length + 2));
        }
        self.at = start + length;
        self.expect(b"\r\n")?;
        Ok(start..start + length)
    }

    /// Digits and a line end.
    fn length(&mut self) -> Result<usize, Look> {
        let mut length = 0usize;
        for (index, byte) in self.bytes[self.at..].iter().enumerate() {
            match byte {
                b'0'..=b'9' if index < LENGTH_DIGITS_MAX => {
                    length = length * 10 + usize::from(byte - b'0');
                }
                b'\r' if index > 0 => {
                    self.at += index;
                    self.expect(b"\r\n")?;
                    return Ok(length);
                }
                _ => return Err(Look::Other),
            }
        }
        Err(Look::Incomplete { at_least: self.bytes.len() + 1 })
    }

    fn expect(&mut self, wanted: &[u8]) -> Result<(), Look> {
        let rest = &self.bytes[self.at..];
        if rest.starts_with(wanted) {
            self.at += wanted.len();
            Ok(())
        } else if wanted.starts_with(rest) {
            Err(self.incomplete(wanted.len()))
        } else {
            Err(Look::Other)
        }
    }

    fn incomplete(&self, more: usize) -> Look {
        Look::Incomplete { at_least: self.at + more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    type Parts = Vec<Option<Vec<u8>>>;

    fn array(parts: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut out = format!("*{}\r\n", parts.len()).into_bytes();
        for part in parts {
            match part {
                None => out.extend_from_slice(b"_\r\n"),
                Some(part) => {
                    out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
                    out.extend_from_slice(part);
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
        out
    }

    fn verbatim(text: &str) -> Vec<u8> {
        format!("={}\r\ntxt:{text}\r\n", text.len() + 4).into_bytes()
    }

    fn read(bytes: &[u8], fields: Option<usize>, proof: bool) -> (Look, Parts) {
        let mut ranges = vec![Some(0..usize::MAX)];
        let look = read_look(bytes, fields, proof, &mut ranges);
        let complete = matches!(look, Look::Complete { .. });
        let parts = ranges.into_iter().map(|range| Some(bytes[range?].to_vec()));
        (look, if complete { parts.collect() } else { Vec::new() })
    }

    #[test]
    fn the_commands_are_what_redis_reads() {
        // Danger: a key whose length is miscounted shifts every command after it.
        let mut out = Vec::new();
        write_look(&mut out, b"k", &[b'x'; 1234], None, false);
        let expected = [&b"*3\r\n$4\r\nMGET\r\n$1\r\nk\r\n$1234\r\n"[..], &[b'x'; 1234], b"\r\n"];
        assert_eq!(out, expected.concat(), "{}", out.escape_ascii());
        out.clear();
        let fields = [Bucket::CATALOGUE, Bucket(0), Bucket(65_535)];
        write_look(&mut out, b"", b"", Some((b"table", &fields)), true);
        let expected = "*3\r\n$4\r\nMGET\r\n$0\r\n\r\n$0\r\n\r\n\
            *7\r\n$5\r\nHMGET\r\n$5\r\ntable\r\n$1\r\nR\r\n$1\r\nB\r\n$1\r\nC\r\n$1\r\n0\r\n\
            $5\r\n65535\r\n*2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n";
        assert_eq!(out, expected.as_bytes(), "{}", out.escape_ascii());
    }

    #[test]
    fn other_replies_are_left_to_the_full_parser() {
        // Danger: what is not the expected reply must reach the parser that knows the rest.
        let others: [&[u8]; 12] = [
            b"-ERR x\r\n",
            b">2\r\n",
            b"*3\r\n",
            b"*22\r\n",
            b"*2\r\n:1\r\n",
            b"*2\r\n$-1\r\n",
            b"*2\r\n$\r\n",
            b"*2\r\n$99999999999\r\n",
            b"*2\r\n$1\r\nabc",
            b"*2\r\n_x",
            b"*2\r\n=5\r\ntxt:a\r\n",
            b"*-1\r\n",
        ];
        for bytes in others {
            assert_eq!(read(bytes, Some(1), true).0, Look::Other, "{}", bytes.escape_ascii());
        }
        let entry = array(&[None, None]);
        for behind in [&b"-WRONGTYPE x\r\n"[..], b"*2\r\n", b"*4\r\n", b"_\r\n", b">1\r\n"] {
            let bytes = [&entry, behind].concat();
            assert_eq!(read(&bytes, Some(1), true).0, Look::Other, "{}", behind.escape_ascii());
        }
        let table = array(&[None, None, None]);
        let infos: [&[u8]; 7] = [
            b"$3\r\nabc\r\n",
            b"_\r\n",
            b"-NOPERM x\r\n",
            b"=3\r\ntxt\r\n",
            b"=5\r\nmkd:a\r\n",
            b"=5\r\ntxt:\xff\r\n",
            b"=5\r\ntxt:ab\r",
        ];
        for info in infos {
            let bytes = [&entry, &table, info].concat();
            assert_eq!(read(&bytes, Some(1), true).0, Look::Other, "{}", info.escape_ascii());
        }
    }

    #[test]
    fn nothing_is_read_that_was_not_asked_for() {
        // Danger: the next command's answer is taken for a part of this one's.
        let bytes = [array(&[None, None]), array(&[None, None, None]), verbatim("a")].concat();
        assert_eq!(read(&bytes, Some(0), false).0, Look::Other);
        assert_eq!(read(&bytes, None, true).0, Look::Other);
        assert_eq!(read(&bytes, None, false).0, Look::Complete { used: 10 });
        assert_eq!(read(&bytes, Some(1), false).0, Look::Complete { used: 23 });
        let (look, parts) = read(&bytes, Some(1), true);
        assert_eq!(look, Look::Complete { used: bytes.len() });
        assert_eq!(parts, [None, None, None, None, None, Some(b"a".to_vec())]);
    }

    fn parts(count: usize) -> impl Strategy<Value = Parts> {
        vec(proptest::option::of(vec(any::<u8>(), 0..120)), count)
    }

    proptest! {
        #[test]
        fn every_prefix_is_incomplete_and_the_whole_is_complete(
            entry in parts(2),
            table in proptest::option::of((2usize..7).prop_flat_map(parts)),
            info in proptest::option::of("[ -~\r\n]{0,60}"),
            rest in vec(any::<u8>(), 0..20),
        ) {
            // Danger: a reply that came in pieces is taken for another, or waited for for ever.
            let fields = table.as_ref().map(|table| table.len() - 2);
            let (mut whole, mut expected) = (array(&entry), entry);
            if let Some(table) = table {
                whole.extend(array(&table));
                expected.extend(table);
            }
            if let Some(info) = &info {
                whole.extend(verbatim(info));
                expected.push(Some(info.as_bytes().to_vec()));
            }
            for cut in 0..whole.len() {
                match read(&whole[..cut], fields, info.is_some()).0 {
                    Look::Incomplete { at_least } => {
                        prop_assert!(at_least > cut && at_least <= whole.len());
                    }
                    other => prop_assert!(false, "cut at {cut}: {other:?}"),
                }
            }
            let more = [whole.clone(), rest].concat();
            let (look, parts) = read(&more, fields, info.is_some());
            prop_assert_eq!(look, Look::Complete { used: whole.len() });
            prop_assert_eq!(parts, expected);
        }

        #[test]
        fn no_bytes_make_it_panic(
            bytes in vec(any::<u8>(), 0..64), fields in proptest::option::of(0usize..3),
            proof in any::<bool>(),
        ) {
            // Danger: bytes from anywhere make a backend panic.
            let starts: [&[u8]; 5] = [
                b"",
                b"*2\r\n$",
                b"*2\r\n_\r\n_\r\n*3\r\n$",
                b"*2\r\n_\r\n_\r\n=",
                b"*2\r\n_\r\n_\r\n*3\r\n_\r\n_\r\n_\r\n=",
            ];
            for start in starts {
                let _ = read(&[start, &bytes].concat(), fields, proof);
            }
        }
    }
}
