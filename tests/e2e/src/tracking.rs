//! Tables that are tracked.

use postgres::Client;

/// `redis_track(table, by)`.
#[track_caller]
pub fn track(client: &mut Client, table: &str, by: &str) {
    client.batch_execute(&format!("SELECT redis_track('{table}', '{by}')")).unwrap();
}

/// A collation `ci` by which 'A' = 'a', or, in a server without ICU, any collation of that name.
/// Returns whether it is the former.
pub fn create_collation(client: &mut Client) -> bool {
    let real = "CREATE COLLATION ci
                  (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    let has_icu = client.batch_execute(real).is_ok();
    if !has_icu {
        client.batch_execute("CREATE COLLATION ci FROM \"C\"").unwrap();
    }
    has_icu
}
