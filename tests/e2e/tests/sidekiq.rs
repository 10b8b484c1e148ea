//! Jobs for Sidekiq: a real server runs what a committed transaction put there, and nothing else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::registry::repair;
use pg_cache_e2e::sidekiq::{Sidekiq, ran};
use pg_cache_e2e::{Scene, outbox};
use pg_cache_testbed::eventually;
use postgres::Client;
use redis::Commands;
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(30);

/// Enqueues a Mailer and returns the id that SQL was told.
fn enqueue(client: &mut Client, args: &Value, more: &str) -> String {
    let payload = json!({"class": "Mailer", "args": args}).to_string();
    let sql = format!("SELECT redis_enqueue('mail', ($1::text)::jsonb, format => 'sidekiq'{more})");
    client.query_one(&sql, &[&payload]).unwrap_or_else(|error| panic!("{error:?}")).get(0)
}

fn sent(client: &mut Client) {
    eventually(LONG, "all is sent", || {
        outbox::wake(client);
        outbox::rows(client) == 0
    });
}

#[test]
fn a_real_server_runs_jobs_at_once_and_scheduled_of_what_was_committed() {
    // Danger: jobs that only our own tests take for Sidekiq's; one of a transaction that failed.
    let scene = Scene::new();
    let mut client = scene.connect();
    let sidekiq = Sidekiq::start(&scene.redis, "mail");
    client.batch_execute("BEGIN").unwrap();
    enqueue(&mut client, &json!(["undone"]), "");
    client.batch_execute("ROLLBACK; BEGIN").unwrap();
    let args = json!([7, "né \"x\"", {"a": [1.5, null]}]);
    let jid = enqueue(&mut client, &args, "");
    assert!(jid.len() == 24 && jid.bytes().all(|c| c.is_ascii_hexdigit()), "{jid}");
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let delayed = enqueue(&mut client, &json!(["later"]), ", delay => 3");
    let named = enqueue(&mut client, &json!(["named"]), ", id => 'invoice 7'");
    assert_eq!(named, "invoice 7");
    client.batch_execute("SAVEPOINT s").unwrap();
    enqueue(&mut client, &json!(["undone"]), ", delay => 1");
    client.batch_execute("ROLLBACK TO s; COMMIT").unwrap();
    eventually(LONG, "the jobs run", || ran(&scene.redis).len() >= 3);
    let jobs = ran(&scene.redis);
    let of = |jid: &str| {
        let mut found = jobs.iter().filter(|job| job["jid"] == jid);
        let job = found.next().unwrap_or_else(|| panic!("{jid} did not run: {jobs:?}"));
        assert!(found.next().is_none(), "{jid} ran twice");
        job
    };
    assert_eq!(of(&jid)["args"], args);
    assert_eq!(of("invoice 7")["args"], json!(["named"]));
    assert_eq!(of(&delayed)["args"], json!(["later"]));
    let waited = of(&delayed)["at"].as_f64().unwrap() - begun;
    assert!((2.9..30.0).contains(&waited), "the delayed job ran after {waited} s");
    assert_eq!(jobs.len(), 3, "{jobs:?}");
    drop(sidekiq);
}

/// The names and kinds of a job's members, and its arguments.
fn shape(text: &str) -> Value {
    let job: Value = serde_json::from_str(text).unwrap();
    let kind = |value: &Value| match value {
        Value::String(_) => json!("text"),
        Value::Number(number) if number.is_f64() => json!("a number with a fraction"),
        other => other.clone(),
    };
    let members = job.as_object().unwrap().iter().map(|(name, value)| (name.clone(), kind(value)));
    let members: std::collections::BTreeMap<String, Value> = members.collect();
    json!(members)
}

