//! Queues beside what other programs put into Redis: nothing of theirs is taken apart.

use pg_cache_e2e::jobs::{dequeue, sent, standing, take, try_dequeue};
use pg_cache_e2e::{Scene, outcome};

#[test]
fn a_stream_that_is_no_queue_is_refused_and_left_alone() {
    // Danger: a slip in a name, and the events of another program are gone.
    let scene = Scene::new();
    let mut client = scene.connect();
    for n in ["1", "2", "3"] {
        scene.redis.cli(&["XADD", "events", "*", "event", n]);
    }
    let error = try_dequeue(&mut client, "events", ", 10").unwrap_err();
    assert_eq!(outcome::sqlstate(&error), "42809", "{error:?}");
    assert_eq!(scene.redis.cli(&["XLEN", "events"]).trim(), "3");
    assert_eq!(scene.redis.cli(&["XINFO", "GROUPS", "events"]).trim(), "", "no group either");
    assert_eq!(standing(&mut client, "events"), None, "and not listed");
    client.batch_execute("SELECT redis_ping()").unwrap();
}

#[test]
fn who_asks_for_jobs_of_a_name_leaves_nothing_there() {
    // Danger: a slip in a name makes a stream, and the program that owns the name fails.
    let scene = Scene::new();
    let (mut client, mut worker) = (scene.connect(), scene.connect());
    assert_eq!(take(&mut client, "free", ", 10, wait => 0.2"), [""; 0]);
    assert_eq!(scene.redis.cli(&["EXISTS", "free"]).trim(), "0");
    assert_eq!(standing(&mut client, "free"), None);
    // Whoever waits there all the same gets what comes.
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| take(&mut worker, "free", ", wait => 20"));
        client.batch_execute("SELECT redis_enqueue('free', '1', 0.2)").unwrap();
        assert_eq!(waits.join().unwrap(), ["1"]);
    });
    assert_eq!(standing(&mut client, "free"), Some([0, 1, 0, 0]));
}

#[test]
fn what_is_no_job_is_kept_whole_and_can_be_put_back() {
    // Danger: somebody's data is taken out of the stream, and nobody can say what it was.
    let scene = Scene::new();
    let mut client = scene.connect();
    scene.redis.cli(&["XADD", "q", "*", "id", "a", "payload", "1"]);
    assert_eq!(take(&mut client, "q", ""), ["1"]);
    scene.redis.cli(&["XADD", "q", "*", "event", "created", "order", "7"]);
    let unnamed = scene.redis.cli(&["XADD", "q", "*", "id", "", "payload", "2"]);
    assert_eq!(take(&mut client, "q", ", 10"), [""; 0]);
    let sql = "SELECT payload::jsonb = '{\"event\": \"created\", \"order\": \"7\"}'
                 FROM redis_dead('q') WHERE error = 'the entry has no payload'";
    assert!(client.query_one(sql, &[]).unwrap().get::<_, bool>(0), "all its fields");
    let requeue = "SELECT redis_requeue('q', $1)";
    let unnamed = unnamed.trim();
    assert!(client.query_one(requeue, &[&unnamed]).unwrap().get::<_, bool>(0));
    let job = dequeue(&mut client, "q", "").remove(0);
    assert_eq!((&job.id[..], &job.payload[..]), (unnamed, "2"));
}

#[test]
fn behind_many_that_are_no_jobs_stands_one() {
    // Danger: a worker is told that there is nothing while jobs are ready.
    let scene = Scene::new();
    let mut client = scene.connect();
    scene.redis.cli(&["XADD", "q", "*", "id", "a", "payload", "1"]);
    assert_eq!(take(&mut client, "q", ""), ["1"]);
    let mut pipeline = redis::pipe();
    for _ in 0..300 {
        pipeline.cmd("XADD").arg("q").arg("*").arg("event").arg("x").ignore();
    }
    pipeline.cmd("XADD").arg("q").arg("*").arg("payload").arg("2").ignore();
    pipeline.exec(&mut scene.redis.client()).unwrap();
    assert_eq!(take(&mut client, "q", ""), ["2"]);
    assert_eq!(standing(&mut client, "q"), Some([0, 2, 0, 300]));
}

#[test]
fn the_list_of_queues_loses_those_that_are_gone_and_holds_up_nobody() {
    // Danger: it grows for ever; or something else in its place stops the worker's relay.
    let scene = Scene::new();
    let mut client = scene.connect();
    scene.redis.cli(&["SADD", "pgc:queues", "ghost"]);
    assert_eq!(standing(&mut client, "ghost"), None);
    assert_eq!(scene.redis.cli(&["SISMEMBER", "pgc:queues", "ghost"]).trim(), "0");
    scene.redis.cli(&["SET", "pgc:queues", "oops"]);
    client.batch_execute("SELECT redis_enqueue('q', '1')").unwrap();
    sent(&mut client);
    assert_eq!(take(&mut client, "q", ""), ["1"]);
}
