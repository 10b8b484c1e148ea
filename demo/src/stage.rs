//! The two private servers and the installation they run from.
//!
//! Owns them all. The invariant: dropping the value stops the servers first and removes their
//! files after that; only `keep` leaves them. Break it and demos pile up in /tmp.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use pg_cache_testbed::process::Directory;
use pg_cache_testbed::{Cluster, Postgres, Redis};
use postgres::{Client, NoTls};

use crate::interrupt::Guard;
use crate::{Failure, interrupt};

/// PostgreSQL, its Redis, and what PostgreSQL warned of.
pub struct Stage {
    // In this order they are dropped: its pid may be another's once PostgreSQL is gone.
    guard: Guard,
    pub postgres: Postgres,
    pub redis: Redis,
    installation: Directory,
    warnings: Arc<Mutex<Vec<String>>>,
}

impl Stage {
    /// Makes an installation of PostgreSQL with the extension in it and starts both servers.
    pub fn set(pg_config: &Path, library: &Path, keepable: bool) -> Result<Stage, Failure> {
        let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let installation = Directory::new();
        let cluster = Cluster::create(pg_config, &installation.path().join("p"), &root, library);
        interrupt::check()?;
        let redis = if keepable { Redis::start_keepable(&[]) } else { Redis::start() };
        let url = redis.url();
        let postgres = Postgres::start_in(cluster, &[("pg_cache.url", &url)], keepable);
        let guard = Guard::on(postgres.pid());
        interrupt::check()?;
        postgres.register("test");
        Ok(Stage { guard, postgres, redis, installation, warnings: Arc::default() })
    }

    pub fn client(&self) -> Result<Client, Failure> {
        let warnings = Arc::clone(&self.warnings);
        let mut config: postgres::Config = self.postgres.conninfo("test").parse()?;
        config.notice_callback(move |notice| {
            let detail = notice.detail().map(|text| format!(" ({text})")).unwrap_or_default();
            let line = format!("{}: {}{detail}", notice.severity(), notice.message());
            warnings.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        });
        Ok(config.connect(NoTls)?)
    }

    /// What PostgreSQL said so far beside its answers; forgotten when taken.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// It is another server by then: PostgreSQL registers it before it keeps anything there.
    pub fn start_redis_again(&mut self) {
        self.redis.start_again();
        self.postgres.register("test");
    }

    /// Leaves everything running and tells how to use and how to end it.
    pub fn keep(self) {
        let directories = [
            self.postgres.socket_dir(),
            self.redis.socket().parent().unwrap_or(Path::new("")),
            self.installation.path(),
        ];
        let directories = directories.map(|path| path.display().to_string()).join(" ");
        let psql = self.postgres.bin("psql");
        println!("Both servers keep running, and Redis holds the three answers.");
        println!("  connect   {} '{}'", psql.display(), self.postgres.conninfo("test"));
        println!("            redis-cli -s {}", self.redis.socket().display());
        println!(
            "  stop      kill -QUIT {} && kill {} && sleep 1 && rm -rf {directories}",
            self.postgres.pid(),
            self.redis.pid(),
        );
        drop(self.guard);
        self.postgres.keep();
        self.redis.keep();
        self.installation.keep();
    }
}
