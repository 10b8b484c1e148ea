//! A hot standby of a server of ours.
//!
//! Owns the base backup and the promotion; from then on it is a `Postgres` like any other.

use std::process::Command;
use std::time::Duration;

use crate::process::{Directory, run_well};
use crate::{Postgres, eventually};

const PROMOTION_TIMEOUT: Duration = Duration::from_secs(60);

impl Postgres {
    /// Copies this running server and follows it by streaming. `conf` comes after what is copied.
    pub fn standby(&self, conf: &[(&str, &str)]) -> Postgres {
        let directory = Directory::new();
        let data_dir = directory.path().join("data");
        let mut backup = Command::new(self.bin("pg_basebackup"));
        backup.args(["--checkpoint=fast", "--write-recovery-conf", "--wal-method=stream"]);
        backup.arg("--host").arg(self.socket_dir()).args(["--username=postgres", "--no-sync"]);
        backup.arg("--pgdata").arg(&data_dir);
        run_well(backup, directory.path());
        Postgres::launch(self.cluster().clone(), directory, data_dir, conf, false)
    }

    /// Makes a standby the primary, and returns when it takes writes.
    pub fn promote(&self) {
        let mut client = self.connect();
        eventually(PROMOTION_TIMEOUT, "the standby is promoted", || {
            // What it replays may cancel either statement.
            let _ = client.batch_execute("SELECT pg_promote(false) WHERE pg_is_in_recovery()");
            let row = client.query_one("SELECT pg_is_in_recovery()", &[]);
            row.is_ok_and(|row| !row.get::<_, bool>(0))
        });
    }
}
