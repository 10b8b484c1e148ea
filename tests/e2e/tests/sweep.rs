//! What is filled behind a sweep, of a generation that it swept: a later one finds it, and nobody
//! sweeps for its sake alone.

use pg_cache_e2e::cached;
use pg_cache_e2e::counters::{commands, forget_commands, keys, refusals};
use pg_cache_e2e::events::get;
use pg_cache_e2e::gate::Gate;
use pg_cache_e2e::guarded::{CHANGE, OLD, QUERY, SOON, Stage, served};
use pg_cache_e2e::outbox::events;
use pg_cache_e2e::registry::{WORKERS, count, generation, repair, table_key};
use pg_cache_testbed::eventually;

/// How many generations that were swept are remembered.
const SWEPT_MAX: usize = 4096;

/// The generations that the next sweep is for, and those that were swept.
fn generations(stage: &mut Stage) -> (Vec<String>, Vec<String>) {
    let table = table_key(&mut stage.admin);
    let mut redis = stage.scene.redis.client();
    let known = table.replace("pgc:t:", "pgc:g:");
    let swept = table.replace("pgc:t:", "pgc:f:");
    redis::pipe()
        .cmd("SMEMBERS")
        .arg(known)
        .cmd("ZRANGE")
        .arg(&[&swept[..], "0", "-1"])
        .query(&mut redis)
        .unwrap()
}

/// Registers another generation, and waits until what former ones left is swept.
fn begin_another(stage: &mut Stage) {
    stage.admin.batch_execute("SELECT redis_register()").unwrap();
    let registered = repair(&mut stage.admin);
    eventually(SOON, "a sweep is over", || generations(stage).0 == [&registered[..]]);
}

/// A reader looks and computes under the first generation, and fills its entry when the second has
/// swept what was there of the first.
fn filled_behind_the_sweep() -> Stage {
    let mut stage = Stage::new();
    let computed = Gate::new();
    let mut reader = stage.connect(&computed.at("read.fill"));
    let reading = std::thread::spawn(move || served(&mut reader));
    computed.met();
    begin_another(&mut stage);
    computed.open();
    assert_eq!(reading.join().unwrap(), OLD);
    assert!(stage.finds_old_now(), "it is filled, and as new as any");
    stage
}

#[test]
fn what_was_filled_behind_a_sweep_and_is_brought_back_is_swept() {
    // Danger: nobody looks for its generation any more; a program reads what is older than a commit
    // that returned, until its ttl.
    let mut stage = filled_behind_the_sweep();
    let before = stage.scene.redis.snapshot();
    stage.admin.batch_execute(CHANGE).unwrap();
    assert!(!stage.finds_old_now(), "the commit deleted it");
    stage.scene.redis.stop();
    stage.scene.redis.start_again_from(&before);
    repair(&mut stage.admin);
    eventually(SOON, "it is swept", || !stage.finds_old_now());
}

#[test]
fn a_sweep_goes_on_where_it_was_when_redis_did_not_answer() {
    // Danger: where Redis is slow now and then, each sweep of many keys begins anew, and none comes
    // to its end.
    let mut stage = Stage::new();
    for number in 0..40 {
        cached(&mut stage.admin, &format!("mine:{number}"), QUERY).unwrap();
    }
    stage.scene.add_foreign_keys(8_000);
    let steps = steps(&stage);
    stage.replace_worker("flush.looked:sleep_30");
    forget_commands(&stage.scene);
    stage.admin.batch_execute("SELECT redis_register()").unwrap();
    let left = |stage: &Stage| keys(&stage.scene.redis, "mine:*").len();
    eventually(SOON, "it is half done", || left(&stage) <= 20);
    // Longer than the worker waits for an answer.
    stage.scene.redis.cli(&["CLIENT", "PAUSE", "2200", "ALL"]);
    eventually(SOON, "it is done", || left(&stage) == 0);
    eventually(SOON, "it is over", || generations(&mut stage).0.len() == 1);
    let scans = commands(&stage.scene.redis)["scan"];
    assert!(scans >= steps && scans <= steps + steps / 4, "{scans} steps instead of {steps}");
}

/// How many steps a walk through all keys takes.
fn steps(stage: &Stage) -> u64 {
    let (mut redis, mut cursor, mut steps) = (stage.scene.redis.client(), 0, 0);
    loop {
        let mut scan = redis::cmd("SCAN");
        let found: (u64, Vec<String>) =
            scan.arg(cursor).arg("COUNT").arg(200).query(&mut redis).unwrap();
        (cursor, steps) = (found.0, steps + 1);
        if cursor == 0 {
            return steps;
        }
    }
}

