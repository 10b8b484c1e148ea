//! A real application reads what was sent: redis-py subscribes, works in a consumer group, and
//! reads keys.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pg_cache_e2e::Scene;
use pg_cache_e2e::registry::repair;
use serde_json::{Value, json};

/// Wheels of pure Python, which it imports as they are.
const WHEELS: [[&str; 3]; 2] = [
    ["redis", "5.2.1", "ee7e1056b9aea0f04c6c2ed59452947f34c4940ee025f5dd83e6a6418b6989e4"],
    // For redis-py on a Python before 3.11.3.
    ["async-timeout", "4.0.3", "7405140ff1230c310e51dc27b3145b9092d659ce68ff733fb0cefe3ee42be028"],
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn fetch([name, version, sum]: [&str; 3]) -> String {
    let mut fetch = Command::new(root().join("scripts/fetch"));
    let output = fetch.args([name, version, sum, "--only-binary=:all:"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn an_application_in_python_hears_and_reads_what_was_committed() {
    // Danger: bytes that only our own tests can read.
    let scene = Scene::new();
    let mut client = scene.connect();
    let row = "AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION";
    client
        .batch_execute(&format!(
            "CREATE TABLE orders (id int PRIMARY KEY, customer int, total numeric(8, 2), note text);
             CREATE TRIGGER a {row} redis_publish('orders:{{customer}}');
             CREATE TRIGGER b {row} redis_stream('orders', 'maxlen=1000');
             CREATE TRIGGER c {row} redis_store('order:{{id}}', 'ttl=1 hour');
             CREATE TRIGGER d {row} redis_store('order:{{id}}:hash', 'as=hash');
             CREATE TRIGGER e AFTER INSERT ON orders FOR EACH ROW
                 EXECUTE FUNCTION redis_job('mailer', 'columns=id');"
        ))
        .unwrap();
    repair(&mut client);
    let wheels = WHEELS.map(fetch).join(":");
    let mut consumer = Command::new("python3")
        .arg(root().join("tests/e2e/consumers/consumer.py"))
        .arg(scene.redis.socket())
        .args(["5", "3"])
        .env("PYTHONPATH", wheels)
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    let mut lines = BufReader::new(consumer.stdout.take().unwrap()).lines();
    let mut heard = || -> (String, Value) {
        let line = lines.next().expect("the consumer goes on").unwrap();
        serde_json::from_str(&line).unwrap()
    };
    assert_eq!(heard().0, "ready");
    for sql in [
        "INSERT INTO orders VALUES (1, 7, 12.50, 'né \"e\"'), (2, 8, 3, NULL), (3, 7, 1, 'x')",
        "BEGIN; DELETE FROM orders; ROLLBACK",
        "UPDATE orders SET total = 13 WHERE id = 1; DELETE FROM orders WHERE id = 3",
    ] {
        client.batch_execute(sql).unwrap();
    }
    let what = |event: &Value| json!([event["op"], event["key"]["id"], event["new"]["total"]]);
    let expected = [
        json!(["INSERT", 1, 12.50]),
        json!(["INSERT", 2, 3.00]),
        json!(["INSERT", 3, 1.00]),
        json!(["UPDATE", 1, 13.00]),
        json!(["DELETE", 3, null]),
    ];
    for (expected, channel) in expected.iter().zip([7, 8, 7, 7, 7]) {
        let (kind, message) = heard();
        assert_eq!((kind.as_str(), &message[0]), ("message", &json!(format!("orders:{channel}"))));
        assert_eq!(what(&message[1]), *expected);
    }
    for expected in &expected {
        let (kind, event) = heard();
        assert_eq!((kind.as_str(), &what(&event)), ("orders", expected));
    }
    assert_eq!(heard(), ("pending".to_owned(), json!(0)));
    for id in 1..=3 {
        let (kind, payload) = heard();
        assert_eq!((kind.as_str(), &payload["new"]), ("mailer", &json!({"id": id})));
    }
    assert_eq!(heard(), ("pending".to_owned(), json!(0)));
    let stored = json!({"id": 1, "customer": 7, "total": 13.00, "note": "né \"e\""});
    assert_eq!(heard(), ("stored".to_owned(), stored));
    let hash = json!({"id": "2", "customer": "8", "total": "3.00"});
    assert_eq!(heard(), ("hash".to_owned(), hash));
    assert_eq!(heard(), ("deleted".to_owned(), json!(0)));
    assert!(consumer.wait().unwrap().success());
}
