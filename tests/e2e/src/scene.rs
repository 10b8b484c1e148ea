//! A scene: a database of its own, a Redis of its own, on a PostgreSQL shared by the process.
//!
//! Owns the shared server and the turns. The invariant: the server lives on a thread that outlasts
//! every test (a child that dies with its parent *thread* must not die with one test's), and a test
//! that measures time runs while no other does. Break it and tests fail by their neighbours.

use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use pg_cache_testbed::{Postgres, Redis, eventually};
use postgres::error::DbError;
use postgres::{Client, Config, NoTls};

use crate::registry::{WORKERS, count};

/// A test that takes longer hangs: the whole process ends, and its servers with it.
const TEST_TIME_MAX: Duration = Duration::from_secs(150);

static TURNS: RwLock<()> = RwLock::new(());
static NEXT: AtomicU32 = AtomicU32::new(0);
static SHARED: Mutex<Holders> = Mutex::new(Holders { count: 0, server: None });
static IDLE: Condvar = Condvar::new();

struct Holders {
    count: usize,
    server: Option<Arc<Postgres>>,
}

/// Messages that a connection received besides its results.
#[derive(Clone, Default)]
pub struct Notices(Arc<Mutex<Vec<DbError>>>);

impl Notices {
    /// A connection, and what the server says on it besides results.
    pub fn listen(conninfo: &str) -> (Client, Notices) {
        let notices = Notices::default();
        let heard = notices.clone();
        let mut config = Config::from_str(conninfo).unwrap();
        config.notice_callback(move |notice| heard.0.lock().unwrap().push(notice));
        (config.connect(NoTls).unwrap(), notices)
    }

    /// All warnings so far.
    pub fn warnings(&self) -> Vec<DbError> {
        self.of("WARNING")
    }

    /// All messages of one severity so far.
    pub fn of(&self, severity: &str) -> Vec<DbError> {
        let all = self.0.lock().unwrap();
        all.iter().filter(|notice| notice.severity() == severity).cloned().collect()
    }
}

enum Turn {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

/// A share in the process's PostgreSQL; the last one to go stops it.
struct Share(Option<Arc<Postgres>>);

impl Share {
    fn take() -> Share {
        let mut holders = SHARED.lock().unwrap_or_else(|e| e.into_inner());
        if holders.server.is_none() {
            holders.server = Some(start_shared());
        }
        holders.count += 1;
        Share(holders.server.clone())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut holders = SHARED.lock().unwrap_or_else(|e| e.into_inner());
        self.0 = None;
        holders.count -= 1;
        if holders.count == 0 {
            // Between two tests nobody holds the server for an instant: only a longer pause is the
            // end of the run. libtest gives no hook for it.
            let pause = Duration::from_millis(300);
            let (mut holders, _) = IDLE
                .wait_timeout_while(holders, pause, |holders| holders.count == 0)
                .unwrap_or_else(|e| e.into_inner());
            if holders.count == 0 {
                holders.server = None;
            }
        } else {
            IDLE.notify_all();
        }
    }
}

/// Whether the server that tests share has the library preloaded, and so the tag table in its
/// memory: most promises are the same wherever that is.
fn is_preloaded() -> bool {
    std::env::var_os("PG_CACHE_PRELOADED").is_some()
}

/// Starts the server from a thread that never ends.
fn start_shared() -> Arc<Postgres> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut conf = vec![
            ("max_connections", "200"),
            ("log_min_messages", "log"),
            ("autovacuum", "off"),
            ("max_worker_processes", "64"),
            ("max_prepared_transactions", "20"),
        ];
        if is_preloaded() {
            conf.push(("shared_preload_libraries", "pg_cache"));
        }
        let server = Arc::new(Postgres::start_with(&conf));
        sender.send(server).unwrap();
        loop {
            std::thread::park();
        }
    });
    receiver.recv().expect("the shared PostgreSQL starts; its log is above")
}

/// Ends the process when a test does not come back.
struct Watchdog(#[allow(dead_code)] Sender<()>);

impl Watchdog {
    fn start() -> Watchdog {
        let (sender, receiver): (Sender<()>, Receiver<()>) = channel();
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        std::thread::spawn(move || {
            if receiver.recv_timeout(TEST_TIME_MAX) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{name} hangs: not back within {TEST_TIME_MAX:?}");
                std::process::abort();
            }
        });
        Watchdog(sender)
    }
}

