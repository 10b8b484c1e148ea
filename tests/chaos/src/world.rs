//! The servers of a run, and what all its threads share.
//!
//! Owns a primary, a standby, a Redis, and the door: a symbolic link that `pg_cache.url` names, so
//! that where a new connection leads is changed in an instant while old connections stay where
//! they are. The invariant: only the thread of troubles changes a server. Break it and two troubles
//! undo each other.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use pg_cache_testbed::process::Directory;
use pg_cache_testbed::{Postgres, Redis};
use postgres::{Client, NoTls};

use crate::guards::Guard;
use crate::ledger::Ledger;
use crate::questions::{self, Question};
use crate::schema;
use crate::tally::Tally;
use crate::weather::{Changes, Weather};

/// How a run is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    pub time: Duration,
    /// The guard that is removed from the real code.
    pub without: Option<Guard>,
    /// All else is as without the guard, but it stays: nothing may be found then.
    pub keep_guard: bool,
    /// False: no table is tracked, so that the oracle must find violations.
    pub tracked: bool,
    /// Whether a hot standby is read too, and promoted in the end.
    pub standby: bool,
    /// Whether the library is preloaded: a launcher, and a breaker of all backends.
    pub preloaded: bool,
    /// Whether it is, and the tag table is in shared memory.
    pub memory: bool,
    /// Only these troubles; None: all of them, by weight.
    pub only: Option<Vec<String>>,
    /// Only changes of the catalogue whose name contains this, and those more often.
    pub changes: Option<String>,
    /// Only questions whose key contains this.
    pub questions: Option<String>,
    pub readers: usize,
    /// Readers of the standby, if there is one.
    pub standby_readers: usize,
    pub writers: usize,
    /// Ends at the first violation that begins so.
    pub stop_at: Option<&'static str>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            seed: 0,
            time: Duration::from_secs(60),
            without: None,
            keep_guard: false,
            tracked: true,
            standby: true,
            preloaded: false,
            memory: false,
            only: None,
            changes: None,
            questions: None,
            readers: 6,
            standby_readers: 1,
            writers: 3,
            stop_at: None,
        }
    }
}

impl Setup {
    /// The real code without a guard, and what brings that to light.
    pub fn without(guard: Guard) -> Setup {
        let plan = guard.plan();
        Setup {
            without: Some(guard),
            standby: plan.standby,
            changes: (!plan.changes).then(|| "none".to_owned()),
            only: Some(plan.troubles.iter().map(|name| (*name).to_owned()).collect()),
            time: plan.time,
            stop_at: Some(guard.shows()),
            memory: guard.is_of_memory(),
            ..Setup::default()
        }
    }

    /// As without the guard, but nobody reads the primary.
    pub fn of_standby_without(guard: Guard) -> Setup {
        let changes = Some("none".to_owned());
        let (standby, readers, standby_readers) = (true, 0, 4);
        Setup { standby, changes, readers, standby_readers, ..Setup::without(guard) }
    }

    /// No table is tracked: ends when that has broken this promise.
    pub fn untracked(promise: &'static str) -> Setup {
        let (time, only) = (Duration::from_secs(20), Some(Vec::new()));
        Setup {
            tracked: false,
            standby: false,
            time,
            only,
            stop_at: Some(promise),
            ..Setup::default()
        }
    }
}

pub struct World {
    pub setup: Setup,
    pub tally: Tally,
    pub ledger: Ledger,
    pub weather: Weather,
    pub changes: Changes,
    pub questions: Vec<Question>,
    /// Held to read `blinking` while it is tracked; held alone to change it while it is not.
    pub blinking: RwLock<()>,
    /// Prepared transactions that somebody has to end.
    pub prepared: Mutex<Vec<String>>,
    /// What Redis held at some moment.
    pub earlier: Mutex<Option<Vec<u8>>>,
    addresses: RwLock<Addresses>,
    door: PathBuf,
    // Dropped in this order: servers that talk to another go before it.
    standby: Mutex<Option<Postgres>>,
    primary: Mutex<Postgres>,
    redis: Mutex<Redis>,
    _directory: Directory,
}

struct Addresses {
    primary: String,
    standby: Option<String>,
    redis: PathBuf,
}

/// Where a transaction began among the changes of the catalogue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(u64);

