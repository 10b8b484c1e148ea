//! Replies of every type, whole and in pieces, against a model and by example.

use std::borrow::Cow;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn utf8(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))?;
    Some(Cow::Borrowed(text.as_bytes()))
}

fn nothing(_: &[u8]) -> Option<Cow<'_, [u8]>> {
    None
}

#[track_caller]
fn as_json(reply: &[u8]) -> Value {
    match answer(reply, &utf8).unwrap() {
        Answer::Json(json) => serde_json::from_slice(&json).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn as_text(reply: &[u8]) -> String {
    match answer(reply, &utf8).unwrap() {
        Answer::Json(json) => String::from_utf8(json).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_type_becomes_what_the_documents_say() {
    // Danger: a type that comes out as something else than a program was written for.
    for (reply, expected) in [
        (&b"+OK\r\n"[..], json!("OK")),
        (b"$5\r\nhe\"lo\r\n", json!("he\"lo")),
        (b"$0\r\n\r\n", json!("")),
        (b"$4\r\na\r\nb\r\n", json!("a\r\nb")),
        (b"=8\r\ntxt:k\xc3\xa4s\r\n", json!("käs")),
        (b"=4\r\nmkd:\r\n", json!("")),
        (b":-42\r\n", json!(-42)),
        (b",1.5\r\n", json!(1.5)),
        (b"#t\r\n", json!(true)),
        (b"#f\r\n", json!(false)),
        (b",inf\r\n", json!("Infinity")),
        (b",-inf\r\n", json!("-Infinity")),
        (b",nan\r\n", json!("NaN")),
        (b"*0\r\n", json!([])),
        (b"*3\r\n:1\r\n_\r\n$-1\r\n", json!([1, null, null])),
        (b"~2\r\n$1\r\na\r\n$1\r\nb\r\n", json!(["a", "b"])),
        (b"%1\r\n$1\r\na\r\n*1\r\n#t\r\n", json!({"a": [true]})),
        (b"%0\r\n", json!({})),
        (b"%1\r\n:1\r\n:2\r\n", json!([[1, 2]])),
        (b"%2\r\n+a\r\n:1\r\n$1\r\na\r\n:2\r\n", json!([["a", 1], ["a", 2]])),
        (b"%1\r\n$1\r\n\xff\r\n:2\r\n", json!([[{"base64": "/w=="}, 2]])),
        (b"$3\r\n\xff\x00a\r\n", json!({"base64": "/wBh"})),
        (b"$1\r\n\x00\r\n", json!({"base64": "AA=="})),
        (b"*1\r\n-WRONGTYPE no\r\n", json!([{"error": "WRONGTYPE no"}])),
        (b"*1\r\n!8\r\nERR a\r\nb\r\n", json!([{"error": "ERR a\r\nb"}])),
        (b"|1\r\n+ttl\r\n:3600\r\n:7\r\n", json!(7)),
        (b"*2\r\n|1\r\n+ttl\r\n:3600\r\n:7\r\n:8\r\n", json!([7, 8])),
        (b">2\r\n+message\r\n+x\r\n:7\r\n", json!(7)),
        (b"*-1\r\n", Value::Null),
    ] {
        let expected = (expected != Value::Null).then_some(expected);
        let found = match answer(reply, &utf8).unwrap() {
            Answer::Json(json) => Some(serde_json::from_slice(&json).unwrap()),
            Answer::Null => None,
            Answer::Error { .. } => panic!("{}", reply.escape_ascii()),
        };
        assert_eq!(found, expected, "{}", reply.escape_ascii());
    }
}

#[test]
fn numbers_keep_every_digit() {
    // Danger: a counter or an id comes out rounded.
    for (reply, expected) in [
        (&b"(3492890328409238509324850943850943\r\n"[..], "3492890328409238509324850943850943"),
        (b"(-007\r\n", "-7"),
        (b"(+0\r\n", "0"),
        (b":9223372036854775807\r\n", "9223372036854775807"),
        (b",0.1\r\n", "0.1"),
        (b",0.10000000000000001\r\n", "0.1"),
        (b",10\r\n", "10"),
        (b",1e300\r\n", "1e300"),
        (b",5e-324\r\n", "5e-324"),
        (b"(12a\r\n", "\"12a\""),
        (b"(\r\n", "\"\""),
    ] {
        assert_eq!(as_text(reply), expected, "{}", reply.escape_ascii());
    }
    let huge = [b"(", &vec![b'9'; 200_000][..], b"\r\n"].concat();
    assert!(as_text(&huge).starts_with('"'), "no numeric has so many digits");
}

#[test]
fn an_error_has_its_code_apart() {
    // Danger: the SQLSTATE hangs on the code.
    let error = |code: &str, detail: &str| {
        Ok(Answer::Error { code: code.to_owned(), detail: detail.to_owned() })
    };
    assert_eq!(answer(b"-ERR no such key\r\n", &utf8), error("ERR", "no such key"));
    assert_eq!(answer(b"-BUSY\r\n", &utf8), error("BUSY", ""));
    assert_eq!(answer(b"-ERR \xc3\r\n", &utf8), error("ERR", "\u{fffd}"));
}

#[test]
fn depth_has_a_limit() {
    // Danger: a script's reply runs the backend out of stack, and takes all others down.
    let nested = |depth: usize| [b"*1\r\n".repeat(depth), b":1\r\n".to_vec()].concat();
    assert!(answer(&nested(DEPTH_MAX), &utf8).is_ok());
    assert_eq!(answer(&nested(DEPTH_MAX + 1), &utf8), Err(Flaw::TooDeep));
    assert_eq!(answer(&nested(1_000_000), &utf8), Err(Flaw::TooDeep));
    let mut skim = Skim::default();
    let deep = nested(1_000_000);
    assert_eq!(skim.go_on(&deep), Progress::Complete { used: deep.len() });
}

#[test]
fn what_is_announced_need_not_come() {
    // Danger: a head of some bytes makes the backend reserve gigabytes.
    for head in [&b"*9223372036854775807\r\n"[..], b"%9223372036854775807\r\n", b"$99999999999\r\n"]
    {
        assert!(matches!(Skim::default().go_on(head), Progress::Incomplete { .. }));
        assert!(matches!(answer(head, &utf8), Err(Flaw::Malformed(_))));
    }
    let longest = b"$9223372036854775807\r\n";
    assert!(!matches!(Skim::default().go_on(longest), Progress::Complete { .. }));
}

#[test]
fn what_is_no_reply_is_refused() {
    // Danger: something that is not Redis is read as an answer.
    for bytes in
        [&b"HTTP/1.1 200 OK\r\n"[..], b"$3\r\nabcde\r\n", b"$x\r\n", b"*-2\r\n", b"+a\n", b"\r\n"]
    {
        assert!(matches!(Skim::default().go_on(bytes), Progress::Malformed(_)));
        assert!(matches!(answer(bytes, &utf8), Err(Flaw::Malformed(_))));
    }
    for bytes in [&b"#x\r\n"[..], b",one\r\n"] {
        assert!(matches!(answer(bytes, &utf8), Err(Flaw::Malformed(_))));
    }
}

#[test]
fn base64_is_that_of_the_standard() {
    // Danger: decode(…, 'base64') gives other bytes. The pairs are those of RFC 4648.
    for (bytes, text) in [
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ] {
        let reply = format!("${}\r\n{bytes}\r\n", bytes.len());
        let json = format!("{{\"base64\":\"{text}\"}}").into_bytes();
        assert_eq!(answer(reply.as_bytes(), &nothing), Ok(Answer::Json(json)));
    }
}

/// A reply as a model: what goes over the wire, and what JSON it must become.
#[derive(Debug, Clone)]
struct Modelled {
    wire: Vec<u8>,
    json: Value,
}

fn scalar() -> impl Strategy<Value = Modelled> {
    prop_oneof![
        any::<i64>().prop_map(|n| Modelled { wire: format!(":{n}\r\n").into(), json: json!(n) }),
        any::<bool>().prop_map(|b| {
            let wire = if b { &b"#t\r\n"[..] } else { b"#f\r\n" };
            Modelled { wire: wire.to_vec(), json: json!(b) }
        }),
        Just(Modelled { wire: b"_\r\n".to_vec(), json: Value::Null }),
        text().prop_map(|text| Modelled { wire: bulk(&text), json: json!(text) }),
    ]
}

/// Any text without NUL, which has a form of its own.
fn text() -> impl Strategy<Value = String> {
    "[^\u{0}]{0,12}"
}

fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

fn modelled() -> impl Strategy<Value = Modelled> {
    scalar().prop_recursive(5, 64, 6, |inner| {
        let list = prop::collection::vec(inner.clone(), 0..6);
        let map = prop::collection::btree_map(text(), inner, 0..6);
        prop_oneof![
            (list, prop::bool::ANY).prop_map(|(members, is_set)| {
                let kind = if is_set { '~' } else { '*' };
                let mut wire = format!("{kind}{}\r\n", members.len()).into_bytes();
                wire.extend(members.iter().flat_map(|member| member.wire.clone()));
                let json = members.into_iter().map(|member| member.json).collect();
                Modelled { wire, json: Value::Array(json) }
            }),
            map.prop_map(|members| {
                let mut wire = format!("%{}\r\n", members.len()).into_bytes();
                for (key, value) in &members {
                    wire.extend(bulk(key));
                    wire.extend(&value.wire);
                }
                let json = members.into_iter().map(|(key, value)| (key, value.json)).collect();
                Modelled { wire, json: Value::Object(json) }
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_reply_is_the_json_of_its_model(reply in modelled()) {
        // Danger: a combination of types that nobody wrote a case for.
        match answer(&reply.wire, &utf8) {
            Ok(Answer::Null) => prop_assert_eq!(reply.json, Value::Null),
            Ok(Answer::Json(json)) => {
                prop_assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), reply.json);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_reply_is_complete_at_its_last_byte(
        reply in modelled(),
        pieces in prop::collection::vec(1usize..9, 1..40),
    ) {
        // Danger: a reply cut short, whose rest answers the next question; or a wait for bytes
        // that never come.
        let whole = reply.wire.len();
        let mut skim = Skim::default();
        let mut come = 0;
        for piece in pieces.iter().cycle() {
            let progress = skim.go_on(&reply.wire[..come]);
            if come == whole {
                prop_assert_eq!(progress, Progress::Complete { used: whole });
                break;
            }
            let Progress::Incomplete { at_least } = progress else {
                return Err(TestCaseError::fail(format!("{progress:?} after {come} bytes")));
            };
            prop_assert!(at_least > come && at_least <= whole, "{} of {}", at_least, whole);
            come = (come + piece).min(whole);
        }
        // What follows belongs to somebody else.
        let more = [&reply.wire[..], b":1\r\n"].concat();
        prop_assert_eq!(Skim::default().go_on(&more), Progress::Complete { used: whole });
    }

    #[test]
    fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        // Danger: a panic on what some other server sends.
        let _ = answer(&bytes, &utf8);
        let _ = Skim::default().go_on(&bytes);
    }

    #[test]
    fn bytes_come_out_as_they_were(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        // Danger: a value that is not text is changed on the way.
        let reply = [format!("${}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n"].concat();
        match as_json(&reply) {
            Value::String(text) => prop_assert_eq!(text.as_bytes(), &bytes[..]),
            Value::Object(form) => {
                prop_assert!(utf8(&bytes).is_none());
                let text = form["base64"].as_str().unwrap();
                prop_assert_eq!(decoded(text), bytes);
            }
            other => prop_assert!(false, "{}", other),
        }
    }
}

fn decoded(text: &str) -> Vec<u8> {
    let digits = text.bytes().filter(|byte| *byte != b'=').map(|byte| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    });
    let mut bytes = Vec::new();
    let (mut word, mut bits) = (0u32, 0);
    for digit in digits {
        word = word << 6 | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
        }
    }
    bytes
}

#[test]
fn an_error_is_found_wherever_it_stands() {
    // Danger: a command whose answer holds a refusal counts as done.
    for (reply, expected) in [
        (&b"-ERR no\r\n"[..], Some(&b"ERR no"[..])),
        (b"!6\r\nERR no\r\n", Some(b"ERR no")),
        (b"*2\r\n:1\r\n*1\r\n-OOM\r\n", Some(b"OOM")),
        (b"%1\r\n+a\r\n-OOM\r\n", Some(b"OOM")),
        (b">1\r\n+tell\r\n-OOM\r\n", Some(b"OOM")),
        (b"*1\r\n+OK\r\n", None),
        (b"$6\r\n-ERR n\r\n", None),
    ] {
        assert_eq!(read(reply).unwrap().error(), expected, "{}", reply.escape_ascii());
    }
}
