//! Text between PostgreSQL and Redis: the server's encoding here, UTF-8 there.

use pgrx::pg_sys;

/// A text datum as bytes, detoasted, in the server's encoding.
pub fn bytes<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: the datum is a varlena; the result is it or a palloc'ed plain copy of it.
    let varlena = unsafe { pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr()) };
    // SAFETY: a plain or short varlena holds its own length.
    unsafe { pgrx::varlena::varlena_to_byte_slice(varlena) }
}

/// A text datum as a string. Bytes that are not UTF-8 (databases of other encodings) become U+FFFD:
/// only for names and messages, never for values.
pub fn owned(datum: pg_sys::Datum) -> String {
    String::from_utf8_lossy(bytes(datum)).into_owned()
}

/// A palloc'ed text or json datum of these bytes.
pub fn datum(bytes: &[u8]) -> pg_sys::Datum {
    let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
    // SAFETY: copies that many bytes into a new varlena.
    let text = unsafe { pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), length) };
    pg_sys::Datum::from(text)
}

/// Whether the database's encoding is UTF-8, so that nothing need be converted.
fn is_utf8() -> bool {
    // SAFETY: reads a global of the backend.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 }
}

/// Server encoding to UTF-8. A database in SQL_ASCII has no encoding: its bytes pass as they are.
pub fn to_utf8(bytes: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if is_utf8() {
        return bytes.into();
    }
    let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
    let utf8 = pg_sys::pg_enc::PG_UTF8 as i32;
    // SAFETY: gives the input itself where nothing is to be done, or a C string of its own.
    let converted = unsafe { pg_sys::pg_server_to_any(bytes.as_ptr().cast(), length, utf8) };
    if converted.cast_const().cast() == bytes.as_ptr() {
        return bytes.into();
    }
    // SAFETY: a conversion result ends with NUL.
    unsafe { std::ffi::CStr::from_ptr(converted) }.to_bytes().to_vec().into()
}

/// A json datum of UTF-8 bytes from Redis, or `None` if they are not UTF-8: then nobody of ours
/// wrote them, and they must not become a datum.
pub fn json_from_utf8(bytes: &[u8]) -> Option<pg_sys::Datum> {
    let valid = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))?;
    if is_utf8() {
        return Some(datum(valid.as_bytes()));
    }
    let length = i32::try_from(bytes.len()).ok()?;
    let utf8 = pg_sys::pg_enc::PG_UTF8 as i32;
    // SAFETY: as in `to_utf8`, the other way; raises where a character has no equivalent.
    let converted = unsafe { pg_sys::pg_any_to_server(bytes.as_ptr().cast(), length, utf8) };
    if converted.cast_const().cast() == bytes.as_ptr() {
        return Some(datum(bytes));
    }
    // SAFETY: a conversion result ends with NUL.
    Some(datum(unsafe { std::ffi::CStr::from_ptr(converted) }.to_bytes()))
}
