//! Owns the bytes of an event: the JSON object that tells of one changed row.
//!
//! Invariant: whatever the names and values, it is one JSON text with the same members in the same
//! order: `op`, `schema`, `table`, `key`, `new`, `old`, `changed`, `xid`, `at`. If a value could
//! end its string, whoever writes a row would write the subscriber's event.

use crate::decimal;

/// Appends a JSON string of a text in UTF-8, escaped as PostgreSQL escapes it.
pub fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut plain = 0;
    for (place, byte) in text.iter().enumerate() {
        let short = match byte {
            b'"' | b'\\' => *byte,
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x00..0x20 => 0,
            _ => continue,
        };
        out.extend_from_slice(&text[plain..place]);
        plain = place + 1;
        if short == 0 {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        } else {
            out.extend_from_slice(&[b'\\', short]);
        }
    }
    out.extend_from_slice(&text[plain..]);
    out.push(b'"');
}

/// Appends a whole number.
pub fn write_number(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b'-');
    }
    decimal::write(out, number.unsigned_abs());
}

/// Whether a text is a number in JSON: of a `numeric`, `NaN` and `Infinity` are none.
pub fn is_number(text: &[u8]) -> bool {
    fn digits(text: &[u8]) -> &[u8] {
        let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
        &text[end..]
    }
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let mut rest = match text {
        [b'0', rest @ ..] => rest,
        [b'1'..=b'9', rest @ ..] => digits(rest),
        _ => return false,
    };
    if let [b'.', fraction @ ..] = rest {
        rest = digits(fraction);
        if rest.len() == fraction.len() {
            return false;
        }
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = match exponent {
            [b'+' | b'-', exponent @ ..] => exponent,
            exponent => exponent,
        };
        rest = digits(exponent);
        if rest.len() == exponent.len() {
            return false;
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_is_one_string(text in any::<String>()) {
            // Danger: a name with a quote in it becomes members of the event.
            let mut out = b"[".to_vec();
            write_string(&mut out, text.as_bytes());
            out.push(b']');
            let read: Vec<String> = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(&read, std::slice::from_ref(&text));
        }

        #[test]
        fn numbers_are_those_of_json(text in "-?[0-9]{0,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?") {
            // Danger: an event that no JSON parser reads.
            let parsed = serde_json::from_str::<serde_json::Number>(&text).is_ok();
            let finite = text.parse::<f64>().is_ok_and(f64::is_finite);
            if finite || !parsed {
                prop_assert_eq!(is_number(text.as_bytes()), parsed, "{}", text);
            }
        }
    }

    #[test]
    fn numbers_are_written_as_postgresql_does() {
        // Danger: the smallest bigint is another number in an event.
        for number in [0, 7, -1, 10, i64::MAX, i64::MIN, i64::from(i32::MIN)] {
            let mut out = Vec::new();
            write_number(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }

    #[test]
    fn what_is_no_number_is_a_string() {
        // Danger: NaN stands bare in an event.
        for text in ["NaN", "Infinity", "-Infinity", "", "-", "01", "1.", ".5", "1e"] {
            assert!(!is_number(text.as_bytes()), "{text}");
        }
    }
}
