//! The entries of this database in Redis, found in steps that do not hold up others there.
//!
//! SCAN finds what stood there all the while it was walked; what is filled meanwhile it may miss.

use pg_cache_core::key::SIDECAR_PATTERN;

use crate::client::failure::Failure;
use crate::connection;
use crate::pg::host;

/// How many keys Redis looks at in one step.
pub const STEP_KEYS: u64 = 200;

/// One step from a cursor on: the next cursor, which is zero at the end, and the names that match.
pub fn step(pattern: &str, cursor: u64) -> Result<(u64, Vec<Vec<u8>>), Failure> {
    let mut scan = redis::cmd("SCAN");
    scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(STEP_KEYS);
    connection::ask(|session| Ok(scan.query(session)?))
}

/// All names that match, a step at a time; a cancel ends it between two.
pub fn walk(
    pattern: &str,
    mut each: impl FnMut(&[Vec<u8>]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut cursor = 0;
    loop {
        host::check_interrupts();
        let (next, names) = step(pattern, cursor)?;
        each(&names)?;
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}

/// What matches the sidecars of the keys that match `glob`, or of all with this prefix.
pub fn pattern(prefix: &[u8], glob: Option<&str>) -> String {
    match glob {
        None if prefix.is_empty() => SIDECAR_PATTERN.to_owned(),
        // The slot tag of a sidecar's name is three bytes: any three.
        glob => format!("pgc:e:{{???}}:{}{}", literal(prefix), glob.unwrap_or("*")),
    }
}

/// A text as a pattern that matches only itself.
pub fn literal(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().fold(String::new(), |mut pattern, c| {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
            pattern.push('\\');
        }
        pattern.push(c);
        pattern
    })
}
