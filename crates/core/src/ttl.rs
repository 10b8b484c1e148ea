//! Owns the arithmetic of a time to live: what SQL gives, in milliseconds for Redis.
//!
//! Invariant: the result is at least 1 ms and at most the limit, and no input overflows. A TTL of
//! zero is an error in Redis, an absent one makes an entry immortal: both would be found at the
//! first expiry that does not come.

use crate::error::Error;

const MICROS_PER_SECOND: i128 = 1_000_000;
const SECONDS_PER_DAY: i128 = 86_400;
/// As PostgreSQL's `extract(epoch from interval)` has it: a year is 365.25 days, a month of what
/// is left is 30.
const SECONDS_PER_YEAR: i128 = 31_557_600;
const SECONDS_PER_MONTH: i128 = 30 * SECONDS_PER_DAY;

/// Redis adds the current time to a TTL and refuses what overflows 63 bits: stay far below.
const MS_MAX: u64 = i64::MAX as u64 / 2;

/// A TTL given as an integer.
pub fn from_seconds(seconds: i64, max_seconds: i64) -> Result<u64, Error> {
    from_micros(i128::from(seconds) * MICROS_PER_SECOND, max_seconds)
}

/// A TTL given as an interval, in the three fields that PostgreSQL keeps.
pub fn from_interval(months: i32, days: i32, micros: i64, max_seconds: i64) -> Result<u64, Error> {
    let (years, months) = (i128::from(months / 12), i128::from(months % 12));
    let seconds =
        years * SECONDS_PER_YEAR + months * SECONDS_PER_MONTH + i128::from(days) * SECONDS_PER_DAY;
    from_micros(seconds * MICROS_PER_SECOND + i128::from(micros), max_seconds)
}

/// A TTL given as a number with a fraction.
pub fn from_fraction(seconds: f64, max_seconds: i64) -> Result<u64, Error> {
    if seconds.is_nan() {
        return Err(Error::TtlInvalid { text: "NaN".to_owned() });
    }
    if seconds <= 0.0 {
        return Err(Error::TtlNotPositive);
    }
    if seconds > max_seconds as f64 {
        return Err(Error::TtlTooLong { max_seconds });
    }
    // A cast from float saturates, so that this holds for every input.
    Ok(((seconds * 1000.0) as u64).clamp(1, MS_MAX))
}

/// Rounds down to milliseconds, for nothing may live longer than asked; below one, up.
fn from_micros(micros: i128, max_seconds: i64) -> Result<u64, Error> {
    if micros <= 0 {
        return Err(Error::TtlNotPositive);
    }
    if micros > i128::from(max_seconds) * MICROS_PER_SECOND {
        return Err(Error::TtlTooLong { max_seconds });
    }
    Ok(u64::try_from(micros / 1000).unwrap_or(MS_MAX).clamp(1, MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: i64 = 2_592_000;
    const TOO_LONG: Result<u64, Error> = Err(Error::TtlTooLong { max_seconds: MAX });

    #[test]
    fn seconds_have_both_limits() {
        // Danger: SET … PX 0 is an error in Redis, and a ttl without end is a leak.
        assert_eq!(from_seconds(1, MAX), Ok(1000));
        assert_eq!(from_seconds(MAX, MAX), Ok(2_592_000_000));
        assert_eq!(from_seconds(MAX + 1, MAX), TOO_LONG);
        assert_eq!(from_seconds(i64::MAX, MAX), TOO_LONG);
        for seconds in [0, -1, i64::MIN] {
            assert_eq!(from_seconds(seconds, MAX), Err(Error::TtlNotPositive));
        }
    }

    #[test]
    fn intervals_are_as_long_as_postgresql_says() {
        // Danger: '1 month' expires on another day than extract(epoch from '1 month') says.
        let seconds = |months, days, micros| from_interval(months, days, micros, i64::MAX);
        assert_eq!(seconds(0, 0, 300_000_000), Ok(300_000));
        assert_eq!(seconds(0, 1, 0), Ok(86_400_000));
        assert_eq!(seconds(1, 0, 0), Ok(2_592_000_000));
        assert_eq!(seconds(11, 0, 0), Ok(28_512_000_000));
        assert_eq!(seconds(12, 0, 0), Ok(31_557_600_000));
        assert_eq!(seconds(13, 0, 0), Ok(34_149_600_000));
        assert_eq!(seconds(1, -29, -3_600_000_000), Ok(82_800_000));
        assert_eq!(seconds(1, -30, 0), Err(Error::TtlNotPositive));
        assert_eq!(from_interval(1, 0, 0, MAX), Ok(2_592_000_000));
        assert_eq!(from_interval(1, 0, 1, MAX), TOO_LONG);
    }

    #[test]
    fn infinite_intervals_are_refused() {
        // Danger: PostgreSQL 17 spells infinity with the extreme of every field.
        assert_eq!(from_interval(i32::MAX, i32::MAX, i64::MAX, MAX), TOO_LONG);
        let minus = from_interval(i32::MIN, i32::MIN, i64::MIN, MAX);
        assert_eq!(minus, Err(Error::TtlNotPositive));
    }

    #[test]
    fn fractions_round_down_but_never_to_zero() {
        // Danger: 0.0004 seconds becomes PX 0, an error reply for a value that was asked for.
        assert_eq!(from_fraction(0.5, MAX), Ok(500));
        assert_eq!(from_fraction(MAX as f64, MAX), Ok(2_592_000_000));
        assert_eq!(from_fraction(MAX as f64 + 0.5, MAX), TOO_LONG);
        assert_eq!(from_fraction(1.9999, MAX), Ok(1999));
        assert_eq!(from_fraction(0.0004, MAX), Ok(1));
        assert_eq!(from_fraction(f64::MIN_POSITIVE, MAX), Ok(1));
        assert_eq!(from_interval(0, 0, 1, MAX), Ok(1));
        assert_eq!(from_interval(0, 0, 1999, MAX), Ok(1));
        assert_eq!(from_fraction(0.0, MAX), Err(Error::TtlNotPositive));
        assert_eq!(from_fraction(-0.0, MAX), Err(Error::TtlNotPositive));
        assert_eq!(from_fraction(f64::NEG_INFINITY, MAX), Err(Error::TtlNotPositive));
        assert_eq!(from_fraction(f64::INFINITY, MAX), TOO_LONG);
        assert_eq!(from_fraction(f64::NAN, MAX), Err(Error::TtlInvalid { text: "NaN".into() }));
    }

    proptest! {
        #[test]
        fn a_ttl_is_within_its_limits_for_every_input(
            seconds in any::<i64>(),
            interval in any::<(i32, i32, i64)>(),
            fraction in prop::num::f64::ANY,
            max_seconds in any::<i64>(),
        ) {
            // Danger: an overflow that turns a long ttl into a short one, or panics.
            let (months, days, micros) = interval;
            let ttls = [
                from_seconds(seconds, max_seconds),
                from_interval(months, days, micros, max_seconds),
                from_fraction(fraction, max_seconds),
            ];
            for ms in ttls.into_iter().flatten() {
                prop_assert!((1..=MS_MAX).contains(&ms));
                prop_assert!(u128::from(ms) <= max_seconds as u128 * 1000);
            }
        }

        #[test]
        fn the_three_spellings_agree(seconds in 1..=MAX) {
            // Danger: 300 and interval '5 minutes' expire at different times.
            let ms = from_seconds(seconds, MAX);
            prop_assert_eq!(from_interval(0, 0, seconds * 1_000_000, MAX), ms.clone());
            prop_assert_eq!(from_fraction(seconds as f64, MAX), ms);
        }
    }
}
