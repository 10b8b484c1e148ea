//! Owns the times of a session: its cookie's `originalMaxAge` and `expires`, as express-session
//! keeps them and connect-redis reads them.
//!
//! Invariant: `expires` is renewed from `originalMaxAge` by whoever writes the session, and the key
//! lives as long. A stored `expires` says nothing of a session that was touched since: a touch
//! renews the key alone.

use std::time::{Duration, UNIX_EPOCH};

use crate::document::Document;
use crate::error::{self, Error};

use super::TTL_MS;

const MAX_AGE: &str = "originalMaxAge";
const EXPIRES: &str = "expires";
const NULL: &str = "null";

/// The last time that a date of four digits can name, in milliseconds.
const DATE_MS_MAX: u64 = 253_402_300_799_999;

pub struct Cookie(Document);

impl Default for Cookie {
    /// What express-session makes of no options.
    fn default() -> Self {
        let mut cookie = Document::default();
        for (name, value) in
            [(MAX_AGE, NULL), (EXPIRES, NULL), ("httpOnly", "true"), ("path", "\"/\"")]
        {
            cookie.set(name, value);
        }
        Self(cookie)
    }
}

impl Cookie {
    /// None if it is no object. What is missing is as express-session would have it.
    pub fn parse(given: &str) -> Option<Self> {
        let mut given = Document::parse(given)?;
        let Self(defaults) = Cookie::default();
        for name in [MAX_AGE, EXPIRES, "httpOnly", "path"] {
            if let (None, Some(value)) = (given.get(name), defaults.get(name)) {
                given.set(name, value);
            }
        }
        Some(Self(given))
    }

    /// Renews the times, and says how long the session lives from now.
    pub fn renew(&mut self, ttl_ms: Option<u64>, now_ms: u64) -> Result<u64, Error> {
        if let Some(ttl_ms) = ttl_ms {
            self.0.set(MAX_AGE, &ttl_ms.to_string());
        }
        if let Some(age_ms) = self.max_age_ms() {
            if age_ms < 1.0 {
                return Err(error::Session::CookieExpired.into());
            }
            // A cast from float saturates: in a thousand centuries nothing expires.
            let age_ms = (age_ms as u64).min(DATE_MS_MAX);
            let until = now_ms.saturating_add(age_ms).min(DATE_MS_MAX);
            let until = UNIX_EPOCH + Duration::from_millis(until);
            let date = humantime::format_rfc3339_millis(until);
            self.0.set(EXPIRES, &format!("\"{date}\""));
            return Ok(age_ms);
        }
        match self.expires_ms() {
            Some(until) if until <= now_ms => Err(error::Session::CookieExpired.into()),
            Some(until) => Ok(until - now_ms),
            None => Ok(TTL_MS),
        }
    }

    fn max_age_ms(&self) -> Option<f64> {
        serde_json::from_str(self.0.get(MAX_AGE)?).ok()
    }

    /// The date in `expires`, unless it is none.
    fn expires_ms(&self) -> Option<u64> {
        let date: String = serde_json::from_str(self.0.get(EXPIRES)?).ok()?;
        let until = humantime::parse_rfc3339(&date).ok()?;
        u64::try_from(until.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
    }

    pub fn to_text(&self) -> String {
        self.0.to_text()
    }
}
