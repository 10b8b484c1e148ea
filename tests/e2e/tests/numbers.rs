//! The numbered databases of a Redis: which of them a connection uses is part of which server
//! counts, wherever the tag table is.

use pg_cache_e2e::counters::{counted, value};
use pg_cache_e2e::events::get;
use pg_cache_e2e::guarded::{CHANGE, KEY, NEW, OLD, SOON, Stage};
use pg_cache_e2e::registry::{generation, repair};
use pg_cache_e2e::{Notices, Scene, cached};
use pg_cache_testbed::{Redis, eventually};

const ONE: &str = "SELECT 1 AS v";

/// Has a session use another number of its scene's Redis.
fn leading_to(scene: &Scene, number: u32) -> String {
    format!("SET pg_cache.url = '{}?db={number}'", scene.redis.url())
}

#[test]
fn a_database_number_in_the_url_is_the_one_used() {
    // Danger: keys land in database 0, among those of another application.
    let scene = Scene::new();
    let tcp = Redis::start_tcp(&[]);
    let mut session = scene.connect();
    session.batch_execute(&leading_to(&scene, 3)).unwrap();
    let (_, counters) = counted(&mut session, |c| cached(c, "k", ONE));
    assert_eq!(counters.reason("identity"), 1, "another one is registered: {counters:?}");
    assert_eq!(scene.redis.cli(&["-n", "3", "EXISTS", "k"]), "0");
    for (redis, url) in
        [(&scene.redis, format!("{}?db=3", scene.redis.url())), (&tcp, format!("{}/3", tcp.url()))]
    {
        scene.move_to(&url);
        let mut client = scene.connect();
        cached(&mut client, "k", ONE).unwrap();
        let (_, counters) = counted(&mut client, |c| cached(c, "k", ONE));
        assert_eq!(counters.hits, 1, "{url}: {counters:?}");
        assert_eq!(value(redis, "k"), None, "{url}");
        assert_eq!(redis.cli(&["-n", "3", "EXISTS", "k"]), "1", "{url}");
    }
}

/// What the key of a row holds in the registered database once a session whose own URL leads to
/// another one has changed the row, and all is paid; and how often that session was warned.
fn left_by_another_number(stage: &mut Stage) -> (Option<String>, usize) {
    assert_eq!(stage.served(), OLD);
    let (mut writer, notices) =
        Notices::listen(&stage.scene.postgres().conninfo(stage.scene.database()));
    writer.batch_execute(&leading_to(&stage.scene, 3)).unwrap();
    // It has a connection when it comes to what counts.
    writer.batch_execute("UPDATE users SET v = 0 WHERE id = 2").unwrap();
    writer.batch_execute(CHANGE).unwrap();
    repair(&mut stage.admin);
    (get(&stage.scene.redis, KEY), notices.warnings().len())
}

#[test]
fn a_writer_that_is_led_to_another_number_owes() {
    // Danger: its keys are deleted where nobody reads them, COMMIT returns without a word, and a
    // program reads the old value until its ttl.
    let mut stage = Stage::new();
    assert_eq!(left_by_another_number(&mut stage), (None, 1), "once a minute it says so");
    assert_eq!(stage.served(), NEW);
}

#[test]
fn so_does_one_that_stores_the_row() {
    // Danger: as above: what counts as deleted, and its token as laid, is so in the other one.
    for option in ["", ", 'durable'"] {
        let mut stage = Stage::new();
        let sql = format!(
            "DROP TRIGGER named ON users;
             CREATE TRIGGER stored AFTER INSERT OR UPDATE OR DELETE ON users
                 FOR EACH ROW EXECUTE FUNCTION redis_store('user:{{id}}'{option});
             ALTER TABLE users ENABLE ALWAYS TRIGGER stored"
        );
        stage.admin.batch_execute(&sql).unwrap();
        let (left, _) = left_by_another_number(&mut stage);
        assert_ne!(left.as_deref(), Some(OLD), "{option}");
    }
}

#[test]
fn what_is_left_in_a_database_that_was_moved_away_from_is_swept_when_it_comes_back() {
    // Danger: the server is the same, so nothing is registered; a program finds there what no
    // commit has told since.
    let mut stage = Stage::new();
    let first = generation(&mut stage.admin);
    assert_eq!(stage.served(), OLD);
    let url = stage.scene.redis.url();
    stage.scene.move_to(&format!("{url}?db=1"));
    let second = generation(&mut stage.admin);
    assert_ne!(first, second);
    let mut writer = stage.scene.connect();
    writer.batch_execute(CHANGE).unwrap();
    stage.scene.move_to(&url);
    assert_ne!(generation(&mut stage.admin), second);
    eventually(SOON, "it is swept", || !stage.finds_old_now());
}
