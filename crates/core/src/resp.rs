//! The one exchange that every hit pays for: MGET of a value and its sidecar, written and read
//! without a copy or an allocation of its own.
//!
//! Knows exactly this much of RESP3 and hands everything else (errors, pushes, other shapes) to the
//! full parser. Invariant: what it calls complete is what the full parser would read, byte for
//! byte; what it cannot be sure of is [`Look::Other`]. If that broke, a reply would be taken for
//! another.

use std::ops::Range;

/// What stands at the beginning of the bytes that came so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// The two values, null where there is none, and how many bytes the reply took.
    Complete { value: Option<Range<usize>>, sidecar: Option<Range<usize>>, used: usize },
    /// A reply of this shape that is not all there yet; with what is known of it, at least this
    /// many bytes long.
    Incomplete { at_least: usize },
    /// Something else.
    Other,
}

/// Appends `MGET value_key sidecar_key`.
pub fn write_look(out: &mut Vec<u8>, value_key: &[u8], sidecar_key: &[u8]) {
    out.extend_from_slice(b"*3\r\n$4\r\nMGET\r\n");
    for key in [value_key, sidecar_key] {
        out.push(b'$');
        write_length(out, key.len());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(key);
        out.extend_from_slice(b"\r\n");
    }
}

fn write_length(out: &mut Vec<u8>, mut length: usize) {
    let mut digits = [0u8; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (length % 10) as u8;
        length /= 10;
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

/// Reads the answer to [`write_look`].
pub fn read_look(bytes: &[u8]) -> Look {
    const HEAD: &[u8] = b"*2\r\n";
    if bytes.len() < HEAD.len() {
        return if HEAD.starts_with(bytes) { incomplete(HEAD.len()) } else { Look::Other };
    }
    if !bytes.starts_with(HEAD) {
        return Look::Other;
    }
    let (value, at) = match read_bulk(bytes, HEAD.len()) {
        Ok(found) => found,
        Err(look) => return look,
    };
    match read_bulk(bytes, at) {
        Ok((sidecar, used)) => Look::Complete { value, sidecar, used },
        Err(look) => look,
    }
}

fn incomplete(at_least: usize) -> Look {
    Look::Incomplete { at_least }
}

type Bulk = (Option<Range<usize>>, usize);

/// A bulk string or a null that begins at `at`, and where it ends.
fn read_bulk(bytes: &[u8], at: usize) -> Result<Bulk, Look> {
    match bytes.get(at) {
        None => Err(incomplete(at + 3)),
        Some(b'_') => Ok((None, expect_line_end(bytes, at + 1)?)),
        Some(b'$') => {
            let (length, start) = read_length(bytes, at + 1)?;
            let end = start + length;
            if bytes.len() < end + 2 {
                return Err(incomplete(end + 2));
            }
            Ok((Some(start..end), expect_line_end(bytes, end)?))
        }
        Some(_) => Err(Look::Other),
    }
}

/// Digits and a line end. More than ten digits is no length that Redis sends.
fn read_length(bytes: &[u8], at: usize) -> Result<(usize, usize), Look> {
    let mut length = 0usize;
    for (index, byte) in bytes[at..].iter().enumerate().take(11) {
        match byte {
            b'0'..=b'9' if index < 10 => length = length * 10 + usize::from(byte - b'0'),
            b'\r' if index > 0 => return Ok((length, expect_line_end(bytes, at + index)?)),
            _ => return Err(Look::Other),
        }
    }
    Err(incomplete(bytes.len() + 1))
}

fn expect_line_end(bytes: &[u8], at: usize) -> Result<usize, Look> {
    let found = &bytes[at.min(bytes.len())..(at + 2).min(bytes.len())];
    match found {
        b"\r\n" => Ok(at + 2),
        b"\r" | b"" => Err(incomplete(at + 2)),
        _ => Err(Look::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bulk(value: Option<&[u8]>) -> Vec<u8> {
        match value {
            None => b"_\r\n".to_vec(),
            Some(value) => {
                let mut out = format!("${}\r\n", value.len()).into_bytes();
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
                out
            }
        }
    }

    fn reply(value: Option<&[u8]>, sidecar: Option<&[u8]>) -> Vec<u8> {
        [b"*2\r\n".to_vec(), bulk(value), bulk(sidecar)].concat()
    }

    /// Danger: a key whose length is miscounted shifts every command after it.
    #[test]
    fn the_command_is_what_redis_reads() {
        let mut out = Vec::new();
        write_look(&mut out, b"k", &[b'x'; 1234]);
        let expected = [b"*3\r\n$4\r\nMGET\r\n$1\r\nk\r\n$1234\r\n".to_vec(), vec![b'x'; 1234]];
        assert_eq!(out, [expected.concat(), b"\r\n".to_vec()].concat());
        out.clear();
        write_look(&mut out, b"", b"");
        assert_eq!(out, b"*3\r\n$4\r\nMGET\r\n$0\r\n\r\n$0\r\n\r\n");
    }

    /// Danger: what is not the expected reply must reach the parser that knows the rest.
    #[test]
    fn other_replies_are_left_to_the_full_parser() {
        let others: [&[u8]; 10] = [
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
        ];
        for bytes in others {
            assert_eq!(read_look(bytes), Look::Other, "{}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        /// Danger: a reply that came in pieces is taken for another, or waited for for ever.
        #[test]
        fn every_prefix_is_incomplete_and_the_whole_is_complete(
            value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)),
            sidecar in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..100)),
            rest in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let whole = reply(value.as_deref(), sidecar.as_deref());
            for cut in 0..whole.len() {
                match read_look(&whole[..cut]) {
                    Look::Incomplete { at_least } => {
                        prop_assert!(at_least > cut && at_least <= whole.len());
                    }
                    other => prop_assert!(false, "cut at {cut}: {other:?}"),
                }
            }
            let more = [whole.clone(), rest].concat();
            let Look::Complete { value: v, sidecar: s, used } = read_look(&more) else {
                return Err(TestCaseError::fail("not complete"));
            };
            prop_assert_eq!(used, whole.len());
            prop_assert_eq!(v.map(|range| more[range].to_vec()), value);
            prop_assert_eq!(s.map(|range| more[range].to_vec()), sidecar);
        }

        /// Danger: bytes from anywhere make a backend panic.
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_look(&bytes);
            let _ = read_look(&[b"*2\r\n$".to_vec(), bytes].concat());
        }
    }
}
