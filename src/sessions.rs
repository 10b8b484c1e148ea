//! Sessions that an application and SQL share: made, read, changed and ended at once.
//!
//! Invariant: what SQL writes replaces exactly what was read before. A session that this
//! transaction read is compared with that reading, any other with one made for the purpose; so no
//! writer's change is lost unseen, and no ended session comes back. Ids stand in no error: nothing
//! here puts one into a message, and the catalogue's errors of sessions have no room for one.

mod seen;

use std::time::{SystemTime, UNIX_EPOCH};

use pg_cache_core::error::{Error, Session as Trouble};
use pg_cache_core::session::{self, Before, Written};

use crate::client::sessions::{self, Replaced, Text};
use crate::direct;
use crate::pg::error::Outcome;
use crate::pg::{Datum, guc, host, jsonb, text};

pub use seen::listener;

/// How often a session is read anew that nobody read in this transaction, and that others write.
const TRIES_MAX: usize = 8;

/// The session as jsonb, for it to be read and changed. With `touch` it lives on as if the
/// application had served a request.
pub fn get(id: &[u8], touch: bool) -> Outcome<Option<Datum>> {
    let key = name(id)?;
    let found = direct::ask(|redis| match touch {
        true => sessions::touch(redis, &key, session::TTL_MS),
        false => sessions::read(redis, &key),
    })?;
    let Some(text) = found else {
        seen::forget(&key);
        return Ok(None);
    };
    let session = read(&text)?;
    seen::remember(key, text);
    Ok(Some(session))
}

/// Changes a session that is there.
pub fn set(id: &[u8], data: Datum, ttl_ms: Option<u64>) -> Outcome<()> {
    let key = name(id)?;
    let data = as_json(data)?;
    if let Some(text) = seen::recall(&key) {
        return match replace(&key, &text, &data, ttl_ms)? {
            Replaced::Done => Ok(()),
            Replaced::Changed => Err(Error::from(Trouble::Changed).into()),
            Replaced::Gone => Err(Error::from(Trouble::Ended).into()),
        };
    }
    for _ in 0..TRIES_MAX {
        let Some(text) = direct::ask(|redis| sessions::read(redis, &key))? else {
            return Err(Error::from(Trouble::Ended).into());
        };
        match replace(&key, &text, &data, ttl_ms)? {
            Replaced::Done => {
                // Nobody read it here: the next call overwrites as this one did.
                seen::forget(&key);
                return Ok(());
            }
            Replaced::Changed => {}
            Replaced::Gone => return Err(Error::from(Trouble::Ended).into()),
        }
    }
    Err(Error::from(Trouble::Changed).into())
}

/// Makes a session, and returns its id.
pub fn new(data: Datum, ttl_ms: Option<u64>) -> Outcome<String> {
    let data = as_json(data)?;
    let written = session::written(&data, None, ttl_ms, now_ms())?;
    check_size(&written)?;
    let random = host::strong_random().ok_or(Error::from(Trouble::NoRandomness))?;
    let id = session::id(&random);
    let key = name(id.as_bytes())?;
    let text = as_text(&written, true);
    match direct::ask(|redis| sessions::create(redis, &key, text))? {
        true => Ok(id),
        // Nobody meets such a number twice.
        false => Err(Error::from(Trouble::NoRandomness).into()),
    }
}

/// Ends a session. False: there was none.
pub fn end(id: &[u8]) -> Outcome<bool> {
    let key = name(id)?;
    seen::forget(&key);
    direct::ask(|redis| sessions::end(redis, &key))
}

fn name(id: &[u8]) -> Outcome<Vec<u8>> {
    direct::name(&session::key(guc::session_prefix().as_bytes(), id)?)
}

/// Writes `data` over what was read, which is remembered as read then.
fn replace(key: &[u8], text: &[u8], data: &str, ttl_ms: Option<u64>) -> Outcome<Replaced> {
    let jsonb = as_json(read(text)?)?;
    let text_before = utf8(text)?;
    let before = Before { text: &text_before, jsonb: &jsonb };
    let written = session::written(data, Some(before), ttl_ms, now_ms())?;
    check_size(&written)?;
    let new = as_text(&written, ttl_ms.is_some());
    let outcome = direct::ask(|redis| sessions::store(redis, key, text, new))?;
    match outcome {
        Replaced::Done => seen::remember(key.to_vec(), written.text.into_bytes()),
        Replaced::Changed => {}
        Replaced::Gone => seen::forget(key),
    }
    Ok(outcome)
}

fn as_text(written: &Written, ends_always: bool) -> Text<'_> {
    Text { bytes: written.text.as_bytes(), ttl_ms: written.ttl_ms, ends_always }
}

fn check_size(written: &Written) -> Result<(), Error> {
    let (bytes, bytes_max) = (written.text.len(), guc::value_bytes_max());
    match bytes > bytes_max {
        true => Err(Trouble::TooLarge { bytes, bytes_max }.into()),
        false => Ok(()),
    }
}

fn read(text: &[u8]) -> Outcome<Datum> {
    let unreadable = || Error::from(Trouble::Unreadable);
    let session = jsonb::from_utf8(text, unreadable)?;
    match jsonb::is_object(session) {
        true => Ok(session),
        false => Err(unreadable().into()),
    }
}

/// The text of a jsonb, in UTF-8 as it stands in Redis.
fn as_json(value: Datum) -> Outcome<String> {
    let text = text::to_utf8(jsonb::to_text(value));
    utf8(&text.ok_or(Error::from(Trouble::Unreadable))?)
}

fn utf8(bytes: &[u8]) -> Outcome<String> {
    let text = str::from_utf8(bytes).map_err(|_| Error::from(Trouble::Unreadable))?;
    Ok(text.to_owned())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
