//! Answers that are one number, one string, OK or nothing: what most commands have.
//!
//! Invariant: what is read here is what the full parser would read, byte for byte; what is not
//! there whole, or is anything else, is left to it from its first byte on.

use std::ops::Range;

use super::{Look, Replies};

/// What a plain answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plain {
    Number(i64),
    Okay,
    Nothing,
    /// Where the string stands.
    Bulk(Range<usize>),
}

/// Reads the answer that stands first, and how many bytes it took.
pub fn read_plain(bytes: &[u8]) -> Option<(Plain, usize)> {
    let mut replies = Replies { bytes, at: 0 };
    let plain = replies.plain().ok()?;
    Some((plain, replies.at))
}

impl Replies<'_> {
    fn plain(&mut self) -> Result<Plain, Look> {
        match self.bytes.first() {
            Some(b':') => self.number().map(Plain::Number),
            Some(b'+') => self.expect(b"+OK\r\n").map(|()| Plain::Okay),
            _ => Ok(self.bulk()?.map_or(Plain::Nothing, Plain::Bulk)),
        }
    }

    /// A number of few enough digits, whatever its sign.
    fn number(&mut self) -> Result<i64, Look> {
        self.expect(b":")?;
        let is_negative = self.expect(b"-").is_ok();
        let number = i64::try_from(self.length()?).map_err(|_| Look::Other)?;
        Ok(if is_negative { -number } else { number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn other_answers_are_left_to_the_full_parser() {
        // Danger: an error, a push or a list is taken for something else, or what is behind it is.
        let others: [&[u8]; 16] = [
            b"",
            b"-ERR x\r\n",
            b">2\r\n",
            b"*1\r\n:1\r\n",
            b"+QUEUED\r\n",
            b"+OK",
            b":\r\n",
            b":-\r\n",
            b":+1\r\n",
            b":12345678901\r\n",
            b":1",
            b"$-1\r\n",
            b"$2\r\nabc\r\n",
            b"=5\r\ntxt:a\r\n",
            b"#t\r\n",
            b",1\r\n",
        ];
        for bytes in others {
            assert_eq!(read_plain(bytes), None, "{}", bytes.escape_ascii());
        }
    }

    fn written() -> impl Strategy<Value = (Plain, Vec<u8>)> {
        let number = -9_999_999_999i64..10_000_000_000;
        prop_oneof![
            number.prop_map(|n| (Plain::Number(n), format!(":{n}\r\n").into_bytes())),
            Just((Plain::Okay, b"+OK\r\n".to_vec())),
            Just((Plain::Nothing, b"_\r\n".to_vec())),
            vec(any::<u8>(), 0..40).prop_map(|bytes| {
                let head = format!("${}\r\n", bytes.len());
                let place = head.len()..head.len() + bytes.len();
                (Plain::Bulk(place), [head.as_bytes(), &bytes, b"\r\n"].concat())
            }),
        ]
    }

    proptest! {
        #[test]
        fn each_is_read_whole_and_no_byte_of_the_next(
            (plain, bytes) in written(), rest in vec(any::<u8>(), 0..20),
        ) {
            // Danger: a byte too few or too many, and every answer behind it is another's.
            for cut in 0..bytes.len() {
                prop_assert_eq!(read_plain(&bytes[..cut]), None);
            }
            prop_assert_eq!(read_plain(&[&bytes, &rest[..]].concat()), Some((plain, bytes.len())));
        }

        #[test]
        fn no_bytes_make_it_panic(head in "[:$_+]-?", bytes in vec(any::<u8>(), 0..30)) {
            // Danger: bytes from anywhere make a backend panic.
            let _ = read_plain(&[head.as_bytes(), &bytes].concat());
        }
    }
}
