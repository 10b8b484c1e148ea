//! A gate at a fault point: a backend waits there until the test lets it go on.
//!
//! Owns a file that says so, and one that says that somebody waits. The invariant: a gate that is
//! dropped is open, so that no backend is left behind. Break it and a test that fails hangs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pg_cache_testbed::eventually;
use pg_cache_testbed::process::Directory;

const MET_TIME_MAX: Duration = Duration::from_secs(30);

pub struct Gate {
    directory: Directory,
}

impl Gate {
    /// A closed one.
    pub fn new() -> Gate {
        Gate { directory: Directory::new() }
    }

    /// For `pg_cache.fault_point`: whoever comes to this point waits.
    pub fn at(&self, point: &str) -> String {
        format!("{point}:await_{}", self.path().display())
    }

    /// Waits until somebody is there.
    #[track_caller]
    pub fn met(&self) {
        let met = self.path().with_extension("met");
        eventually(MET_TIME_MAX, "somebody is at the gate", || met.exists());
    }

    pub fn open(&self) {
        let _ = fs::write(self.path(), "");
    }

    fn path(&self) -> PathBuf {
        Path::join(self.directory.path(), "gate")
    }
}

impl Default for Gate {
    fn default() -> Gate {
        Gate::new()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
        // Whoever waits looks every few milliseconds, and then the file may go.
        std::thread::sleep(Duration::from_millis(20));
    }
}
