//! A real application and SQL share sessions: Express, express-session, connect-redis.

use pg_cache_e2e::Scene;
use pg_cache_e2e::events::get;
use pg_cache_e2e::express::{Browser, Express};
use postgres::Client;
use serde_json::{Value, json};

fn session(client: &mut Client, id: &str) -> Option<Value> {
    let sql = "SELECT redis_session_get($1)::text";
    let text: Option<String> = client.query_one(sql, &[&id]).unwrap().get(0);
    text.map(|text| serde_json::from_str(&text).unwrap())
}

fn end(client: &mut Client, id: &str) -> bool {
    client.query_one("SELECT redis_session_end($1)", &[&id]).unwrap().get(0)
}

fn sign_in(browser: &mut Browser<'_>, path: &str) -> String {
    let answer = browser.post(&format!("{path}/login?user=ada"));
    answer["id"].as_str().unwrap().to_owned()
}

#[test]
fn sql_reads_changes_and_ends_a_session_that_the_application_made() {
    // Danger: a layout that only our own tests can read; a user who stays signed in.
    let scene = Scene::new();
    let mut client = scene.connect();
    let express = Express::start(&scene.redis);
    let mut browser = express.browser();
    let id = sign_in(&mut browser, "");
    let cookie = json!({"originalMaxAge": null, "expires": null, "httpOnly": true, "path": "/"});
    let data = json!({"user": "ada", "views": 0, "price": 1e21, "cookie": cookie});
    let read = session(&mut client, &id).unwrap();
    assert_eq!(read["user"], data["user"]);
    assert_eq!(read["cookie"], data["cookie"]);
    let change = "SELECT redis_session_set($1, redis_session_get($1) || '{\"role\": \"admin\"}')";
    let before = get(&scene.redis, &format!("sess:{id}")).unwrap();
    client.execute(change, &[&id]).unwrap();
    let after = get(&scene.redis, &format!("sess:{id}")).unwrap();
    assert_eq!(after, before.replace("\"price\":1e+21}", "\"price\":1e+21,\"role\":\"admin\"}"));
    assert_ne!(after, before);
    let expected = json!({"user": "ada", "views": 0, "price": 1e21, "role": "admin"});
    let me = browser.get("/me");
    assert_eq!((&me["id"], &me["data"]), (&json!(id), &expected));
    // The application writes it again, and SQL reads what both wrote.
    assert_eq!(browser.post("/view"), 1);
    let read = session(&mut client, &id).unwrap();
    assert_eq!((&read["views"], &read["role"]), (&json!(1), &json!("admin")));
    assert!(end(&mut client, &id));
    let me = browser.get("/me");
    assert_eq!(me["data"], json!({}));
    assert_ne!(me["id"], id.as_str());
    assert_eq!(session(&mut client, &id), None);
}

#[test]
fn the_application_uses_and_ends_a_session_that_sql_made() {
    // Danger: express-session fails on a session without a cookie, or does not find it.
    let scene = Scene::new();
    let mut client = scene.connect();
    let express = Express::start(&scene.redis);
    let mut browser = express.browser();
    let new = "SELECT redis_session_new('{\"user\": \"bob\", \"views\": 4}', '10 minutes')";
    let id: String = client.query_one(new, &[]).unwrap().get(0);
    browser.cookie = Some(browser.get(&format!("/signed/{id}")).as_str().unwrap().to_owned());
    let me = browser.get("/me");
    let data = json!({"user": "bob", "views": 4});
    assert_eq!(me, json!({"id": id, "data": data, "maxAge": 600_000}));
    assert_eq!(browser.post("/view"), 5);
    assert_eq!(session(&mut client, &id).unwrap()["views"], 5);
    let mut ttl = redis::cmd("TTL");
    let ttl: i64 = ttl.arg(format!("sess:{id}")).query(&mut scene.redis.client()).unwrap();
    assert!((590..=600).contains(&ttl), "the application does not keep the ttl: {ttl}");
    assert_eq!(browser.post("/logout"), true);
    assert_eq!(session(&mut client, &id), None);
    assert_eq!(browser.get("/me")["data"], json!({}));
}

#[test]
fn both_renew_a_session_by_the_same_rule() {
    // Danger: a user who works all day is signed out, or one who left stays signed in.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut redis = scene.redis.client();
    let express = Express::start(&scene.redis);
    let mut browser = express.browser();
    let id = sign_in(&mut browser, "/short");
    let key = format!("sess:{id}");
    let mut left_after = |renew: &mut dyn FnMut()| -> i64 {
        redis::cmd("EXPIRE").arg(&key).arg(30).exec(&mut redis).unwrap();
        renew();
        redis::cmd("TTL").arg(&key).query(&mut redis).unwrap()
    };
    let near = 590..=600;
    let renewed = left_after(&mut || drop(browser.get("/short/me")));
    assert!(near.contains(&renewed), "by the application: {renewed}");
    let touch = "SELECT redis_session_get($1, touch => true)";
    let renewed = left_after(&mut || assert_eq!(client.execute(touch, &[&id]).unwrap(), 1));
    assert!(near.contains(&renewed), "by a touch: {renewed}");
    let change = "SELECT redis_session_set($1, redis_session_get($1) || '{\"a\": 1}')";
    let renewed = left_after(&mut || assert_eq!(client.execute(change, &[&id]).unwrap(), 1));
    assert!(near.contains(&renewed), "by a change: {renewed}");
    let only_read = left_after(&mut || drop(session(&mut client, &id)));
    assert!(only_read <= 30, "a session that was only read lives longer: {only_read}");
}

#[test]
fn a_late_save_of_the_application_revives_only_with_its_own_store() {
    // Danger: what the documentation says of this is not so, in either direction.
    let scene = Scene::new();
    let mut client = scene.connect();
    let express = Express::start(&scene.redis);
    for (path, revives) in [("", true), ("/kept", false)] {
        let mut browser = express.browser();
        let id = sign_in(&mut browser, path);
        let mut slow = browser.send("POST", &format!("{path}/slow"));
        slow.wait_for("held");
        assert!(end(&mut client, &id));
        assert_eq!(express.browser().post("/go"), true);
        assert!(slow.rest().ends_with("0\r\n\r\n"), "the request did not end");
        assert_eq!(session(&mut client, &id).is_some(), revives, "{path}/slow");
        // A session that is there is saved by both.
        let mut browser = express.browser();
        let id = sign_in(&mut browser, path);
        assert_eq!(browser.post(&format!("{path}/view")), 1);
        assert_eq!(session(&mut client, &id).unwrap()["views"], 1);
    }
}

#[test]
fn the_store_of_the_documentation_is_the_one_that_was_tried() {
    // Danger: people copy a store that nobody ever ran.
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let store = |path: &str| {
        let text = std::fs::read_to_string(root.join(path)).unwrap();
        let (_, store) = text.split_once("class KeptStore").expect("the store");
        store.split_once("\n}\n").expect("its end").0.to_owned()
    };
    let page = store("docs/functions/redis_session_end.md");
    assert_eq!(store("tests/e2e/consumers/express/app.mjs"), page);
}
