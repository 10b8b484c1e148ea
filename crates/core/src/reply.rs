//! Any reply of Redis, in RESP3, and the JSON that it becomes in SQL.
//!
//! Owns the mapping that `docs/functions/redis_command.md` describes. Invariant: what a reply holds
//! is in the JSON, or the reply is refused; nothing is replaced by something similar. Bytes that
//! are no text, keys that are no names and keys that come twice have forms of their own, since
//! jsonb would refuse or drop them. If that broke, a value would be changed on the way without
//! anybody being told.

mod json;
mod skim;

pub use json::{Answer, TextOf, answer};
pub use skim::{Progress, Skim};

/// How deep lists and maps may stand in one another: a reply is read by recursion.
pub const DEPTH_MAX: usize = 200;

/// A reply, or a part of one, as it stands in the bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply<'a> {
    Nil,
    /// Of any of the string types.
    Bytes(&'a [u8]),
    /// A whole number of any size, in digits as Redis gave them.
    Whole(&'a [u8]),
    Double(f64),
    Boolean(bool),
    /// Its code and its words.
    Error(&'a [u8]),
    /// An array or a set.
    List(Vec<Reply<'a>>),
    Map(Vec<(Reply<'a>, Reply<'a>)>),
}

impl Reply<'_> {
    /// The first error that stands in it.
    pub fn error(&self) -> Option<&[u8]> {
        match self {
            Reply::Error(words) => Some(words),
            Reply::List(members) => members.iter().find_map(Reply::error),
            Reply::Map(pairs) => {
                pairs.iter().find_map(|(key, value)| key.error().or(value.error()))
            }
            _ => None,
        }
    }
}

/// Why bytes are no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// They do not follow the protocol.
    Malformed(&'static str),
    TooDeep,
}

/// Reads a complete reply. Pushes before it are no part of it, and attributes are left out.
pub fn read(bytes: &[u8]) -> Result<Reply<'_>, Flaw> {
    Reader { bytes, at: 0 }.value(0)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Reply<'a>, Flaw> {
        if depth > DEPTH_MAX {
            return Err(Flaw::TooDeep);
        }
        loop {
            let head = self.head()?;
            return match head {
                Head::Nil => Ok(Reply::Nil),
                Head::Line(b'+', text) => Ok(Reply::Bytes(text)),
                Head::Line(b'-', text) | Head::Blob(b'!', text) => Ok(Reply::Error(text)),
                Head::Line(b':' | b'(', digits) => Ok(Reply::Whole(digits)),
                Head::Line(b',', text) => double(text),
                Head::Line(_, text) => boolean(text),
                Head::Blob(b'=', text) => Ok(Reply::Bytes(without_format(text))),
                Head::Blob(_, bytes) => Ok(Reply::Bytes(bytes)),
                Head::Many(b'%', pairs) => self.pairs(pairs, depth).map(Reply::Map),
                Head::Many(b'|', pairs) => {
                    self.pairs(pairs, depth)?;
                    continue;
                }
                Head::Many(b'>', members) => {
                    self.members(members, depth)?;
                    continue;
                }
                Head::Many(_, members) => self.members(members, depth).map(Reply::List),
            };
        }
    }

    fn head(&mut self) -> Result<Head<'a>, Flaw> {
        match head(self.bytes, self.at, self.at) {
            Ok((head, next)) => {
                self.at = next;
                Ok(head)
            }
            Err(Lack::Malformed(why)) => Err(Flaw::Malformed(why)),
            Err(Lack::More { .. }) => Err(Flaw::Malformed("a reply that ends too early")),
        }
    }

    /// The number was announced and need not be true: nothing is reserved for it.
    fn members(&mut self, count: u64, depth: usize) -> Result<Vec<Reply<'a>>, Flaw> {
        (0..count).map(|_| self.value(depth + 1)).collect()
    }

    fn pairs(&mut self, count: u64, depth: usize) -> Result<Vec<(Reply<'a>, Reply<'a>)>, Flaw> {
        (0..count).map(|_| Ok((self.value(depth + 1)?, self.value(depth + 1)?))).collect()
    }
}

