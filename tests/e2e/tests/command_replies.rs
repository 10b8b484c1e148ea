//! Whatever Redis can reply becomes JSON that holds all of it.

use pg_cache_e2e::Scene;
use pg_cache_e2e::outcome::{sqlstate, words};
use pg_cache_testbed::Redis;
use postgres::Client;
use postgres::types::ToSql;
use serde_json::{Value, json};

/// A Redis that lets itself be debugged: it can be made to send every type.
fn scene() -> Scene {
    Scene::with_redis(|| Redis::start_with(&["--enable-debug-command", "yes"]))
}

/// The reply as PostgreSQL has it.
#[track_caller]
fn reply(client: &mut Client, command: &[&str]) -> Option<Value> {
    let text: Option<String> =
        try_reply(client, command).unwrap_or_else(|e| panic!("{}", words(&e)));
    text.map(|text| serde_json::from_str(&text).unwrap())
}

fn try_reply(client: &mut Client, command: &[&str]) -> Result<Option<String>, postgres::Error> {
    let (name, arguments) = command.split_first().unwrap();
    let parameters: [&(dyn ToSql + Sync); 2] = [name, &arguments];
    let sql = "SELECT redis_command($1, VARIADIC $2)::text";
    client.query_one(sql, &parameters).map(|row| row.get(0))
}

#[test]
fn each_type_that_a_server_can_send_is_mapped() {
    // Danger: a type that nobody has seen from a real server.
    let scene = scene();
    let mut client = scene.connect();
    for (kind, expected) in [
        ("string", json!("Hello World")),
        ("integer", json!(12345)),
        ("double", serde_json::from_str("3.141").unwrap()),
        ("null", Value::Null),
        ("array", json!([0, 1, 2])),
        ("set", json!([0, 1, 2])),
        // Its keys are numbers, which an object cannot have.
        ("map", json!([[0, false], [1, true], [2, false]])),
        ("attrib", json!("Some real reply following the attribute")),
        ("verbatim", json!("This is a verbatim\nstring")),
        ("true", json!(true)),
        ("false", json!(false)),
    ] {
        let found = reply(&mut client, &["DEBUG", "PROTOCOL", kind]);
        assert_eq!(found, (expected != Value::Null).then_some(expected), "{kind}");
    }
    let push = reply(&mut scene.connect(), &["DEBUG", "PROTOCOL", "push"]);
    // From Redis 7.2 on it comes behind the reply, where nothing of ours makes one come.
    assert_eq!(push, Some(json!("Some real reply following the push reply")));
    let exact = try_reply(&mut client, &["DEBUG", "PROTOCOL", "bignum"]).unwrap();
    assert_eq!(exact.as_deref(), Some("1234567999999999999999999999999999999"));
    // The connection is in step after each of them.
    assert_eq!(reply(&mut client, &["ECHO", "x"]), Some(json!("x")));
}

#[test]
fn each_type_that_a_script_can_return_is_mapped() {
    // Danger: as above, for what stands inside of lists and maps.
    let scene = scene();
    let mut client = scene.connect();
    for (script, expected) in [
        ("return {1, 'two', {3, {4}}, false}", json!([1, "two", [3, [4]], null])),
        ("redis.setresp(3) return {true, false}", json!([true, false])),
        ("return {double = 0.1}", json!(0.1)),
        ("return {double = 1e300}", json!(1e300)),
        ("return {double = 10}", json!(10)),
        ("return {double = 1/0}", json!("Infinity")),
        ("return {double = -1/0}", json!("-Infinity")),
        ("return {map = {a = 1}}", json!({"a": 1})),
        ("return {map = {}}", json!({})),
        ("return {set = {a = true}}", json!(["a"])),
        ("return {set = {}}", json!([])),
        ("return {verbatim_string = {format = 'txt', string = 'grün'}}", json!("grün")),
        ("return {ok = 'fine'}", json!("fine")),
        ("return {1, {err = 'WRONGTYPE no'}, 2}", json!([1, {"error": "WRONGTYPE no"}, 2])),
        ("return {map = {[1] = 'one'}}", json!([[1, "one"]])),
        ("return {map = {['\\255'] = 1}}", json!([[{"base64": "/w=="}, 1]])),
        ("return '\\255\\0'", json!({"base64": "/wA="})),
        ("return {'a\\0b', 'ab'}", json!([{"base64": "YQBi"}, "ab"])),
        ("return '\\1\\31\\127\"\\\\'", json!("\u{1}\u{1f}\u{7f}\"\\")),
        (
            "return {verbatim_string = {format = 'txt', string = '\\255'}}",
            json!({"base64": "/w=="}),
        ),
        ("return {}", json!([])),
    ] {
        assert_eq!(reply(&mut client, &["EVAL", script, "0"]), Some(expected), "{script}");
    }
    assert_eq!(
        reply(&mut client, &["EVAL", "return {double = 0/0}", "0"])
            .map(|v| v.to_string().to_lowercase().replace('-', "")),
        Some("\"nan\"".to_owned())
    );
    assert_eq!(reply(&mut client, &["EVAL", "return nil", "0"]), None);
    let exact = try_reply(
        &mut client,
        &["EVAL", "return {big_number = '-0123456789012345678901234567890'}", "0"],
    );
    assert_eq!(exact.unwrap().as_deref(), Some("-123456789012345678901234567890"));
}

