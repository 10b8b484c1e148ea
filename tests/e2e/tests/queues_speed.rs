//! What queues cost, measured.

use std::time::{Duration, Instant};

use pg_cache_e2e::Scene;
use pg_cache_e2e::jobs::{dequeue, sent};

const CALLS: u32 = 2_000;

fn per_call(what: &str, calls: u32, took: Duration) {
    println!(
        "{what}: {:.0} us each, {:.0} a second",
        took.as_micros() as f64 / calls as f64,
        calls as f64 / took.as_secs_f64()
    );
}

#[test]
#[ignore = "measures; run it by name, with a release build"]
fn how_fast_queues_are() {
    // Danger: nobody knows what a job costs, and a batch is chosen by feeling.
    let scene = Scene::alone();
    let mut client = scene.connect();
    let put = client.prepare("SELECT redis_enqueue('q', '{\"n\": 1}')").unwrap();
    let started = Instant::now();
    for _ in 0..CALLS {
        client.execute(&put, &[]).unwrap();
    }
    per_call("enqueue, a transaction each", CALLS, started.elapsed());
    let many = "SELECT redis_enqueue('q', to_jsonb(n)) FROM generate_series(1, 50000) AS n";
    let started = Instant::now();
    client.batch_execute(many).unwrap();
    per_call("enqueue, 50,000 in one transaction", 50_000, started.elapsed());
    sent(&mut client);
    per_call("until all are in Redis", 50_000, started.elapsed());
    let ack = client.prepare("SELECT redis_ack('q', VARIADIC $1::text[])").unwrap();
    for (count, rounds) in [(1, 2_000), (10, 500), (100, 200)] {
        let (mut taking, mut ending) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..rounds {
            let started = Instant::now();
            let jobs = dequeue(&mut client, "q", &format!(", {count}"));
            taking += started.elapsed();
            let ids: Vec<&str> = jobs.iter().map(|job| &job.id[..]).collect();
            let started = Instant::now();
            client.execute(&ack, &[&ids]).unwrap();
            ending += started.elapsed();
        }
        per_call(&format!("dequeue by {count}"), count * rounds, taking);
        per_call(&format!("ack by {count}"), count * rounds, ending);
    }
    // From the commit to a worker that waits.
    let mut worker = scene.connect();
    let mut times: Vec<Duration> = (0..100)
        .map(|_| {
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| {
                    dequeue(&mut worker, "w", ", 1, wait => 10");
                    Instant::now()
                });
                std::thread::sleep(Duration::from_millis(20));
                let put_at = Instant::now();
                client.batch_execute("SELECT redis_enqueue('w', '1')").unwrap();
                waiting.join().unwrap() - put_at
            })
        })
        .collect();
    times.sort_unstable();
    println!(
        "a job reached a waiting worker in {:?}, of 100 the slowest {:?}",
        times[50], times[99]
    );
}
