//! Ctrl-C, at any moment.
//!
//! Owns the signals SIGINT, SIGTERM and SIGHUP. The invariant: after one of them nothing waits any
//! longer, so that the values which own the servers are dropped at once: the running query loses
//! its PostgreSQL, and `check` stops whatever would come next. Break it and a Ctrl-C leaves servers
//! behind, or is ignored while a query runs.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::Failure;

static HAPPENED: AtomicBool = AtomicBool::new(false);

/// The postmaster whose end ends a running query; 0 while there is none.
static POSTMASTER: AtomicU32 = AtomicU32::new(0);

/// Takes the signals over.
pub fn watch() {
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]);
    let Ok(mut signals) = signals else { return };
    std::thread::spawn(move || {
        for _ in signals.forever() {
            HAPPENED.store(true, Ordering::SeqCst);
            stop_postmaster();
        }
    });
}

/// While it lives, a signal stops this postmaster at once.
pub struct Guard(());

impl Guard {
    pub fn on(postmaster: u32) -> Guard {
        POSTMASTER.store(postmaster, Ordering::SeqCst);
        // The signal may have come just before.
        if happened() {
            stop_postmaster();
        }
        Guard(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        POSTMASTER.store(0, Ordering::SeqCst);
    }
}

fn stop_postmaster() {
    let pid = POSTMASTER.load(Ordering::SeqCst);
    if pid != 0 {
        let _ = Command::new("kill").args(["-QUIT", &pid.to_string()]).status();
    }
}

pub fn happened() -> bool {
    HAPPENED.load(Ordering::SeqCst)
}

/// An error once a signal has come.
pub fn check() -> Result<(), Failure> {
    if happened() { Err("interrupted".into()) } else { Ok(()) }
}
