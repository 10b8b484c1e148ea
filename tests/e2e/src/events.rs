//! What arrived in Redis of what transactions sent.
//!
//! Owns the reading of streams and channels. Break it and every test of an event passes on nothing.

use pg_cache_testbed::Redis;
use serde_json::Value;

/// The fields of a stream's entries, oldest first.
#[track_caller]
pub fn entries(redis: &Redis, stream: &str) -> Vec<Vec<(String, String)>> {
    type Entry = (String, Vec<(String, String)>);
    let mut redis = redis.client();
    let range = redis::cmd("XRANGE").arg(stream).arg("-").arg("+").query(&mut redis);
    let found: Vec<Entry> = range.unwrap_or_else(|error| panic!("{stream}: {error}"));
    found.into_iter().map(|(_, fields)| fields).collect()
}

/// The events of a stream, oldest first.
#[track_caller]
pub fn events(redis: &Redis, stream: &str) -> Vec<Value> {
    let event = |fields: Vec<(String, String)>| {
        assert_eq!(fields.len(), 1, "{fields:?}");
        assert_eq!(fields[0].0, "event");
        serde_json::from_str(&fields[0].1).unwrap_or_else(|_| panic!("no JSON: {}", fields[0].1))
    };
    entries(redis, stream).into_iter().map(event).collect()
}

/// One member of each event of a stream, of the new row or the old one, as text.
#[track_caller]
pub fn told(redis: &Redis, stream: &str, member: &str) -> Vec<String> {
    let text = |event: &Value| {
        let row = if event["new"].is_null() { &event["old"] } else { &event["new"] };
        match &row[member] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    };
    events(redis, stream).iter().map(text).collect()
}

/// The text under a key.
pub fn get(redis: &Redis, key: &str) -> Option<String> {
    redis::cmd("GET").arg(key).query(&mut redis.client()).unwrap()
}

/// Everything that stands in Redis, names and values, in one text.
pub fn everything(redis: &Redis) -> String {
    let mut client = redis.client();
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
    let mut all = Vec::new();
    for key in keys {
        let dump: Option<Vec<u8>> = redis::cmd("DUMP").arg(&key).query(&mut client).unwrap();
        let kind: String = redis::cmd("TYPE").arg(&key).query(&mut client).unwrap();
        all.extend_from_slice(&key);
        all.extend_from_slice(&dump.unwrap_or_default());
        if kind == "stream" {
            // DUMP compresses longer texts.
            let name = String::from_utf8_lossy(&key).into_owned();
            all.extend_from_slice(format!("{:?}", entries(redis, &name)).as_bytes());
        }
        if kind == "string" {
            let value: Vec<u8> = redis::cmd("GET").arg(&key).query(&mut client).unwrap();
            all.extend_from_slice(&value);
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}
