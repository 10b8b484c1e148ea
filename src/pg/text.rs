//! Text between PostgreSQL and Redis: the server's encoding here, UTF-8 there.
//!
//! Every program reads UTF-8, so keys and values stand so in Redis whatever the database's
//! encoding. Nothing here raises: a text that has no equivalent is `None`, and the caller goes on
//! without it.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_char, c_int};

use pgrx::pg_sys;

const UTF8: c_int = pg_sys::pg_enc::PG_UTF8 as c_int;
const SQL_ASCII: c_int = pg_sys::pg_enc::PG_SQL_ASCII as c_int;

/// A text datum as bytes, detoasted, in the server's encoding.
pub fn bytes<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: a plain or short varlena holds its own length.
    unsafe { pgrx::varlena::varlena_to_byte_slice(plain(datum.cast_mut_ptr())) }
}

/// The same of one of many rows: nothing stays in PostgreSQL's memory, which would be that of the
/// whole transaction.
pub fn to_vec(datum: pg_sys::Datum) -> Vec<u8> {
    let varlena: *mut pg_sys::varlena = datum.cast_mut_ptr();
    let plain = plain(varlena);
    // SAFETY: as in `bytes`.
    let bytes = unsafe { pgrx::varlena::varlena_to_byte_slice(plain) }.to_vec();
    if !std::ptr::eq(plain, varlena) {
        // SAFETY: a copy that was made above, and nobody kept anything of it.
        unsafe { pg_sys::pfree(plain.cast_mut().cast()) };
    }
    bytes
}

/// The value as it is, or a palloc'ed copy of what stands compressed or somewhere else.
fn plain(varlena: *mut pg_sys::varlena) -> *const pg_sys::varlena {
    if is_plain(varlena) {
        return varlena;
    }
    // SAFETY: a varlena; the result is it or a palloc'ed plain copy of it.
    unsafe { pg_sys::pg_detoast_datum_packed(varlena) }
}

/// Whether the value stands there as it is: neither compressed nor somewhere else.
fn is_plain(varlena: *const pg_sys::varlena) -> bool {
    // SAFETY: reads the head of a varlena.
    let is_long = unsafe { pgrx::varlena::varatt_is_4b_u(varlena) };
    // SAFETY: as above.
    let is_short = unsafe { pgrx::varlena::varatt_is_1b(varlena) };
    // SAFETY: as above.
    is_long || (is_short && !unsafe { pgrx::varlena::varatt_is_1b_e(varlena) })
}

/// A palloc'ed text or json datum of bytes in the server's encoding.
pub fn datum(bytes: &[u8]) -> pg_sys::Datum {
    let length = c_int::try_from(bytes.len()).unwrap_or(c_int::MAX);
    // SAFETY: copies that many bytes into a new varlena.
    let text = unsafe { pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), length) };
    pg_sys::Datum::from(text)
}

/// A text datum for a person or a message.
pub fn owned(datum: pg_sys::Datum) -> String {
    string(bytes(datum))
}

/// A uuid datum as a number, in the order of its digits.
pub fn uuid(datum: pg_sys::Datum) -> u128 {
    // SAFETY: a uuid is a pointer to sixteen bytes.
    u128::from_be_bytes(unsafe { *datum.cast_mut_ptr::<[u8; 16]>() })
}

/// Bytes in the server's encoding for a person or a message: what has no equivalent is U+FFFD.
pub fn string(bytes: &[u8]) -> String {
    let utf8 = to_utf8(bytes).unwrap_or(Cow::Borrowed(bytes));
    String::from_utf8_lossy(&utf8).into_owned()
}

/// What a setting or a C string in the server's encoding holds; empty where there is none.
pub fn c_string(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: PostgreSQL's strings end with NUL and live for this statement at least.
    string(unsafe { CStr::from_ptr(pointer) }.to_bytes())
}

/// The name in a catalogue row.
pub fn name(name: &pg_sys::NameData) -> String {
    // SAFETY: a name ends with NUL within its fixed length.
    string(unsafe { CStr::from_ptr(name.data.as_ptr()) }.to_bytes())
}

/// From the server's encoding. A database in SQL_ASCII has none: then what is UTF-8 already passes.
pub fn to_utf8(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    match encoding() {
        UTF8 => Some(Cow::Borrowed(bytes)),
        SQL_ASCII => std::str::from_utf8(bytes).ok().map(|text| Cow::Borrowed(text.as_bytes())),
        server => convert(bytes, server, UTF8).map(Cow::Owned),
    }
}

/// To the server's encoding, and only if it is UTF-8 without NUL: anything else is nothing of ours
/// and must not become a datum.
pub fn from_utf8(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    let valid = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))?;
    match encoding() {
        UTF8 | SQL_ASCII => Some(Cow::Borrowed(valid.as_bytes())),
        server => convert(valid.as_bytes(), UTF8, server).map(Cow::Owned),
    }
}

/// A json datum of a value from Redis.
pub fn json_from_utf8(bytes: &[u8]) -> Option<pg_sys::Datum> {
    from_utf8(bytes).map(|bytes| datum(&bytes))
}

/// A json datum of our own making: in other encodings, characters beyond ASCII are escaped.
pub fn json(value: &serde_json::Value) -> pg_sys::Datum {
    let text = value.to_string();
    if matches!(encoding(), UTF8 | SQL_ASCII) {
        return datum(text.as_bytes());
    }
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii() {
            escaped.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    datum(escaped.as_bytes())
}

/// A piece of a statement of ours in the server's encoding.
pub fn statement(text: &str) -> CString {
    let bytes = from_utf8(text.as_bytes()).unwrap_or(Cow::Borrowed(text.as_bytes()));
    CString::new(bytes.into_owned()).unwrap_or_default()
}

/// A message of ours: outside UTF-8, characters beyond ASCII are shown by their numbers.
pub fn message(text: &str) -> String {
    if encoding() == UTF8 {
        return text.to_owned();
    }
    let shown = |character: char| match character.is_ascii() {
        true => character.to_string(),
        false => character.escape_unicode().to_string(),
    };
    text.chars().map(shown).collect()
}

unsafe extern "C" {
    /// Without pgrx's guard: it reads one number, cannot raise, and is asked at every value.
    fn GetDatabaseEncoding() -> c_int;
}

fn encoding() -> c_int {
    // SAFETY: reads a global of the backend.
    unsafe { GetDatabaseEncoding() }
}

/// By the database's default conversion, without raising where a character has no equivalent.
fn convert(bytes: &[u8], from: c_int, to: c_int) -> Option<Vec<u8>> {
    // SAFETY: a catalogue look-up.
    let procedure = unsafe { pg_sys::FindDefaultConversionProc(from, to) };
    if procedure == pg_sys::InvalidOid {
        return None;
    }
    let growth = pg_sys::MAX_CONVERSION_GROWTH as usize;
    let mut out = vec![0u8; bytes.len().checked_mul(growth)?.checked_add(1)?];
    let length = c_int::try_from(bytes.len()).ok()?;
    let room = c_int::try_from(out.len()).ok()?;
    let source = bytes.as_ptr().cast_mut();
    // SAFETY: reads `length` bytes, writes at most `room` with a NUL; does not raise for the text.
    let read = unsafe {
        pg_sys::pg_do_encoding_conversion_buf(
            procedure,
            from,
            to,
            source,
            length,
            out.as_mut_ptr(),
            room,
            true,
        )
    };
    if read != length {
        return None;
    }
    out.truncate(out.iter().position(|byte| *byte == 0)?);
    Some(out)
}
