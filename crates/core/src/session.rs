//! Owns how a session stands in Redis: connect-redis' layout, so that an application built on
//! Express and SQL share it.
//!
//! Invariant: what is written always has a `cookie` whose times belong together, and a member that
//! SQL did not change stands there byte for byte as it did. Without the cookie express-session
//! fails on the next request; if SQL's way of writing numbers went over everything, two programs
//! would take turns in changing what neither of them touched.

mod cookie;

use crate::document::Document;
use crate::error::{self, Error};
use cookie::Cookie;

/// What connect-redis takes where neither it nor the cookie says otherwise: a day.
pub const TTL_MS: u64 = 86_400_000;

/// The random bytes of an id: more than anybody can guess.
pub const ID_RANDOM_BYTES: usize = 32;

/// The longest id. Applications may make their own; a key has to bear it.
pub const ID_BYTES_MAX: usize = 512;

const COOKIE: &str = "cookie";

/// A session's name in Redis, without the database's prefix. `prefix` is what connect-redis puts
/// before the id: `sess:` unless told otherwise.
pub fn key(prefix: &[u8], id: &[u8]) -> Result<Vec<u8>, Error> {
    match id.len() {
        0 => Err(error::Session::IdEmpty.into()),
        bytes if bytes > ID_BYTES_MAX => {
            Err(error::Session::IdTooLong { bytes, bytes_max: ID_BYTES_MAX }.into())
        }
        _ => Ok([prefix, id].concat()),
    }
}

/// An id of random bytes in the letters that express-session uses: they need no escape in a cookie.
pub fn id(random: &[u8; ID_RANDOM_BYTES]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut id = String::with_capacity(ID_RANDOM_BYTES.div_ceil(3) * 4);
    for three in random.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for place in 0..=three.len() {
            let letter = bits >> (18 - 6 * place) & 63;
            id.push(char::from(LETTERS[letter as usize]));
        }
    }
    id
}

/// A session as it was read: as it stands in Redis, and as PostgreSQL's jsonb writes the same.
#[derive(Clone, Copy)]
pub struct Before<'a> {
    pub text: &'a str,
    pub jsonb: &'a str,
}

/// A session as it goes to Redis.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    pub text: String,
    pub ttl_ms: u64,
}

/// What to write for `data`, a text that jsonb wrote. Without a cookie in it the session keeps the
/// one that it has. A ttl that was asked for becomes the cookie's, so that the application renews
/// by it too.
pub fn written(
    data: &str,
    before: Option<Before<'_>>,
    ttl_ms: Option<u64>,
    now_ms: u64,
) -> Result<Written, Error> {
    let mut data = Document::parse(data).ok_or(error::Session::NotObject { what: "data" })?;
    if let Some(Before { text, jsonb }) = before {
        let unreadable = || Error::from(error::Session::Unreadable);
        let text = Document::parse(text).ok_or_else(unreadable)?;
        let jsonb = Document::parse(jsonb).ok_or_else(unreadable)?;
        if data.get(COOKIE).is_none()
            && let Some(cookie) = jsonb.get(COOKIE)
        {
            data.set(COOKIE, cookie);
        }
        data.keep(&text, &jsonb);
    }
    let mut cookie = match data.get(COOKIE) {
        Some(given) => Cookie::parse(given).ok_or(error::Session::NotObject { what: "cookie" })?,
        None => Cookie::default(),
    };
    let ttl_ms = cookie.renew(ttl_ms, now_ms)?;
    data.set(COOKIE, &cookie.to_text());
    Ok(Written { text: data.to_text(), ttl_ms })
}

#[cfg(test)]
mod tests;