/// One test's world.
pub struct Scene {
    pub redis: Redis,
    database: String,
    _watchdog: Watchdog,
    // Before the share: whoever waits for the turn takes over the server while we still hold it.
    _turn: Turn,
    share: Share,
}

impl Scene {
    /// Runs beside other tests.
    pub fn new() -> Scene {
        Scene::with_redis(Redis::start)
    }

    /// Runs beside other tests, on the Redis that `start` makes.
    pub fn with_redis(start: impl FnOnce() -> Redis) -> Scene {
        let guard = TURNS.read().unwrap_or_else(|e| e.into_inner());
        Scene::build(Turn::Shared { _guard: guard }, start)
    }

    /// Runs while no other test does: for tests that measure time.
    pub fn alone() -> Scene {
        let guard = TURNS.write().unwrap_or_else(|e| e.into_inner());
        Scene::build(Turn::Alone { _guard: guard }, Redis::start)
    }

    fn build(turn: Turn, start: impl FnOnce() -> Redis) -> Scene {
        let watchdog = Watchdog::start();
        let share = Share::take();
        let redis = start();
        let database = format!("e2e_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let scene = Scene { redis, database, _watchdog: watchdog, _turn: turn, share };
        scene.create_database(&scene.database);
        scene
    }

    /// Makes a further database on this scene's Redis.
    pub fn create_database(&self, name: &str) {
        let mut admin = self.postgres().connect();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        self.prepare_database(name);
        self.postgres().create_extension(name);
        self.postgres().register(name);
    }

    /// Points a database at this scene's Redis and gives its statements an end.
    pub fn prepare_database(&self, name: &str) {
        let url = self.redis.url_with_password();
        let mut admin = self.postgres().connect();
        admin
            .batch_execute(&format!(
                "ALTER DATABASE {name} SET pg_cache.url = '{url}';
                 ALTER DATABASE {name} SET statement_timeout = '60s'"
            ))
            .unwrap();
    }

    /// Points this scene's database elsewhere, and waits until that server is the registered one.
    pub fn move_to(&self, url: &str) {
        let sql = format!("ALTER DATABASE {} SET pg_cache.url = '{url}'", self.database);
        self.postgres().connect().batch_execute(&sql).unwrap();
        self.register();
    }

    /// Waits until this scene's database is registered with the server that its settings name.
    pub fn register(&self) {
        self.postgres().register(&self.database);
    }

    /// What begins in this scene's database from now on has these fault points, the worker too.
    pub fn set_faults(&self, faults: &str) {
        let name = &self.database;
        let sql = format!("ALTER DATABASE {name} SET pg_cache.fault_point = '{faults}'");
        self.postgres().connect().batch_execute(&sql).unwrap();
    }

    /// Puts keys into Redis that nobody here asks for.
    pub fn add_foreign_keys(&self, count: u32) {
        let set = "for n = 1, tonumber(ARGV[1]) do redis.call('SET', 'foreign:' .. n, '') end";
        self.redis.cli(&["EVAL", set, "0", &count.to_string()]);
    }

    /// Waits until no worker is left in this scene's database: it asks Redis now and then.
    pub fn quiet(&self) {
        let mut client = self.connect();
        eventually(Duration::from_secs(30), "the worker goes when it is idle", || {
            count(&mut client, WORKERS) == 0
        });
    }

    pub fn postgres(&self) -> &Postgres {
        self.share.0.as_ref().unwrap()
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    /// The superuser, in this scene's database.
    pub fn connect(&self) -> Client {
        self.connect_to("postgres", &self.database)
    }

    /// A role of this scene.
    pub fn connect_as(&self, role: &str) -> Client {
        self.connect_to(role, &self.database)
    }

    pub fn connect_to(&self, role: &str, database: &str) -> Client {
        self.postgres().connect_as(role, database)
    }

    /// The superuser, and what the server says besides results.
    pub fn connect_listening(&self) -> (Client, Notices) {
        Notices::listen(&self.postgres().conninfo(&self.database))
    }

    /// Creates an ordinary role that no other scene has, and returns its name.
    pub fn create_role(&self, name: &str) -> String {
        let role = format!("{}_{name}", self.database);
        self.connect().batch_execute(&format!("CREATE ROLE {role} LOGIN")).unwrap();
        role
    }
}

impl Default for Scene {
    fn default() -> Scene {
        Scene::new()
    }
}
