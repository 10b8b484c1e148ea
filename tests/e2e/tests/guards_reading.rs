//! What readers must not leave out: each guard once more, and once without it.

use pg_cache_e2e::events::get;
use pg_cache_e2e::gate::Gate;
use pg_cache_e2e::guarded::{CHANGE, KEY, NEW, OLD, QUERY, SOON, Stage, assert_needed, served};
use pg_cache_e2e::registry::repair;
use pg_cache_e2e::{cached, direct};
use pg_cache_testbed::{Pair, Postgres, Redis, eventually};

#[test]
fn an_entry_counts_while_its_versions_last() {
    // Danger: nothing that is filled ever ends.
    assert_needed("guard.versions", |fault| {
        let mut stage = Stage::new();
        let mut reader = stage.connect(fault);
        assert_eq!(cached(&mut reader, "plain", QUERY).unwrap(), OLD);
        stage.admin.batch_execute(CHANGE).unwrap();
        cached(&mut reader, "plain", QUERY).unwrap() == OLD
    });
}

#[test]
fn an_entry_counts_in_its_own_generation_only() {
    // Danger: an old file brings back an entry whose versions the new table has as well.
    assert_needed("guard.sidecar", |fault| {
        let mut stage = Stage::new();
        // From here on every version is 0, as it will be again.
        stage.lose_everything();
        repair(&mut stage.admin);
        assert_eq!(cached(&mut stage.admin, "plain", QUERY).unwrap(), OLD);
        let redis = |stage: &Stage| stage.scene.redis.client();
        let mut names: Vec<String> = vec!["plain".to_owned()];
        let sidecars: Vec<String> =
            redis::cmd("KEYS").arg("pgc:e:*plain").query(&mut redis(&stage)).unwrap();
        assert_eq!(sidecars.len(), 1, "it was filled");
        names.extend(sidecars);
        let values: Vec<Vec<u8>> =
            redis::cmd("MGET").arg(&names).query(&mut redis(&stage)).unwrap();
        stage.admin.batch_execute(CHANGE).unwrap();
        stage.lose_everything();
        repair(&mut stage.admin);
        // Nobody sweeps what is brought back.
        stage.replace_worker("nothing:skip");
        for (name, value) in names.iter().zip(&values) {
            redis::cmd("SET").arg(name).arg(value).exec(&mut redis(&stage)).unwrap();
        }
        cached(&mut stage.connect(fault), "plain", QUERY).unwrap() == OLD
    });
}

#[test]
fn versions_are_read_again_behind_the_lease() {
    // Danger: a writer bumps and deletes between the look and the lease.
    assert_needed("guard.lookagain", |fault| {
        let mut stage = Stage::new();
        let (looked, told) = (Gate::new(), Gate::new());
        let mut reader = stage.connect(&format!("{fault},{}", looked.at("read.lease")));
        let reading = std::thread::spawn(move || served(&mut reader));
        looked.met();
        let writing = stage.start(&told.at("commit.settled"), CHANGE);
        told.met();
        looked.open();
        assert_eq!(reading.join().unwrap(), OLD, "as its snapshot has it");
        told.open();
        writing.join().unwrap();
        stage.finds_old()
    });
}

#[test]
fn a_fill_needs_its_token() {
    // Danger: a filler whose lease a writer took replaces what came after it.
    assert_needed("guard.token", |fault| {
        let mut stage = Stage::new();
        let computed = Gate::new();
        let mut reader = stage.connect(&format!("{fault},{}", computed.at("read.fill")));
        let reading = std::thread::spawn(move || served(&mut reader));
        computed.met();
        stage.admin.batch_execute(CHANGE).unwrap();
        computed.open();
        assert_eq!(reading.join().unwrap(), OLD, "as its snapshot has it");
        stage.finds_old()
    });
}

#[test]
fn a_query_depends_on_its_own_key() {
    // Danger: a key that was settled early is filled again before its transaction ends.
    assert_needed("guard.keytag", |fault| {
        let mut stage = Stage::new();
        let mut writer = stage.connect("");
        writer.batch_execute("SET pg_cache.pending_keys_max = 1; BEGIN").unwrap();
        writer.batch_execute(CHANGE).unwrap();
        assert_eq!(served(&mut stage.connect(fault)), OLD, "not committed yet");
        writer.batch_execute("COMMIT").unwrap();
        stage.finds_old()
    });
}

#[test]
fn a_generation_counts_while_it_is_alive() {
    // Danger: a cold backup is restored, and Redis answers from a future that never came.
    assert_needed("guard.alive", |fault| {
        let mut pair = Pair::start_with(&[("pg_cache.fault_point", fault)], &[]);
        let mut client = pair.postgres.connect();
        client.batch_execute("CREATE TABLE users AS SELECT 1 AS id, 1 AS v").unwrap();
        client.batch_execute("SELECT redis_track('users')").unwrap();
        let url = pair.redis.url();
        let conf = [("pg_cache.url", &url[..]), ("pg_cache.fault_point", fault)];
        let backup = pair.postgres.copy(&conf);
        let mut client = pair.postgres.connect();
        repair(&mut client);
        client.batch_execute(CHANGE).unwrap();
        eventually(SOON, "what is new is cached", || {
            assert_eq!(cached(&mut client, KEY, QUERY).unwrap(), NEW);
            pg_cache_e2e::events::get(&pair.redis, KEY).as_deref() == Some(NEW)
        });
        let mut restored = backup.connect();
        // Up to the ids that the other future used.
        for _ in 0..50 {
            restored.batch_execute("SELECT pg_current_xact_id()").unwrap();
        }
        // What it says is too new, which is as wrong.
        cached(&mut restored, KEY, QUERY).unwrap() != OLD
    });
}