/// Which server a session talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Primary,
    Standby,
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub fn start(setup: Setup) -> World {
        let redis = Redis::start_tcp(&[]);
        let directory = Directory::new();
        let door = directory.path().join("door.sock");
        symlink(redis.socket(), &door).expect("a directory of ours");
        let primary = start_primary(&door, &setup);
        schema::create(&primary, setup.tracked);
        let standby = setup.standby.then(|| primary.standby(&[]));
        let addresses = Addresses {
            primary: primary.conninfo("test"),
            standby: standby.as_ref().map(|standby| standby.conninfo("test")),
            redis: redis.socket().to_owned(),
        };
        let wanted = setup.questions.clone().unwrap_or_default();
        let mut questions = questions::all();
        for question in questions.iter_mut().filter(|question| !question.key.contains(&wanted)) {
            question.weight = 0;
        }
        let tally = Tally::new(setup.stop_at);
        World {
            setup,
            tally,
            ledger: Ledger::default(),
            weather: Weather::default(),
            changes: Changes::default(),
            questions,
            blinking: RwLock::new(()),
            prepared: Mutex::default(),
            earlier: Mutex::new(None),
            addresses: RwLock::new(addresses),
            door,
            standby: Mutex::new(standby),
            primary: Mutex::new(primary),
            redis: Mutex::new(redis),
            _directory: directory,
        }
    }

    /// A connection, or None if there is none to be had just now.
    pub fn connect(&self, side: Side) -> Option<Client> {
        let client = Client::connect(&self.address(side)?, NoTls);
        client.map_err(|error| self.tally.error(&error)).ok()
    }

    /// Where a server of this kind is, if there is one.
    pub fn address(&self, side: Side) -> Option<String> {
        let addresses = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        match side {
            Side::Primary => Some(addresses.primary.clone()),
            Side::Standby => addresses.standby.clone(),
        }
    }

    /// A connection to the primary, for as long as the run goes on.
    pub fn insist(&self, side: Side) -> Option<Client> {
        while !self.tally.is_over() {
            if let Some(client) = self.connect(side) {
                return Some(client);
            }
            self.tally.rest(Duration::from_millis(30));
        }
        None
    }

    /// The Redis that counts now, for plain clients.
    pub fn redis_socket(&self) -> PathBuf {
        let addresses = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        addresses.redis.clone()
    }

    /// New connections of backends lead to `path`, old ones stay where they are.
    pub fn open_door_to(&self, path: &Path) {
        let new = self.door.with_extension("new");
        let _ = fs::remove_file(&new);
        symlink(path, &new).and_then(|()| fs::rename(&new, &self.door)).expect("a file of ours");
    }

    /// New connections of backends and of plain clients lead to `redis`.
    pub fn follow(&self, redis: &Redis) {
        self.open_door_to(redis.socket());
        let mut addresses = self.addresses.write().unwrap_or_else(PoisonError::into_inner);
        addresses.redis = redis.socket().to_owned();
    }

    /// Where what begins now on this server stands among the changes of the catalogue.
    pub fn mark(&self, side: Side) -> Mark {
        match side {
            Side::Primary => Mark(self.changes.mark()),
            Side::Standby => Mark(self.changes.mark_of_standby()),
        }
    }

    /// Whether PostgreSQL itself may have answered this question by an old schema.
    pub fn changed_since(&self, mark: Mark, key: &str) -> bool {
        self.changes.any_since(mark.0, key)
    }

    /// For the thread of troubles.
    pub fn primary(&self) -> MutexGuard<'_, Postgres> {
        lock(&self.primary)
    }

    /// For the thread of troubles.
    pub fn redis(&self) -> MutexGuard<'_, Redis> {
        lock(&self.redis)
    }

    /// For the thread of troubles.
    pub fn standby(&self) -> MutexGuard<'_, Option<Postgres>> {
        lock(&self.standby)
    }

    /// From now on the standby, which must have been promoted, is the primary.
    pub fn move_to_promoted(&self) {
        let mut addresses = self.addresses.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(promoted) = addresses.standby.take() {
            addresses.primary = promoted;
        }
    }
}

fn start_primary(door: &Path, setup: &Setup) -> Postgres {
    let without = setup.without;
    let url = format!("unix://{}", door.display());
    let fault = without.map_or(String::new(), |guard| format!("{}:skip", guard.name()));
    let mut conf = vec![
        ("pg_cache.url", url.as_str()),
        ("max_connections", "80"),
        ("max_worker_processes", "64"),
        ("max_prepared_transactions", "50"),
        ("wal_level", "logical"),
        ("max_standby_streaming_delay", "1s"),
        ("autovacuum_naptime", "1s"),
        ("pg_cache.timeout_ms", "100"),
        ("pg_cache.commit_timeout_ms", "300"),
        ("pg_cache.fill_wait_ms", "300"),
        ("log_min_messages", "log"),
    ];
    if setup.preloaded || setup.memory {
        conf.push(("shared_preload_libraries", "pg_cache"));
    }
    if setup.memory {
        conf.push(("pg_cache.tag_table", "memory"));
    }
    if without.is_some() && !setup.keep_guard {
        conf.push(("pg_cache.fault_point", fault.as_str()));
    }
    if without.is_some_and(Guard::wants_lost_commits) {
        conf.push(("wal_writer_delay", "10s"));
    }
    Postgres::start_with(&conf)
}
