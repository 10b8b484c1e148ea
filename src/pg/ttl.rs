//! A ttl as SQL gives it: seconds as any number, an interval, or a text of either.

use pg_cache_core::error::{Error, Queue, Untimely};
use pg_cache_core::ttl;
use pgrx::pg_sys;

use super::arguments::{c_text, read_text};
use super::call::Call;
use super::error::{Outcome, Raised, replace};
use super::{classify, guc, text};

/// The ttl in milliseconds.
pub fn read(call: &Call, index: usize) -> Outcome<u64> {
    let Some(value) = call.datum(index) else {
        return Err(Error::NullArgument { name: "ttl" }.into());
    };
    let limit = guc::ttl_max_seconds();
    let ttl_ms = match base_type(call.type_of(index)) {
        pg_sys::INT2OID => ttl::from_seconds(i64::from(value.value() as i16), limit),
        pg_sys::INT4OID => ttl::from_seconds(i64::from(value.value() as i32), limit),
        pg_sys::INT8OID => ttl::from_seconds(value.value() as i64, limit),
        pg_sys::FLOAT4OID => {
            ttl::from_fraction(f64::from(f32::from_bits(value.value() as u32)), limit)
        }
        pg_sys::FLOAT8OID => ttl::from_fraction(f64::from_bits(value.value() as u64), limit),
        pg_sys::NUMERICOID => ttl::from_fraction(numeric(value), limit),
        pg_sys::INTERVALOID => from_interval(value, limit),
        pg_sys::UNKNOWNOID => return from_text(&c_text(value).to_string_lossy(), limit),
        pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => {
            return from_text(&text::owned(value), limit);
        }
        other => Err(Error::TtlType { type_name: classify::type_name(other) }),
    };
    Ok(ttl_ms?)
}

/// A domain over interval is an interval. Types that initdb made are no domains that matter here.
fn base_type(type_oid: pg_sys::Oid) -> pg_sys::Oid {
    if classify::is_built_in(type_oid) {
        return type_oid;
    }
    // SAFETY: a catalogue look-up.
    unsafe { pg_sys::getBaseType(type_oid) }
}

fn numeric(value: pg_sys::Datum) -> f64 {
    // SAFETY: the built-in conversion; out of range becomes infinity, which is refused as too long.
    let float = unsafe {
        pg_sys::OidFunctionCall1Coll(
            pg_sys::Oid::from(pg_sys::F_FLOAT8_NUMERIC),
            pg_sys::InvalidOid,
            value,
        )
    };
    f64::from_bits(float.value() as u64)
}

fn from_interval(value: pg_sys::Datum, limit: i64) -> Result<u64, Error> {
    // SAFETY: an interval datum points at one.
    let interval = unsafe { &*value.cast_mut_ptr::<pg_sys::Interval>() };
    ttl::from_interval(interval.month, interval.day, interval.time, limit)
}

/// In milliseconds, of a number of seconds or an interval.
pub fn from_text(given: &str, limit: i64) -> Outcome<u64> {
    if let Ok(seconds) = given.trim().parse::<i64>() {
        return Ok(ttl::from_seconds(seconds, limit)?);
    }
    let invalid = || Error::TtlInvalid { text: given.to_owned() };
    let literal = std::ffi::CString::new(given).map_err(|_| Raised::from(invalid()))?;
    let datum = pg_sys::Datum::from(literal.as_ptr());
    match read_text(pg_sys::INTERVALOID, datum) {
        Ok(value) => Ok(from_interval(value, limit)?),
        Err(raised) => Err(replace(raised, invalid())),
    }
}

/// A length of time in milliseconds that may be zero; NULL is `None`. `name` is the argument's.
pub fn read_time(call: &Call, index: usize, name: &'static str) -> Outcome<Option<u64>> {
    if call.datum(index).is_none() {
        return Ok(None);
    }
    let why = match read(call, index) {
        Err(Raised::Refused(Error::TtlNotPositive)) if is_zero(call, index)? => return Ok(Some(0)),
        Err(Raised::Refused(Error::TtlNotPositive)) => Untimely::Negative,
        Err(Raised::Refused(Error::TtlTooLong { max_seconds })) => {
            Untimely::TooLong { max_seconds }
        }
        Err(Raised::Refused(Error::TtlInvalid { text })) => Untimely::Invalid { text },
        Err(Raised::Refused(Error::TtlType { type_name })) => Untimely::Type { type_name },
        other => return other.map(Some),
    };
    Err(Error::from(Queue::Time { name, why }).into())
}

/// Whether a value of which `read` says that it is not positive is zero.
fn is_zero(call: &Call, index: usize) -> Outcome<bool> {
    let Some(value) = call.datum(index) else { return Ok(false) };
    let of_text = |given: &str| -> Outcome<bool> {
        if let Ok(seconds) = given.trim().parse::<i64>() {
            return Ok(seconds == 0);
        }
        let literal = std::ffi::CString::new(given).unwrap_or_default();
        let datum = pg_sys::Datum::from(literal.as_ptr());
        Ok(is_zero_interval(read_text(pg_sys::INTERVALOID, datum)?))
    };
    Ok(match base_type(call.type_of(index)) {
        pg_sys::INT2OID => value.value() as i16 == 0,
        pg_sys::INT4OID => value.value() as i32 == 0,
        pg_sys::INT8OID => value.value() as i64 == 0,
        pg_sys::FLOAT4OID => f32::from_bits(value.value() as u32) == 0.0,
        pg_sys::FLOAT8OID => f64::from_bits(value.value() as u64) == 0.0,
        pg_sys::NUMERICOID => numeric(value) == 0.0,
        pg_sys::INTERVALOID => is_zero_interval(value),
        pg_sys::UNKNOWNOID => of_text(&c_text(value).to_string_lossy())?,
        _ => of_text(&text::owned(value))?,
    })
}

fn is_zero_interval(value: pg_sys::Datum) -> bool {
    // SAFETY: an interval datum points at one.
    let interval = unsafe { &*value.cast_mut_ptr::<pg_sys::Interval>() };
    (interval.month, interval.day, interval.time) == (0, 0, 0)
}
