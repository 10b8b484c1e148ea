//! Tables that are tracked.

use postgres::Client;

/// `redis_track(table, by)`.
#[track_caller]
pub fn track(client: &mut Client, table: &str, by: &str) {
    client.batch_execute(&format!("SELECT redis_track('{table}', '{by}')")).unwrap();
}
