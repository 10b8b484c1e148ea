//! Time, measured against this machine's own pace.
//!
//! Owns the allowance: what a promise of "within 100 ms" may take here is 100 ms above what
//! PostgreSQL itself needs for the same thing, measured in the same run. Break it and the tests
//! fail on a slow machine or prove nothing on a fast one.

use std::time::{Duration, Instant};

use postgres::Client;

use crate::outcome::sqlstate;

/// The promise: a cancel takes effect within this of its time.
pub const PROMPT: Duration = Duration::from_millis(100);

/// The result of `work` and how long it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

/// How long past its `statement_timeout` PostgreSQL ends a statement that only sleeps: the worst of
/// three.
pub fn timeout_overhead(client: &mut Client, timeout_ms: u64) -> Duration {
    client.batch_execute(&format!("SET statement_timeout = {timeout_ms}")).unwrap();
    let worst = (0..3)
        .map(|_| {
            let (result, took) = timed(|| client.batch_execute("SELECT pg_sleep(30)"));
            assert_eq!(sqlstate(&result.unwrap_err()), "57014");
            took.saturating_sub(Duration::from_millis(timeout_ms))
        })
        .max();
    client.batch_execute("RESET statement_timeout").unwrap();
    worst.unwrap()
}
