//! What tests that kill servers have in common: settings of a run, and connections that come back.
//!
//! Owns nothing of the product. The invariant: a connection is waited for until the run is over,
//! and no longer. Break it and a test hangs whose server does not come back.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres::{Client, Config, NoTls};

/// A number that whoever runs the test may give.
pub fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A connection, as soon as the server takes one again.
pub fn connected(conninfo: &str, is_over: &AtomicBool) -> Option<Client> {
    while !is_over.load(Ordering::Relaxed) {
        if let Ok(client) = Config::from_str(conninfo).unwrap().connect(NoTls) {
            return Some(client);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}
