//! The benchmark: what a hit costs beside what PostgreSQL and Redis cost by themselves.
//!
//! Owns the run: servers, layouts, rounds, report. The invariant: whatever is compared was measured
//! in the same run, on the same processes, in turns, with the same pinning. Break it and a ratio
//! compares two machines. The exit status says that the run was complete, never that it was fast.

mod affinity;
mod cases;
mod entries;
mod facts;
mod flights;
mod raw_redis;
mod report;
mod rounds;
mod samples;

use std::error::Error;
use std::process::ExitCode;

use pg_cache_testbed::Pair;

pub type Outcome<T> = Result<T, Box<dyn Error>>;

const ROUNDS: usize = 200;
const USAGE: &str = "usage: scripts/bench [--rounds N]";

fn main() -> ExitCode {
    let rounds = match rounds_asked_for() {
        Ok(rounds) => rounds,
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench: {why}{}", cause(&*why));
            ExitCode::FAILURE
        }
    }
}

/// What the server said: the error of the postgres crate says only that it said something.
fn cause(error: &dyn Error) -> String {
    error.source().map(|cause| format!(": {cause}")).unwrap_or_default()
}

fn rounds_asked_for() -> Outcome<usize> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(ROUNDS),
        ["--rounds", number] => match number.parse()? {
            0 => Err("at least one round".into()),
            rounds => Ok(rounds),
        },
        _ => Err("what is that?".into()),
    }
}

fn run(rounds: usize) -> Outcome<()> {
    // Nothing may run beside the measurement, and a slow machine's misses are no measurement.
    let settings = [("autovacuum", "off"), ("pg_cache.timeout_ms", "10000")];
    let pair = Pair::start_with(&settings, &[]);
    let facts = facts::collect(&pair, rounds)?;
    report::print_head(&facts);

    let entries = entries::create(&pair)?;
    let flights = flights::load(&pair)?;
    let mut results = Vec::new();
    for layout in affinity::layouts()? {
        layout.apply(pair.postgres.pid(), pair.redis.pid())?;
        let cases = rounds::measure(&pair, &entries, &flights, rounds)?;
        let result = report::LayoutResult { layout, cases };
        report::print_layout(&result);
        results.push(result);
    }
    println!("\nresults: {}", report::write_json(&facts, &results)?.display());
    Ok(())
}
