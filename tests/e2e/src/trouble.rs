//! What every kind of trouble with Redis must look like from SQL: answers, counts, one warning.
//!
//! Owns the words of the warning. Break them here and each test of a failure fails.

use postgres::Client;

use crate::counters::{Counters, counted};
use crate::outcome::cached;
use crate::scene::{Notices, Scene};

pub const QUERY: &str = "SELECT v FROM t";
pub const ANSWER: &str = r#"[{"v":"from postgres"}]"#;
const WARNING: &str = "redis is not usable, computing without the cache";

pub fn prepare(scene: &Scene) -> (Client, Notices) {
    let (mut client, notices) = scene.connect_listening();
    client.batch_execute("CREATE TABLE t AS SELECT 'from postgres' AS v").unwrap();
    (client, notices)
}

pub fn use_url(client: &mut Client, url: &str) {
    client.batch_execute(&format!("SET pg_cache.url = '{url}'")).unwrap();
}

/// Ten calls, each answered; the counts they made.
#[track_caller]
pub fn ten_answers(client: &mut Client, what: &str) -> Counters {
    answers(client, 10, what)
}

#[track_caller]
pub fn answers(client: &mut Client, count: u8, what: &str) -> Counters {
    let ((), counters) = counted(client, |c| {
        for call in 0..count {
            let answer = cached(c, &format!("k:{call}"), QUERY);
            assert_eq!(answer.as_deref(), Ok(ANSWER), "{what}, call {call}");
        }
    });
    counters
}

#[track_caller]
pub fn one_warning(notices: &Notices, what: &str) {
    let warnings = notices.warnings();
    let texts: Vec<&str> = warnings.iter().map(|w| w.message()).collect();
    assert_eq!(texts, [WARNING], "{what}");
    assert_eq!(warnings[0].code().code(), "01000", "{what}");
    assert!(warnings[0].detail().is_some_and(|detail| !detail.is_empty()), "{what}");
}

/// All that a broken Redis may do: each call a miss, the first for `reason`, any later ones for it
/// or for the breaker; nothing hit, nothing filled; one warning.
#[track_caller]
pub fn expect(client: &mut Client, notices: &Notices, what: &str, reason: &str) {
    let counters = ten_answers(client, what);
    println!("{what}: {counters:?}");
    assert!(counters.reason(reason) >= 1, "{what}: {counters:?}");
    let named = counters.reason(reason) + counters.reason("breaker");
    assert_eq!(named, 10, "{what}: each call says why: {counters:?}");
    assert_eq!((counters.hits, counters.misses, counters.fills), (0, 10, 0), "{what}");
    one_warning(notices, what);
}
