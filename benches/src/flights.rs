//! The demo's data and queries: what caching is for.
//!
//! Owns the loading. The invariant: schema and queries are the demo's own files, so that the report
//! speaks of what the demo shows; and without the data the rest is measured all the same, and the
//! report says what is missing. Break it and a machine without the data has no benchmark.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use pg_cache_testbed::Pair;

use crate::Outcome;
use crate::entries::TTL_S;

/// In the order of their references.
const TABLES: [&str; 5] = ["airlines", "airports", "planes", "weather", "flights"];

/// One of `demo/queries/*.sql`.
pub struct Query {
    pub name: String,
    pub text: String,
}

impl Query {
    pub fn cached(&self) -> String {
        let Query { name, text } = self;
        format!("SELECT redis_cached('flights:{name}', {TTL_S}, $query${text}$query$)")
    }
}

#[derive(Default)]
pub struct Flights {
    /// None if the data is missing.
    pub queries: Vec<Query>,
}

/// Loads what `scripts/demo-data` fetched, from `PG_CACHE_DEMO_DATA` or `target/demo-data`.
pub fn load(pair: &Pair) -> Outcome<Flights> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("");
    let data = std::env::var_os("PG_CACHE_DEMO_DATA")
        .map_or_else(|| root.join("target/demo-data"), PathBuf::from);
    let csv = |table: &str| data.join(table).with_extension("csv");
    let schema = root.join("demo/schema.sql");
    if let Some(missing) = TABLES.map(csv).iter().chain([&schema]).find(|file| !file.exists()) {
        println!("skipped     flights queries: there is no {}", missing.display());
        return Ok(Flights::default());
    }
    let mut sql = pair.postgres.connect();
    sql.batch_execute(&fs::read_to_string(schema)?)?;
    for table in TABLES {
        let copy = format!("COPY {table} FROM STDIN (FORMAT csv, HEADER, NULL 'NA')");
        let mut writer = sql.copy_in(&copy)?;
        io::copy(&mut File::open(csv(table))?, &mut writer)?;
        writer.finish()?;
    }
    sql.batch_execute("VACUUM ANALYZE")?;
    Ok(Flights { queries: queries(&root.join("demo/queries"))? })
}

fn queries(folder: &Path) -> Outcome<Vec<Query>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let file = entry?.path();
        if let Some(name) = file.file_stem().filter(|_| file.extension() == Some("sql".as_ref())) {
            let text = fs::read_to_string(&file)?.trim_end().to_owned();
            found.push(Query { name: name.to_string_lossy().into_owned(), text });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}
