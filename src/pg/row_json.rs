//! A column's value as JSON, as `row_to_json` gives it in this session.
//!
//! Invariant: byte for byte what `row_to_json` writes, in UTF-8. A subscriber that reads events and
//! a program that reads `redis_cached` see the same value in the same way. How a type is written is
//! settled once per trigger: asking the catalogues at every row would cost more than the writing.

use std::cell::RefCell;
use std::ffi::{CStr, c_char};

use pg_cache_core::event::{is_number, write_number, write_string};
use pgrx::pg_sys;

use super::row_text::{output_of, shown, utf8};
use super::text;
use super::trigger::{Attribute, Values};

/// The largest oid of an object that initdb made.
const FIRST_OID_OF_USERS: u32 = pg_sys::FirstNormalObjectId;

/// How a type is written; the categories are those of PostgreSQL's json.c.
#[derive(Clone, Copy)]
enum Form {
    Int2,
    Int4,
    Int8,
    Bool,
    Text,
    /// A json: its own text.
    Json,
    /// By the output function: bare, if it is a number.
    Number(pg_sys::Oid),
    /// By the output function, which writes JSON.
    Bare(pg_sys::Oid),
    /// By the output function, as a string.
    String(pg_sys::Oid),
    Time(pg_sys::Oid),
    /// By a function from the type to json.
    Function(pg_sys::Oid),
}

/// A column and how it is written.
pub struct Column {
    pub name: String,
    pub attribute: Attribute,
    /// The name as JSON, with the colon behind it.
    label: Vec<u8>,
    form: Form,
}

impl Column {
    pub fn new(name: String, attribute: Attribute) -> Self {
        let mut label = Vec::new();
        write_string(&mut label, name.as_bytes());
        label.push(b':');
        Self { name, attribute, label, form: Form::of(attribute.type_oid) }
    }

    /// Appends the value as JSON.
    fn write(&self, out: &mut Vec<u8>, value: Option<pg_sys::Datum>) {
        match value {
            Some(value) => self.form.write(out, value),
            None => out.extend_from_slice(b"null"),
        }
    }

    /// The value's text: that of a string without quotes, any other as JSON has it.
    pub fn plain(&self, value: pg_sys::Datum) -> Vec<u8> {
        let mut out = Vec::new();
        match self.form {
            Form::Text => out.extend_from_slice(&utf8(text::bytes(value))),
            Form::String(function) | Form::Number(function) => {
                out.extend_from_slice(&utf8(shown(function, value)));
            }
            Form::Time(type_oid) => write_time(&mut out, value, type_oid, None),
            _ => self.form.write(&mut out, value),
        }
        out
    }
}

/// Appends an object of these columns.
pub fn write_object<'a>(
    out: &mut Vec<u8>,
    columns: impl Iterator<Item = &'a Column>,
    values: &Values,
) {
    out.push(b'{');
    let mut is_first = true;
    for column in columns {
        if !is_first {
            out.push(b',');
        }
        is_first = false;
        out.extend_from_slice(&column.label);
        column.write(out, values.get(column.attribute));
    }
    out.push(b'}');
}

/// Appends an array of the names of these columns.
pub fn write_names<'a>(out: &mut Vec<u8>, columns: impl Iterator<Item = &'a Column>) {
    out.push(b'[');
    let start = out.len();
    for column in columns {
        if out.len() > start {
            out.push(b',');
        }
        out.extend_from_slice(column.label.strip_suffix(b":").unwrap_or_default());
    }
    out.push(b']');
}

thread_local! {
    /// When the last transaction that sent something began, and how that is written.
    static BEGAN: RefCell<(pg_sys::TimestampTz, Vec<u8>)> =
        const { RefCell::new((pg_sys::TimestampTz::MIN, Vec::new())) };
}

/// Appends when the transaction began, in UTC.
pub fn write_transaction_time(out: &mut Vec<u8>) {
    // SAFETY: reads the state of the current transaction.
    let began = unsafe { pg_sys::GetCurrentTransactionStartTimestamp() };
    BEGAN.with_borrow_mut(|(of, text)| {
        if *of != began {
            text.clear();
            let (value, offset) = (pg_sys::Datum::from(began), 0);
            text.push(b'"');
            write_time(text, value, pg_sys::TIMESTAMPTZOID, Some(&offset));
            text.push(b'"');
            *of = began;
        }
        out.extend_from_slice(text);
    });
}

