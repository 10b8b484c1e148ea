//! A reply as JSON text in the encoding of the database.
//!
//! Invariant: what it writes, PostgreSQL takes as jsonb and keeps as it is.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{Flaw, Reply, read};

/// Bytes as text of the database's encoding, if they are text without NUL and can be.
pub type TextOf<'t> = &'t dyn Fn(&[u8]) -> Option<Cow<'_, [u8]>>;

/// What a reply is to SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Null,
    Json(Vec<u8>),
    Error { code: String, detail: String },
}

/// PostgreSQL's numeric has no more digits before the point than this.
const DIGITS_MAX: usize = 131_072;

/// What a complete reply becomes.
pub fn answer(bytes: &[u8], text: TextOf<'_>) -> Result<Answer, Flaw> {
    match read(bytes)? {
        Reply::Nil => Ok(Answer::Null),
        Reply::Error(words) => Ok(refusal(words)),
        reply => {
            let mut writer = Writer { out: Vec::with_capacity(bytes.len() + 16), text };
            writer.value(&reply);
            Ok(Answer::Json(writer.out))
        }
    }
}

fn refusal(words: &[u8]) -> Answer {
    let words = String::from_utf8_lossy(words);
    let (code, detail) = words.split_once(' ').unwrap_or((&words, ""));
    Answer::Error { code: code.to_owned(), detail: detail.to_owned() }
}

struct Writer<'t> {
    out: Vec<u8>,
    text: TextOf<'t>,
}

impl Writer<'_> {
    fn value(&mut self, reply: &Reply<'_>) {
        match reply {
            Reply::Nil => self.put(b"null"),
            Reply::Boolean(true) => self.put(b"true"),
            Reply::Boolean(false) => self.put(b"false"),
            Reply::Bytes(bytes) => self.bytes(bytes),
            Reply::Whole(digits) => self.whole(digits),
            Reply::Double(number) => self.double(*number),
            Reply::Error(words) => self.error(words),
            Reply::List(members) => self.list(members),
            Reply::Map(pairs) => self.map(pairs),
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        match (self.text)(bytes) {
            Some(text) => self.string(&text),
            None => {
                self.put(b"{\"base64\":\"");
                base64(&mut self.out, bytes);
                self.put(b"\"}");
            }
        }
    }

    /// In every encoding that a database can have, a byte below 128 is that character.
    fn string(&mut self, text: &[u8]) {
        self.out.push(b'"');
        for byte in text {
            match byte {
                b'"' | b'\\' => self.put(&[b'\\', *byte]),
                b'\n' => self.put(b"\\n"),
                b'\r' => self.put(b"\\r"),
                b'\t' => self.put(b"\\t"),
                0..=0x1f => self.put(format!("\\u{byte:04x}").as_bytes()),
                _ => self.out.push(*byte),
            }
        }
        self.out.push(b'"');
    }

    /// As the number that it is, whatever its size. A script may call anything a number.
    fn whole(&mut self, text: &[u8]) {
        let (sign, digits) = match text {
            [b'-', digits @ ..] => (&b"-"[..], digits),
            [b'+', digits @ ..] => (&b""[..], digits),
            digits => (&b""[..], digits),
        };
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        if !is_number || digits.len() > DIGITS_MAX {
            return self.bytes(text);
        }
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        let digits = digits.get(zeros.min(digits.len() - 1)..).unwrap_or(digits);
        self.put(sign);
        self.put(digits);
    }

    /// What JSON has no number for is called as `to_jsonb` calls it.
    fn double(&mut self, number: f64) {
        if number.is_nan() {
            return self.put(b"\"NaN\"");
        }
        if number.is_infinite() {
            return self.put(if number > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" });
        }
        let text = format!("{number:?}");
        self.put(text.strip_suffix(".0").unwrap_or(&text).as_bytes());
    }

    fn error(&mut self, words: &[u8]) {
        self.put(b"{\"error\":");
        match (self.text)(words) {
            Some(text) => self.string(&text),
            None => self.string(words.escape_ascii().to_string().as_bytes()),
        }
        self.out.push(b'}');
    }

    fn list(&mut self, members: &[Reply<'_>]) {
        self.out.push(b'[');
        for (place, member) in members.iter().enumerate() {
            if place > 0 {
                self.out.push(b',');
            }
            self.value(member);
        }
        self.out.push(b']');
    }

    /// An object if every key is a text and none comes twice; else a list of pairs.
    fn map(&mut self, pairs: &[(Reply<'_>, Reply<'_>)]) {
        let is_object = self.are_names(pairs);
        let [open, between, close] = if is_object { *b"{:}" } else { *b"[,]" };
        self.out.push(open);
        for (place, (key, value)) in pairs.iter().enumerate() {
            if place > 0 {
                self.out.push(b',');
            }
            if !is_object {
                self.out.push(b'[');
            }
            self.value(key);
            self.out.push(between);
            self.value(value);
            if !is_object {
                self.out.push(b']');
            }
        }
        self.out.push(close);
    }

    fn are_names(&self, pairs: &[(Reply<'_>, Reply<'_>)]) -> bool {
        let mut seen = HashSet::with_capacity(pairs.len());
        pairs.iter().all(|(key, _)| match key {
            // What is text of one encoding may become the same in another.
            Reply::Bytes(bytes) => (self.text)(bytes).is_some_and(|text| {
                let text = text.into_owned();
                seen.insert(text)
            }),
            _ => false,
        })
    }
}

/// Of RFC 4648, with padding, as PostgreSQL's `decode(…, 'base64')` reads it.
fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in bytes.chunks(3) {
        let byte = |place: usize| u32::from(group.get(place).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = (word >> (18 - 6 * place)) as usize & 63;
            out.push(if place <= group.len() { ALPHABET[digit] } else { b'=' });
        }
    }
}
