//! Scenes that go wrong without one guard of the protocol: each is played twice, with the guard and
//! without it.
//!
//! Owns the table that they write and read: a row, its key, its versions. The invariant: but for
//! the guard, both plays are the same. Break it and the guard is credited with what something else
//! does.

use std::thread::JoinHandle;
use std::time::Duration;

use pg_cache_testbed::eventually;
use postgres::Client;

use crate::registry::{WORKERS, count, generation, made, repair};
use crate::{Scene, cached};

pub const SOON: Duration = Duration::from_secs(20);

/// The key that a trigger names with row 1.
pub const KEY: &str = "user:1";

pub const QUERY: &str = "SELECT v FROM users WHERE id = 1";

/// What the row is before, and after, the one change that each scene makes.
pub const OLD: &str = r#"[{"v":1}]"#;
pub const NEW: &str = r#"[{"v":2}]"#;

pub const CHANGE: &str = "UPDATE users SET v = 2 WHERE id = 1";

const TABLE: &str = "
    CREATE TABLE users (id int PRIMARY KEY, v int);
    INSERT INTO users SELECT g, 1 FROM generate_series(1, 9) g;
    SELECT redis_track('users');
    CREATE TRIGGER named AFTER INSERT OR UPDATE OR DELETE ON users
        FOR EACH ROW EXECUTE FUNCTION redis_invalidate('user:{id}');
    ALTER TABLE users ENABLE ALWAYS TRIGGER named";

/// Plays a scene, which tells whether what it saw in the end is old: never with the guard, and
/// always without it.
#[track_caller]
pub fn assert_needed(guard: &str, sees_old: impl Fn(&str) -> bool) {
    assert!(!sees_old("nothing:skip"), "with {guard}, what is old is seen");
    assert!(sees_old(&format!("{guard}:skip")), "without {guard}, nothing is wrong");
}

pub struct Stage {
    pub scene: Scene,
    /// Does what needs no fault point.
    pub admin: Client,
}

impl Stage {
    pub fn new() -> Stage {
        let scene = Scene::new();
        let mut admin = scene.connect();
        admin.batch_execute(TABLE).unwrap();
        repair(&mut admin);
        Stage { scene, admin }
    }

    /// A session with these fault points.
    pub fn connect(&self, faults: &str) -> Client {
        let mut client = self.scene.connect();
        client.batch_execute(&format!("SET pg_cache.fault_point = '{faults}'")).unwrap();
        client
    }

    /// Runs a statement in a session of its own, which may stop on its way.
    pub fn start(&self, faults: &str, sql: &str) -> JoinHandle<()> {
        let (mut client, sql) = (self.connect(faults), sql.to_owned());
        std::thread::spawn(move || client.batch_execute(&sql).unwrap())
    }

    /// The worker that comes next has these fault points. None is left.
    pub fn replace_worker(&mut self, faults: &str) {
        self.scene.set_faults(faults);
        let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                         WHERE backend_type = 'pg_cache worker' AND datname = current_database()";
        eventually(SOON, "the worker is gone", || {
            count(&mut self.admin, terminate);
            count(&mut self.admin, WORKERS) == 0
        });
    }

    /// Redis forgets everything, and the worker is told.
    pub fn lose_everything(&mut self) {
        self.scene.redis.cli(&["FLUSHALL"]);
        self.admin.batch_execute("SELECT redis_wake()").unwrap();
    }

    /// Waits until the worker has made a table, or waits for somebody who writes.
    pub fn until_made_or_waiting(&mut self) {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE backend_type = 'pg_cache worker' AND datname = current_database()
                         AND query LIKE 'waiting for % transactions that write'";
        eventually(SOON, "the worker has made a table, or waits for a writer", || {
            let registered = generation(&mut self.admin).unwrap_or_default();
            made(&self.scene.redis, &mut self.admin) == registered
                || count(&mut self.admin, waiting) == 1
        });
    }

    /// What a session without fault points is served, which may fill it.
    pub fn served(&mut self) -> String {
        served(&mut self.admin)
    }

    /// What a program finds under the key once nothing is owed any more.
    pub fn finds_old(&mut self) -> bool {
        repair(&mut self.admin);
        self.finds_old_now()
    }

    /// The same as of this moment.
    pub fn finds_old_now(&self) -> bool {
        let found = crate::events::get(&self.scene.redis, KEY);
        println!("found under {KEY}: {found:?}");
        found.as_deref() == Some(OLD)
    }
}

impl Default for Stage {
    fn default() -> Stage {
        Stage::new()
    }
}

pub fn served(client: &mut Client) -> String {
    cached(client, KEY, QUERY).unwrap()
}