impl Form {
    fn of(type_oid: pg_sys::Oid) -> Self {
        // SAFETY: a catalogue look-up; the type itself if it is no domain.
        let base = unsafe { pg_sys::getBaseType(type_oid) };
        match base {
            pg_sys::INT2OID => Form::Int2,
            pg_sys::INT4OID => Form::Int4,
            pg_sys::INT8OID => Form::Int8,
            pg_sys::BOOLOID => Form::Bool,
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Form::Text,
            pg_sys::JSONOID => Form::Json,
            pg_sys::JSONBOID => Form::Bare(output_of(base)),
            pg_sys::FLOAT4OID | pg_sys::FLOAT8OID | pg_sys::NUMERICOID => {
                Form::Number(output_of(base))
            }
            pg_sys::DATEOID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID => Form::Time(base),
            _ => Self::of_other(base),
        }
    }

    fn of_other(base: pg_sys::Oid) -> Self {
        // SAFETY: a catalogue look-up.
        if unsafe { pg_sys::get_element_type(base) } != pg_sys::InvalidOid {
            return Form::Function(pg_sys::Oid::from(pg_sys::F_ARRAY_TO_JSON_ANYARRAY));
        }
        // SAFETY: a catalogue look-up.
        if unsafe { pg_sys::type_is_rowtype(base) } {
            return Form::Function(pg_sys::Oid::from(pg_sys::F_ROW_TO_JSON_RECORD));
        }
        if base.to_u32() >= FIRST_OID_OF_USERS {
            let mut function = pg_sys::InvalidOid;
            let explicit = pg_sys::CoercionContext::COERCION_EXPLICIT;
            // SAFETY: a catalogue look-up into a local.
            let path = unsafe {
                pg_sys::find_coercion_pathway(pg_sys::JSONOID, base, explicit, &raw mut function)
            };
            let by_function = path == pg_sys::CoercionPathType::COERCION_PATH_FUNC;
            if by_function && function != pg_sys::InvalidOid {
                return Form::Function(function);
            }
        }
        Form::String(output_of(base))
    }

    fn write(self, out: &mut Vec<u8>, value: pg_sys::Datum) {
        match self {
            Form::Int2 => write_number(out, i64::from(value.value() as i16)),
            Form::Int4 => write_number(out, i64::from(value.value() as i32)),
            Form::Int8 => write_number(out, value.value() as i64),
            Form::Bool => {
                let shown: &[u8] = if value.value() as u8 == 0 { b"false" } else { b"true" };
                out.extend_from_slice(shown);
            }
            Form::Text => write_string(out, &utf8(text::bytes(value))),
            Form::Json => out.extend_from_slice(&utf8(text::bytes(value))),
            Form::Number(function) => {
                let shown = shown(function, value);
                match is_number(shown) {
                    true => out.extend_from_slice(shown),
                    false => write_string(out, shown),
                }
            }
            Form::Bare(function) => out.extend_from_slice(&utf8(shown(function, value))),
            Form::String(function) => write_string(out, &utf8(shown(function, value))),
            Form::Time(type_oid) => {
                out.push(b'"');
                write_time(out, value, type_oid, None);
                out.push(b'"');
            }
            Form::Function(function) => {
                let none = pg_sys::InvalidOid;
                // SAFETY: a strict function of one argument of the value's type.
                let json = unsafe { pg_sys::OidFunctionCall1Coll(function, none, value) };
                out.extend_from_slice(&utf8(text::bytes(json)));
            }
        }
    }
}

/// Without an offset, what has a time zone is shown in the session's.
fn write_time(
    out: &mut Vec<u8>,
    value: pg_sys::Datum,
    type_oid: pg_sys::Oid,
    offset: Option<&i32>,
) {
    let mut buffer = [0 as c_char; pg_sys::MAXDATELEN as usize + 1];
    let zone = offset.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: writes at most MAXDATELEN bytes and a NUL.
    unsafe { pg_sys::JsonEncodeDateTime(buffer.as_mut_ptr(), value, type_oid, zone) };
    // SAFETY: ends with NUL within the buffer.
    out.extend_from_slice(unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_bytes());
}
