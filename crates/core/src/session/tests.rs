//! What a session is written as, by example and by property.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const NOW_MS: u64 = 1_700_000_000_000;
const COOKIE_LESS: &str =
    r#""cookie":{"originalMaxAge":null,"expires":null,"httpOnly":true,"path":"/"}"#;

fn new(data: &str, ttl_ms: Option<u64>) -> Result<Written, Error> {
    written(data, None, ttl_ms, NOW_MS)
}

fn refused(data: &str) -> error::Session {
    match new(data, None) {
        Err(Error::Session(error)) => error,
        other => panic!("{data}: {other:?}"),
    }
}

#[test]
fn an_id_is_all_of_its_random_bits_in_letters_that_a_cookie_takes() {
    // Danger: an id that is shorter than it looks, or that a browser sends back changed.
    assert_eq!(id(&[0; 32]), "A".repeat(43));
    assert_eq!(id(&[255; 32]), format!("{}8", "_".repeat(42)));
    let mut seen = BTreeSet::new();
    for bit in 0..256 {
        let mut random = [0; 32];
        random[bit / 8] = 1 << (bit % 8);
        let id = id(&random);
        assert_eq!(id.len(), 43);
        assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{id}");
        assert!(seen.insert(id));
    }
    // As RFC 4648 has it, of the bytes 0 to 31.
    let counted: [u8; 32] = std::array::from_fn(|at| at as u8);
    assert_eq!(id(&counted), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
}

#[test]
fn an_id_of_no_length_or_a_great_one_is_no_session() {
    // Danger: every caller without a cookie shares the session "sess:".
    assert_eq!(key(b"sess:", b""), Err(error::Session::IdEmpty.into()));
    assert_eq!(key(b"sess:", b"abc"), Ok(b"sess:abc".to_vec()));
    assert!(key(b"sess:", &[b'x'; ID_BYTES_MAX]).is_ok());
    assert!(key(b"sess:", &[b'x'; ID_BYTES_MAX + 1]).is_err());
}

#[test]
fn a_session_without_a_cookie_gets_the_one_that_express_would_make() {
    // Danger: express-session reads sess.cookie.expires, and fails on a session without a cookie.
    let written = new(r#"{"user": 7}"#, None).unwrap();
    assert_eq!(written.text, format!(r#"{{"user":7,{COOKIE_LESS}}}"#));
    assert_eq!(written.ttl_ms, TTL_MS);
    let partly = new(r#"{"cookie": {"secure": true}}"#, None).unwrap();
    let cookie = r#""secure":true,"originalMaxAge":null,"expires":null,"httpOnly":true,"path":"/""#;
    assert_eq!(partly.text, format!(r#"{{"cookie":{{{cookie}}}}}"#));
}

#[test]
fn the_ttl_is_what_was_asked_for_then_the_cookies_then_a_day() {
    // Danger: a session that outlives its cookie, or one that ends while the user works.
    let ttl = |cookie: &str| new(&format!(r#"{{"cookie": {cookie}}}"#), None).map(|w| w.ttl_ms);
    assert_eq!(
        ttl(r#"{"originalMaxAge": 60000, "expires": "2001-01-01T00:00:00.000Z"}"#),
        Ok(60000)
    );
    assert_eq!(ttl(r#"{"originalMaxAge": 1500.7}"#), Ok(1500));
    assert_eq!(ttl(r#"{"originalMaxAge": 1e300}"#), Ok(253_402_300_799_999));
    assert_eq!(ttl(r#"{"originalMaxAge": null, "expires": null}"#), Ok(TTL_MS));
    assert_eq!(ttl(r#"{"expires": "2023-11-14T22:13:30.000Z"}"#), Ok(10_000));
    assert_eq!(ttl(r#"{"expires": "not a date"}"#), Ok(TTL_MS));
    for gone in [
        r#"{"originalMaxAge": 0}"#,
        r#"{"originalMaxAge": -5}"#,
        r#"{"expires": "2023-11-14T22:13:20.000Z"}"#,
    ] {
        assert_eq!(ttl(gone), Err(error::Session::CookieExpired.into()), "{gone}");
    }
    let asked = new(r#"{"cookie": {"originalMaxAge": 1}}"#, Some(10_000)).unwrap();
    assert_eq!(asked.ttl_ms, 10_000);
    // The same second in the cookie, and in the place that the member had.
    let cookie = r#""originalMaxAge":10000,"expires":"2023-11-14T22:13:30.000Z""#;
    assert_eq!(asked.text, format!(r#"{{"cookie":{{{cookie},"httpOnly":true,"path":"/"}}}}"#));
}

#[test]
fn what_is_no_session_is_refused() {
    // Danger: a list under the key, which the application takes for a session and dies of.
    assert_eq!(refused("[1]"), error::Session::NotObject { what: "data" });
    assert_eq!(refused("null"), error::Session::NotObject { what: "data" });
    assert_eq!(refused(r#"{"cookie": 1}"#), error::Session::NotObject { what: "cookie" });
    assert_eq!(refused(r#"{"cookie": null}"#), error::Session::NotObject { what: "cookie" });
}

#[test]
fn what_sql_does_not_change_stays_as_the_application_wrote_it() {
    // Danger: 1e21 and 0.10 come back in jsonb's spelling, and the members in jsonb's order.
    let text = format!(r#"{{{COOKIE_LESS},"zz":1e21,"views":3,"a":{{"y":1,"b":[1.0]}}}}"#);
    let cookie = r#"{"path": "/", "expires": null, "httpOnly": true, "originalMaxAge": null}"#;
    let rest = r#""a": {"b": [1.0], "y": 1}"#;
    let big = "1000000000000000000000";
    let jsonb = format!(r#"{{{rest}, "zz": {big}, "views": 3, "cookie": {cookie}}}"#);
    let data = jsonb.replace("\"views\": 3", "\"views\": 4, \"new\": [1, 2]");
    let before = Before { text: &text, jsonb: &jsonb };
    let after = written(&data, Some(before), None, NOW_MS).unwrap().text;
    let expected = text.replace("\"views\":3", "\"views\":4");
    assert_eq!(after, expected.replace("[1.0]}}", "[1.0]},\"new\":[1, 2]}"));
    // Without its cookie in the data, the session keeps it.
    let after = written("{\"only\": 1}", Some(before), None, NOW_MS).unwrap().text;
    assert_eq!(after, format!(r#"{{{COOKIE_LESS},"only":1}}"#));
}

#[test]
fn a_session_that_is_no_json_is_not_written_over() {
    // Danger: an application with a serializer of its own loses its sessions to the first call.
    let before = Before { text: "\u{1}binary", jsonb: "{}" };
    let unreadable = Err(error::Session::Unreadable.into());
    assert_eq!(written("{}", Some(before), None, NOW_MS), unreadable);
}

proptest! {
    #[test]
    fn whatever_is_written_is_json_with_all_members_and_a_cookie(
        names in proptest::collection::btree_set(".{0,8}", 0..6),
        value in any::<i64>(),
        ttl_ms in proptest::option::of(1..u64::MAX),
        now_ms in any::<u64>(),
    ) {
        // Danger: a name with a quote in it breaks the text for every reader, or a far date panics.
        let members = names.iter().map(|name| (name.clone(), serde_json::json!([value, name])));
        let mut data: serde_json::Map<String, serde_json::Value> = members.collect();
        data.remove("cookie");
        let text = serde_json::Value::from(data.clone()).to_string();
        let written = written(&text, None, ttl_ms, now_ms).unwrap();
        let mut read: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&written.text).unwrap();
        let cookie = read.remove("cookie").unwrap();
        prop_assert_eq!(read, data);
        prop_assert!(written.ttl_ms >= 1);
        prop_assert_eq!(cookie["expires"].is_null(), ttl_ms.is_none());
    }
}
