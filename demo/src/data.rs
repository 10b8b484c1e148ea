//! The flights, in a schema with types and keys.
//!
//! Owns the loading. The invariant: every line of the CSV files is a row, or the loading fails; a
//! demo on half the data would be faster than the truth.

use std::fs::File;
use std::io::{BufReader, copy};
use std::path::Path;

use postgres::Client;

use crate::{Failure, interrupt};

const SCHEMA: &str = include_str!("../schema.sql");

/// In the order of their references.
const TABLES: [&str; 5] = ["airlines", "airports", "planes", "weather", "flights"];

/// Creates and fills the tables; returns how many rows each has.
pub fn load(client: &mut Client, directory: &Path) -> Result<Vec<(&'static str, u64)>, Failure> {
    client.batch_execute(SCHEMA)?;
    let mut counts = Vec::new();
    for table in TABLES {
        interrupt::check()?;
        let path = directory.join(format!("{table}.csv"));
        let file = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let sql = format!("COPY {table} FROM STDIN WITH (FORMAT csv, HEADER, NULL 'NA')");
        let mut rows = client.copy_in(&sql)?;
        copy(&mut BufReader::with_capacity(1 << 20, file), &mut rows)?;
        counts.push((table, rows.finish()?));
    }
    client.batch_execute("VACUUM ANALYZE")?;
    Ok(counts)
}
