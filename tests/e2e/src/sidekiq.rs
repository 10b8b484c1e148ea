//! A real Sidekiq server beside the database.
//!
//! Owns its process. The invariant: it loads the worker of tests/e2e/consumers/sidekiq and works on
//! one Redis, and ends with the value. Break it and a test sees what another's server ran.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pg_cache_testbed::{Redis, eventually};
use serde_json::Value;

const START_TIME_MAX: Duration = Duration::from_secs(60);

pub struct Sidekiq {
    process: Child,
}

impl Sidekiq {
    /// Starts one for a queue, and waits until it works.
    pub fn start(redis: &Redis, queue: &str) -> Sidekiq {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        let process = Command::new("sidekiq")
            .args(["--concurrency", "2", "--queue", queue, "--require"])
            .arg(root.join("tests/e2e/consumers/sidekiq/worker.rb"))
            .env("REDIS_SOCKET", redis.socket())
            .env("LANG", "C.UTF-8")
            // Its Redis client deprecates what this Sidekiq calls.
            .env("RUBYOPT", "-W0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("there is no sidekiq here: 'make setup' installs ruby-sidekiq");
        let mut sidekiq = Sidekiq { process };
        let mut client = redis.client();
        eventually(START_TIME_MAX, "sidekiq starts", || {
            assert_eq!(sidekiq.process.try_wait().unwrap(), None, "sidekiq ended");
            redis::cmd("EXISTS").arg("sidekiq:started").query(&mut client).unwrap()
        });
        sidekiq
    }
}

impl Drop for Sidekiq {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the worker wrote of the jobs that it ran, in their order.
pub fn ran(redis: &Redis) -> Vec<Value> {
    let mut range = redis::cmd("LRANGE");
    let ran: Vec<String> = range.arg("ran").arg(0).arg(-1).query(&mut redis.client()).unwrap();
    ran.iter().map(|said| serde_json::from_str(said).unwrap()).collect()
}