/// Nothing in the query's tree, so nothing in its fingerprint, tells one configuration from the
/// other.
const WORDS: &str = "CREATE TEXT SEARCH CONFIGURATION words (COPY = simple);
                     CREATE TABLE e (t text); INSERT INTO e VALUES ('running');
                     SELECT redis_track('e')";
const ASKED: &str = "SELECT to_tsvector('words', t)::text AS w FROM e";
const STEMS: &str =
    "ALTER TEXT SEARCH CONFIGURATION words ALTER MAPPING FOR asciiword WITH english_stem";

/// A reader asks while a change of the schema is visible and has not sent its messages yet, after
/// `meanwhile`. Whether another one is served what it left there.
fn leaves_old_words(stage: &mut Stage, fault: &str, meanwhile: impl Fn(&Stage)) -> bool {
    stage.admin.batch_execute(WORDS).unwrap();
    let mut reader = stage.connect(fault);
    cached(&mut reader, "words", ASKED).unwrap();
    let ended = Gate::new();
    let changing = stage.start(&ended.at("commit.ended"), STEMS);
    ended.met();
    meanwhile(stage);
    cached(&mut reader, "words", ASKED).unwrap();
    ended.open();
    changing.join().unwrap();
    let mut other = stage.scene.connect();
    cached(&mut other, "words", ASKED).unwrap() != direct(&mut other, ASKED).unwrap()
}

#[test]
fn nothing_is_used_before_the_messages_of_a_schema_change() {
    // Danger: it is visible, and the backend cannot know of it yet: what it fills is of before.
    assert_needed("guard.cataloguewait", |fault| {
        leaves_old_words(&mut Stage::new(), fault, |_| ())
    });
}

#[test]
fn a_schema_change_waits_for_the_messages_of_those_that_it_drops() {
    // Danger: the reader waits for the last change, and the messages of the first are not sent.
    assert_needed("guard.messages", |fault| {
        leaves_old_words(&mut Stage::new(), "nothing:skip", |stage| {
            let mut other = stage.connect(fault);
            let change = "SET pg_cache.commit_timeout_ms = 200; CREATE VIEW v AS SELECT 1 AS a";
            other.batch_execute(change).unwrap();
        })
    });
}

#[test]
fn what_the_registry_said_is_forgotten_when_a_transaction_ends() {
    // Danger: a reader that remembers that nobody owed anything is served what a writer has changed
    // without Redis.
    assert_needed("guard.standing", |fault| {
        let mut stage = Stage::new();
        let paying = Gate::new();
        stage.replace_worker(&paying.at("worker.pay"));
        let mut reader = stage.connect(fault);
        for _ in 0..3 {
            assert_eq!(served(&mut reader), OLD);
        }
        let mut writer = stage.connect("nothing:skip");
        writer.batch_execute("SET pg_cache.url = 'unix:///nonexistent.sock'").unwrap();
        writer.batch_execute(CHANGE).unwrap();
        let found = served(&mut reader);
        paying.open();
        found == OLD
    });
}

#[test]
fn an_entry_holds_nothing_that_a_crash_undoes() {
    // Danger: a query sees the partitions of this moment, though its snapshot is older. With
    // synchronous_commit off they may be committed and not on disk, and a crash leaves an entry
    // with rows of a partition that never was.
    assert_needed("guard.flush", |fault| {
        let redis = Redis::start();
        let url = redis.url_with_password();
        let conf = [("pg_cache.url", &url[..]), ("wal_writer_delay", "10s")];
        let mut server = Postgres::start_with(&conf);
        server.register("test");
        let mut admin = server.connect();
        let tables = "CREATE TABLE root (v int) PARTITION BY LIST (v);
                      CREATE TABLE first PARTITION OF root FOR VALUES IN (1);
                      CREATE TABLE second (v int);
                      INSERT INTO first VALUES (1); INSERT INTO second VALUES (2);
                      SELECT redis_track('root')";
        admin.batch_execute(tables).unwrap();
        repair(&mut admin);
        let looked = Gate::new();
        let mut reader = server.connect();
        let faults = format!("{fault},{}", looked.at("read.compute"));
        reader.batch_execute(&format!("SET pg_cache.fault_point = '{faults}'")).unwrap();
        let query = "SELECT count(*) FROM root";
        let reading = std::thread::spawn(move || cached(&mut reader, "rows", query).unwrap());
        looked.met();
        let attach = "ALTER TABLE root ATTACH PARTITION second FOR VALUES IN (2)";
        admin.batch_execute(&format!("SET synchronous_commit = off; {attach}")).unwrap();
        looked.open();
        assert_eq!(reading.join().unwrap(), r#"[{"count":2}]"#);
        server.crash();
        let found = get(&redis, "rows");
        server.start_again();
        let now = direct(&mut server.connect(), query).unwrap();
        println!("found {found:?}, and there are {now}");
        found.is_some_and(|found| found != now)
    });
}