#[test]
fn a_job_of_sql_looks_like_one_of_sidekiqs_own_client() {
    // Danger: a key with another name, or a time in another unit, which a server passes over.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut redis = scene.redis.client();
    let _sidekiq = Sidekiq::start(&scene.redis, "mail");
    let sql = "SELECT redis_enqueue('idle', '{\"class\": \"Mailer\", \"args\": [1]}', \
                   format => 'sidekiq');
               SELECT redis_enqueue('idle', '{\"class\": \"Mailer\", \"args\": [2]}', 3600, \
                   format => 'sidekiq')";
    client.batch_execute(sql).unwrap();
    sent(&mut client);
    let queued: Vec<String> = redis.lrange("queue:idle", 0, -1).unwrap();
    let scheduled: Vec<(String, f64)> = redis.zrange_withscores("schedule", 0, -1).unwrap();
    for (jobs, what) in
        [(queued, "queued"), (scheduled.iter().map(|(job, _)| job.clone()).collect(), "scheduled")]
    {
        assert_eq!(jobs.len(), 2, "{what}: {jobs:?}");
        assert_eq!(shape(&jobs[0]), shape(&jobs[1]), "{what}: {jobs:?}");
    }
    assert!((scheduled[0].1 - scheduled[1].1).abs() < 60.0, "{scheduled:?}");
    let queues: Vec<String> = redis.smembers("queues").unwrap();
    assert_eq!(queues, ["idle"]);
}

#[test]
fn the_prefix_of_the_database_stands_before_sidekiqs_keys() {
    // Danger: two applications on one Redis take each other's jobs.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut redis = scene.redis.client();
    client.batch_execute("SELECT redis_register('app:')").unwrap();
    repair(&mut client);
    let at_once = enqueue(&mut client, &json!([1]), "");
    let later = enqueue(&mut client, &json!([2]), ", delay => '1 hour'");
    sent(&mut client);
    let mut keys: Vec<String> = redis.keys("app:*").unwrap();
    keys.sort();
    assert_eq!(keys, ["app:queue:mail", "app:queues", "app:schedule"]);
    let queued: Vec<String> = redis.lrange("app:queue:mail", 0, -1).unwrap();
    let job: Value = serde_json::from_str(&queued[0]).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    for time in ["created_at", "enqueued_at"] {
        assert!((now - job[time].as_f64().unwrap()).abs() < 60.0, "{job}");
    }
    assert_eq!((&job["jid"], &job["queue"]), (&json!(at_once), &json!("mail")));
    assert_eq!((&job["class"], &job["retry"]), (&json!("Mailer"), &json!(true)));
    let scheduled: Vec<(String, f64)> = redis.zrange_withscores("app:schedule", 0, -1).unwrap();
    let job: Value = serde_json::from_str(&scheduled[0].0).unwrap();
    assert_eq!(job["jid"], json!(later));
    assert!((scheduled[0].1 - now - 3600.0).abs() < 60.0, "{scheduled:?}");
    assert!(job.get("at").is_none() && job.get("enqueued_at").is_none(), "{job}");
}

#[test]
fn what_is_no_job_for_sidekiq_fails_where_it_is_made() {
    // Danger: a worker finds out, when the transaction is long over.
    let scene = Scene::new();
    let mut client = scene.connect();
    for (payload, more) in [
        ("[]", ""),
        (r#"{"args": []}"#, ""),
        (r#"{"class": "A"}"#, ""),
        (r#"{"class": "A", "args": [], "queue": "other"}"#, ""),
        (r#"{"class": "A", "args": [], "jid": "other"}"#, ", id => 'one'"),
        (r#"{"class": "A", "args": [], "at": 1}"#, ", delay => 5"),
        (r#"{"class": "A", "args": []}"#, ", id => ''"),
    ] {
        let sql = format!("SELECT redis_enqueue('q', '{payload}', format => 'sidekiq'{more})");
        let error = client.query(&sql, &[]).expect_err(&sql);
        assert_eq!(sqlstate(&error), "22023", "{sql}: {error:?}");
    }
    sent(&mut client);
    let keys: Vec<String> = scene.redis.client().keys("*queue*").unwrap();
    assert_eq!(keys, Vec::<String>::new());
}
