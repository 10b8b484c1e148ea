//! Owns how numbers are written into and read from bytes of ours: decimal digits, in one spelling.
//!
//! Invariant: what was written is read, and no other spelling of it is: no sign, no blank, no
//! leading zero, nothing beyond 64 bits. If two spellings were read as one number, two byte strings
//! would mean one thing, and a number that wrapped would be a transaction that never was.

/// The digits of the largest number.
const DIGITS_MAX: usize = 20;

/// Appends the digits of a number.
pub(crate) fn write(out: &mut Vec<u8>, number: u64) {
    if number < 10 {
        // Most lengths on the wire are.
        return out.push(b'0' + number as u8);
    }
    let (digits, first) = digits(number);
    out.extend_from_slice(&digits[first..]);
}

/// How many digits a number has.
pub(crate) fn width(number: u64) -> usize {
    DIGITS_MAX - digits(number).1
}

fn digits(mut number: u64) -> ([u8; DIGITS_MAX], usize) {
    let mut digits = [0u8; DIGITS_MAX];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return (digits, first);
        }
    }
}

/// The number at the beginning and what follows it; None if there is none.
pub(crate) fn split(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0u64;
    let mut length = 0;
    while let Some(digit @ b'0'..=b'9') = bytes.get(length) {
        number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
        length += 1;
    }
    let zero_led = length > 1 && bytes[0] == b'0';
    (length > 0 && !zero_led).then(|| (number, &bytes[length..]))
}

/// All of the bytes as one number.
pub(crate) fn parse(bytes: &[u8]) -> Option<u64> {
    split(bytes).and_then(|(number, rest)| rest.is_empty().then_some(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_spellings_are_no_numbers() {
        // Danger: a number that wrapped at 64 bits is below every snapshot, so always complete.
        for bytes in ["", "-1", "+1", " 1", "1 ", "01", "00", "1.0", "0x1", "1e3", "１"] {
            assert_eq!(parse(bytes.as_bytes()), None, "{bytes}");
        }
        assert_eq!(parse(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse(b"18446744073709551616"), None);
        assert_eq!(parse(b"99999999999999999999999"), None);
        assert_eq!(parse(b"0"), Some(0));
        assert_eq!(split(b"12:7"), Some((12, &b":7"[..])));
        assert_eq!(split(b":7"), None);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(number in any::<u64>(), shift in 0u32..64) {
            // Danger: a version or a transaction ID that comes back as another.
            let mut out = Vec::new();
            write(&mut out, number >> shift);
            prop_assert_eq!(out.len(), width(number >> shift));
            prop_assert_eq!(parse(&out), Some(number >> shift));
        }
    }
}
