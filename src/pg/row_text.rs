//! A column's value as text that is the same in every session.
//!
//! Invariant: a value has one text, whatever TimeZone, DateStyle, IntervalStyle,
//! extra_float_digits, bytea_output, lc_monetary or search_path say. If one session deleted
//! `day:2026-03-01` and another `day:01.03.2026`, one of them would leave the key. Dates and times
//! are written as JSON has them, `timestamptz` in UTC; all else by the type's output function, for
//! types that could look at settings under fixed ones.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys;

use super::text;
use super::trigger::Attribute;
use super::utility::PlainSettings;

const UUID_BYTES: usize = 16;
const INLINE_BYTES_MAX: usize = 40;

/// How a column's values are written; settled once per trigger.
#[derive(Clone, Copy)]
enum Form {
    Int2,
    Int4,
    Int8,
    Uuid,
    Bool,
    Text,
    /// Without the blanks that fill it up, as a cast to text has it.
    Padded,
    /// `date` and its like, by the oid of the type.
    Time(pg_sys::Oid),
    /// By the output function; `plain` where it may look at settings.
    Output {
        function: pg_sys::Oid,
        plain: bool,
    },
}

#[derive(Clone, Copy)]
pub struct Writer {
    pub attribute: Attribute,
    form: Form,
}

/// A text in UTF-8 (or, where it has none, its bytes), valid for this row.
pub enum Text<'a> {
    Inline { bytes: [u8; INLINE_BYTES_MAX], start: usize, end: usize },
    Whole(std::borrow::Cow<'a, [u8]>),
}

impl AsRef<[u8]> for Text<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Text::Inline { bytes, start, end } => &bytes[*start..*end],
            Text::Whole(bytes) => bytes,
        }
    }
}

impl Writer {
    pub fn new(attribute: Attribute) -> Self {
        // SAFETY: a catalogue look-up; the type itself if it is no domain.
        let base = unsafe { pg_sys::getBaseType(attribute.type_oid) };
        let form = match base {
            pg_sys::INT2OID => Form::Int2,
            pg_sys::INT4OID => Form::Int4,
            pg_sys::INT8OID => Form::Int8,
            pg_sys::UUIDOID => Form::Uuid,
            pg_sys::BOOLOID => Form::Bool,
            pg_sys::TEXTOID | pg_sys::VARCHAROID => Form::Text,
            pg_sys::BPCHAROID => Form::Padded,
            pg_sys::DATEOID
            | pg_sys::TIMEOID
            | pg_sys::TIMETZOID
            | pg_sys::TIMESTAMPOID
            | pg_sys::TIMESTAMPTZOID => Form::Time(base),
            _ => Form::Output { function: output_of(base), plain: !is_constant(base) },
        };
        Self { attribute, form }
    }

    pub fn write<'a>(&self, value: pg_sys::Datum) -> Text<'a> {
        match self.form {
            Form::Int2 => number(i64::from(value.value() as i16)),
            Form::Int4 => number(i64::from(value.value() as i32)),
            Form::Int8 => number(value.value() as i64),
            Form::Uuid => uuid(value),
            Form::Bool => {
                let shown: &[u8] = if value.value() as u8 == 0 { b"false" } else { b"true" };
                Text::Whole(shown.into())
            }
            Form::Text => Text::Whole(utf8(text::bytes(value))),
            Form::Padded => Text::Whole(utf8(unpadded(text::bytes(value)))),
            Form::Time(type_oid) => time(value, type_oid),
            Form::Output { function, plain } => {
                let _plain = plain.then(PlainSettings::start);
                Text::Whole(utf8(shown(function, value)))
            }
        }
    }
}

fn unpadded(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    &bytes[..end]
}

/// A text that has no equivalent in UTF-8 is used by its bytes, as a key is.
pub fn utf8(bytes: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    text::to_utf8(bytes).unwrap_or(std::borrow::Cow::Borrowed(bytes))
}

pub fn output_of(type_oid: pg_sys::Oid) -> pg_sys::Oid {
    let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
    // SAFETY: a catalogue look-up into two locals.
    unsafe { pg_sys::getTypeOutputInfo(type_oid, &raw mut function, &raw mut is_varlena) };
    function
}

/// What the output function writes, in the memory of this row.
pub fn shown<'a>(function: pg_sys::Oid, value: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: the output function of the value's type gives a palloc'ed C string.
    let shown = unsafe { pg_sys::OidOutputFunctionCall(function, value) };
    // SAFETY: ends with NUL.
    unsafe { CStr::from_ptr(shown) }.to_bytes()
}

/// Types whose output looks at no setting.
fn is_constant(type_oid: pg_sys::Oid) -> bool {
    // SAFETY: a catalogue look-up.
    let is_enum = unsafe { pg_sys::get_typtype(type_oid) } as u8 == pg_sys::TYPTYPE_ENUM;
    is_enum
        || matches!(
            type_oid,
            pg_sys::NUMERICOID
                | pg_sys::OIDOID
                | pg_sys::NAMEOID
                | pg_sys::CHAROID
                | pg_sys::INETOID
                | pg_sys::CIDROID
                | pg_sys::MACADDROID
                | pg_sys::MACADDR8OID
        )
}

fn number<'a>(value: i64) -> Text<'a> {
    let mut bytes = [0; INLINE_BYTES_MAX];
    let mut at = INLINE_BYTES_MAX;
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        bytes[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        bytes[at] = b'-';
    }
    Text::Inline { bytes, start: at, end: INLINE_BYTES_MAX }
}

fn uuid<'a>(value: pg_sys::Datum) -> Text<'a> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // SAFETY: a uuid is a pointer to this many bytes.
    let raw = unsafe { &*value.cast_mut_ptr::<[u8; UUID_BYTES]>() };
    let (mut bytes, mut length) = ([0; INLINE_BYTES_MAX], 0);
    for (place, byte) in raw.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            bytes[length] = b'-';
            length += 1;
        }
        bytes[length] = DIGITS[usize::from(byte >> 4)];
        bytes[length + 1] = DIGITS[usize::from(byte & 15)];
        length += 2;
    }
    Text::Inline { bytes, start: 0, end: length }
}

/// As in JSON; what has a time zone, in UTC.
fn time<'a>(value: pg_sys::Datum, type_oid: pg_sys::Oid) -> Text<'a> {
    let mut buffer = [0 as c_char; pg_sys::MAXDATELEN as usize + 1];
    let offset = 0;
    let zone =
        if type_oid == pg_sys::TIMESTAMPTZOID { &raw const offset } else { std::ptr::null() };
    // SAFETY: writes at most MAXDATELEN bytes and a NUL.
    unsafe { pg_sys::JsonEncodeDateTime(buffer.as_mut_ptr(), value, type_oid, zone) };
    let shown = buffer.iter().take_while(|byte| **byte != 0);
    Text::Whole(shown.map(|byte| *byte as u8).collect::<Vec<_>>().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_postgresql_does() {
        // Danger: the key of a row at the edge of its type is another than its readers'.
        for value in [0, 7, -1, 10, i64::MAX, i64::MIN, i64::from(i32::MIN)] {
            assert_eq!(number(value).as_ref(), value.to_string().as_bytes());
        }
    }
}