#[test]
fn data_types_come_as_one_would_write_them_in_json() {
    // Danger: HGETALL as a flat list, as in the old protocol.
    let scene = scene();
    let mut client = scene.connect();
    for (command, expected) in [
        (&["HSET", "h", "name", "Ada", "age", "36"][..], json!(2)),
        (&["HGETALL", "h"], json!({"name": "Ada", "age": "36"})),
        (&["SADD", "s", "x"], json!(1)),
        (&["SMEMBERS", "s"], json!(["x"])),
        (&["ZADD", "z", "1.5", "m"], json!(1)),
        (&["ZRANGE", "z", "0", "-1", "WITHSCORES"], json!([["m", 1.5]])),
        (&["ZSCORE", "z", "m"], json!(1.5)),
        (&["XADD", "x", "1-1", "f", "v"], json!("1-1")),
        (&["XREAD", "STREAMS", "x", "0"], json!({"x": [["1-1", ["f", "v"]]]})),
        (&["SET", "k", "v"], json!("OK")),
        (&["set", "k", "v", "nx"], Value::Null),
        (&["EXISTS", "k", "none"], json!(1)),
        (&["MGET", "k", "none"], json!(["v", null])),
        (&["CLIENT", "GETNAME"], json!(format!("pg_cache:{}:", scene.database()))),
    ] {
        let found = reply(&mut client, command).unwrap_or(Value::Null);
        match (command[0], found.as_str(), expected.as_str()) {
            ("CLIENT", Some(found), Some(expected)) => assert!(found.starts_with(expected)),
            _ => assert_eq!(found, expected, "{command:?}"),
        }
    }
}

#[test]
fn a_reply_has_limits_of_size_and_depth() {
    // Danger: one command takes all memory, or the stack; or the next one gets its answer.
    let scene = scene();
    let mut client = scene.connect();
    client.batch_execute("SET pg_cache.timeout_ms = 5000").unwrap();
    let deep =
        |depth: usize| format!("local t = {{}} for i = 2, {depth} do t = {{t}} end return t");
    let found = try_reply(&mut client, &["EVAL", &deep(150), "0"]).unwrap().unwrap();
    assert_eq!(found, "[".repeat(150) + &"]".repeat(150));
    let error = try_reply(&mut client, &["EVAL", &deep(250), "0"]).unwrap_err();
    assert_eq!(sqlstate(&error), "54000", "{}", words(&error));
    assert!(words(&error).contains("nested too deeply"), "{}", words(&error));
    client.batch_execute("SET pg_cache.value_bytes_max = 100000").unwrap();
    for script in [
        "return string.rep('x', 2000000)",
        "local t = {} for i = 1, 200000 do t[i] = i end return t",
        "return {ok = string.rep('x', 2000000)}",
    ] {
        let error = try_reply(&mut client, &["EVAL", script, "0"]).unwrap_err();
        assert_eq!(sqlstate(&error), "54000", "{script}: {}", words(&error));
        assert!(words(&error).contains("value_bytes_max"), "{}", words(&error));
        assert_eq!(reply(&mut client, &["ECHO", script]), Some(json!(script)));
    }
    let get = "SELECT redis_command('SET', 'k', repeat('x', 90000))";
    client.batch_execute(get).unwrap();
    client.batch_execute("SET pg_cache.value_bytes_max = 0").unwrap();
    // The limit is that of a value; some room is left for what stands around it.
    assert!(client.batch_execute("SELECT redis_get('k')").is_ok());
}

#[test]
fn a_reply_of_many_pieces_is_read_whole() {
    // Danger: a reply that comes in many reads, of which one is lost or read twice.
    let scene = scene();
    let mut client = scene.connect();
    client.batch_execute("SET pg_cache.timeout_ms = 10000").unwrap();
    let script = "local t = {} for i = 1, 100000 do t[i] = 'member ' .. i end return t";
    let found = reply(&mut client, &["EVAL", script, "0"]).unwrap();
    let members = found.as_array().unwrap();
    assert_eq!(members.len(), 100_000);
    assert!(members.iter().enumerate().all(|(n, member)| *member == format!("member {}", n + 1)));
    let script = "return string.rep('0123456789', 300000)";
    let found = reply(&mut client, &["EVAL", script, "0"]).unwrap();
    assert_eq!(found.as_str().unwrap(), "0123456789".repeat(300_000));
}

#[test]
fn other_encodings_get_their_own_text_or_the_bytes() {
    // Danger: a jsonb whose bytes are of another encoding than the database's.
    let scene = scene();
    let name = format!("{}_latin1", scene.database());
    let create = "ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'";
    scene.postgres().connect().batch_execute(&format!("CREATE DATABASE {name} {create}")).unwrap();
    scene.prepare_database(&name);
    scene.postgres().create_extension(&name);
    scene.postgres().register(&name);
    let mut client = scene.connect_to("postgres", &name);
    scene.redis.cli(&["SET", "german", "grün"]);
    scene.redis.cli(&["SET", "greek", "π"]);
    assert_eq!(reply(&mut client, &["GET", "german"]), Some(json!("grün")));
    assert_eq!(reply(&mut client, &["GET", "greek"]), Some(json!({"base64": "z4A="})));
    assert_eq!(reply(&mut client, &["ECHO", "ä"]), Some(json!("ä")));
    let length = "SELECT octet_length(redis_get('german'))";
    assert_eq!(client.query_one(length, &[]).unwrap().get::<_, i32>(0), 4);
    let error = client.batch_execute("SELECT redis_get('greek')").unwrap_err();
    assert_eq!(sqlstate(&error), "22021");
}