#[test]
fn a_generation_is_remembered_again_in_a_redis_that_forgot_all() {
    // Danger: with the tag table in memory it lives on after FLUSHALL, and once another is
    // registered nobody looks for what an old copy of Redis' data brings back of it.
    let mut stage = Stage::new();
    stage.scene.redis.cli(&["FLUSHALL"]);
    stage.replace_worker("nothing:skip");
    repair(&mut stage.admin);
    let wanted = generation(&mut stage.admin).unwrap();
    eventually(SOON, "it is remembered", || generations(&mut stage).0.contains(&wanted));
}

#[test]
fn a_debt_of_all_keys_deletes_what_was_filled_behind_a_sweep() {
    // Danger: as above, and the debt is said to be paid.
    let mut stage = filled_behind_the_sweep();
    let owed = "INSERT INTO redis_debt VALUES (-2, '700', '*'), (-1, '700', NULL)";
    stage.admin.batch_execute(owed).unwrap();
    repair(&mut stage.admin);
    assert_eq!(count(&mut stage.admin, "SELECT count(*) FROM redis_debt"), 0);
    assert!(!stage.finds_old_now());
}

#[test]
fn a_debt_of_all_keys_ends_the_leases_from_before() {
    // Danger: who looked before what is owed was bumped fills behind the deletion, and a program
    // reads what is older than a commit, with nothing owed any more.
    let mut stage = Stage::new();
    stage.admin.batch_execute("CREATE TABLE plain AS SELECT 1 AS v").unwrap();
    let computed = Gate::new();
    let mut reader = stage.connect(&computed.at("read.fill"));
    let reading = std::thread::spawn(move || cached(&mut reader, "k", "SELECT v FROM plain"));
    computed.met();
    let owing = "UPDATE plain SET v = 2;
                 INSERT INTO redis_debt VALUES (-2, '700', '*'), (-1, '700', NULL)";
    stage.admin.batch_execute(owing).unwrap();
    repair(&mut stage.admin);
    assert_eq!(count(&mut stage.admin, "SELECT count(*) FROM redis_debt"), 0);
    computed.open();
    assert_eq!(reading.join().unwrap().unwrap(), OLD, "as of before the commit");
    assert_eq!(get(&stage.scene.redis, "k"), None);
}

#[test]
fn generations_that_were_swept_are_few_and_call_for_no_sweep() {
    // Danger: Redis fills with the names of generations; or every worker that starts walks through
    // all keys, for the sake of what is nearly never there.
    let mut stage = Stage::new();
    let first = generation(&mut stage.admin).unwrap();
    let swept = table_key(&mut stage.admin).replace("pgc:t:", "pgc:f:");
    let mut add = redis::cmd("ZADD");
    add.arg(&swept);
    for number in 0..2 * SWEPT_MAX {
        add.arg(number).arg(format!("{number:032x}"));
    }
    add.exec(&mut stage.scene.redis.client()).unwrap();
    begin_another(&mut stage);
    let (_, kept) = generations(&mut stage);
    assert_eq!((kept.len(), kept.contains(&first)), (SWEPT_MAX, true), "the newest of them");
    forget_commands(&stage.scene);
    stage.admin.batch_execute("SELECT redis_wake()").unwrap();
    eventually(SOON, "a worker", || count(&mut stage.admin, WORKERS) == 1);
    eventually(SOON, "it leaves", || count(&mut stage.admin, WORKERS) == 0);
    let asked = commands(&stage.scene.redis);
    assert!(asked.contains_key("smembers") && !asked.contains_key("scan"), "{asked:?}");
}

#[test]
fn a_sweep_that_may_not_read_the_generations_rests() {
    // Danger: a worker that may not ask what is to be swept takes its passes for nothing: it asks
    // at each, and each event waits until it tries again.
    let mut stage = Stage::new();
    let sends = "CREATE TABLE e (id int);
         CREATE TRIGGER e AFTER INSERT ON e FOR EACH ROW
             EXECUTE FUNCTION redis_stream('s', 'durable')";
    stage.admin.batch_execute(sends).unwrap();
    stage.scene.redis.cli(&["ACL", "SETUSER", "default", "-smembers"]);
    stage.admin.batch_execute("SELECT redis_register()").unwrap();
    repair(&mut stage.admin);
    for number in 1..=20 {
        stage.admin.batch_execute("INSERT INTO e VALUES (1)").unwrap();
        eventually(SOON, "sent", || events(&stage.scene.redis, "s").len() == number);
    }
    let refused = refusals(&stage.scene.redis, "smembers");
    assert!((1..=5).contains(&refused), "{refused}");
}