fn double(text: &[u8]) -> Result<Reply<'_>, Flaw> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.map(Reply::Double).ok_or(Flaw::Malformed("a number that is none"))
}

fn boolean(text: &[u8]) -> Result<Reply<'_>, Flaw> {
    match text {
        b"t" => Ok(Reply::Boolean(true)),
        b"f" => Ok(Reply::Boolean(false)),
        _ => Err(Flaw::Malformed("a boolean that is none")),
    }
}

/// `txt:` and the like say how a program may show the text.
fn without_format(text: &[u8]) -> &[u8] {
    match text {
        [_, _, _, b':', rest @ ..] => rest,
        _ => text,
    }
}

/// One element without those that it announces.
enum Head<'a> {
    Nil,
    Line(u8, &'a [u8]),
    Blob(u8, &'a [u8]),
    Many(u8, u64),
}

enum Lack {
    /// So many bytes must be there at least; up to `seen` no line ends.
    More {
        at_least: usize,
        seen: usize,
    },
    Malformed(&'static str),
}

const LINE_END_BYTES: usize = 2;

/// The element at `at`, and where the next one stands. Where its line ends is looked for from
/// `seen` on.
fn head(bytes: &[u8], at: usize, seen: usize) -> Result<(Head<'_>, usize), Lack> {
    let Some(kind) = bytes.get(at).copied() else {
        return Err(Lack::More { at_least: at + 1, seen: at });
    };
    let from = seen.max(at + 1);
    let behind = bytes.get(from..).unwrap_or_default();
    let Some(length) = behind.iter().position(|byte| *byte == b'\n') else {
        return Err(Lack::More { at_least: bytes.len() + 1, seen: bytes.len() });
    };
    let next = from + length + 1;
    let line = bytes.get(at + 1..next).and_then(|line| line.strip_suffix(b"\r\n"));
    let line = line.ok_or(Lack::Malformed("a line that does not end as lines do"))?;
    match kind {
        b'_' => Ok((Head::Nil, next)),
        b'+' | b'-' | b':' | b'(' | b',' | b'#' => Ok((Head::Line(kind, line), next)),
        b'$' | b'=' | b'!' => match count(line)? {
            None => Ok((Head::Nil, next)),
            Some(length) => blob(bytes, kind, next, length),
        },
        b'*' | b'~' | b'%' | b'|' | b'>' => match count(line)? {
            None => Ok((Head::Nil, next)),
            Some(count) => Ok((Head::Many(kind, count), next)),
        },
        _ => Err(Lack::Malformed("an element of a type that nobody knows")),
    }
}

fn blob(bytes: &[u8], kind: u8, start: usize, length: u64) -> Result<(Head<'_>, usize), Lack> {
    let too_long = Lack::Malformed("a string longer than memory");
    let length = usize::try_from(length).ok();
    let Some(end) = length.and_then(|length| start.checked_add(length)) else {
        return Err(too_long);
    };
    let Some(next) = end.checked_add(LINE_END_BYTES) else { return Err(too_long) };
    match (bytes.get(start..end), bytes.get(end..next)) {
        (Some(blob), Some(b"\r\n")) => Ok((Head::Blob(kind, blob), next)),
        (Some(_), Some(_)) => Err(Lack::Malformed("a string of another length than announced")),
        // The line of its length is read again, and that is short.
        _ => Err(Lack::More { at_least: next, seen: 0 }),
    }
}

/// A length; none where there is nothing.
fn count(line: &[u8]) -> Result<Option<u64>, Lack> {
    let number = std::str::from_utf8(line).ok().and_then(|line| line.parse::<i64>().ok());
    match number {
        Some(-1) => Ok(None),
        Some(number) => match u64::try_from(number) {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Lack::Malformed("a length below zero")),
        },
        None => Err(Lack::Malformed("a length that is no number")),
    }
}

#[cfg(test)]
mod tests;
