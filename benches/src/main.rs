//! The benchmark: what a hit costs beside what PostgreSQL and Redis cost by themselves.
//!
//! Owns the run: servers, layouts, rounds, report. The invariant: whatever is compared was measured
//! in the same run, on the same processes, in turns, with the same pinning. Break it and a ratio
//! compares two machines. The exit status says that the run was complete, never that it was fast.

mod affinity;
mod cases;
mod commands;
mod entries;
mod facts;
mod flights;
mod raw_redis;
mod report;
mod rounds;
mod samples;
mod writes;

use std::error::Error;
use std::process::ExitCode;

use pg_cache_testbed::Pair;
use serde_json::Value;

use crate::entries::Home;
use crate::report::LayoutResult;

pub type Outcome<T> = Result<T, Box<dyn Error>>;

const ROUNDS: usize = 200;
const USAGE: &str = "usage: scripts/bench [--rounds N] [--only reads|writes|commands] [--record]";

/// Writers take seconds where readers take microseconds.
const READ_ROUNDS_PER_WRITE_ROUND: usize = 10;

/// Two applications, eight cases, four ways each.
const READ_ROUNDS_PER_COMMAND_ROUND: usize = 4;

/// What the command line asks for.
struct Plan {
    rounds: usize,
    reads: bool,
    writes: bool,
    commands: bool,
    /// Whether what the commands cost is written into the document.
    record: bool,
}

fn main() -> ExitCode {
    let plan = match plan() {
        Ok(plan) => plan,
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&plan) {
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

fn plan() -> Outcome<Plan> {
    let mut plan =
        Plan { rounds: ROUNDS, reads: true, writes: true, commands: true, record: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--record" {
            plan.record = true;
            continue;
        }
        let value = words.next().unwrap_or_default();
        match (word.as_str(), value.as_str()) {
            ("--rounds", number) => plan.rounds = number.parse()?,
            ("--only", "reads") => (plan.writes, plan.commands) = (false, false),
            ("--only", "writes") => (plan.reads, plan.commands) = (false, false),
            ("--only", "commands") => (plan.reads, plan.writes) = (false, false),
            _ => return Err(format!("what is {word} {value}?").into()),
        }
    }
    if plan.rounds == 0 { Err("at least one round".into()) } else { Ok(plan) }
}

fn run(plan: &Plan) -> Outcome<()> {
    // Nothing may run beside the measurement, and a slow machine's misses are no measurement.
    let settings = [("autovacuum", "off"), ("pg_cache.timeout_ms", "10000")];
    let pair = Pair::start_with(&settings, &[]);
    let facts = facts::collect(&pair, plan.rounds)?;
    report::print_head(&facts);
    let mut results = Vec::new();
    if plan.reads {
        results.extend(read(&pair, Home::Redis, plan.rounds)?);
        let preload = ("shared_preload_libraries", "pg_cache");
        let pair = Pair::start_with(&[settings[0], settings[1], preload], &[]);
        results.extend(read(&pair, Home::Memory, plan.rounds)?);
    }
    let commands = match plan.commands {
        true => commands::run(&pair, plan.rounds.div_ceil(READ_ROUNDS_PER_COMMAND_ROUND))?,
        false => Vec::new(),
    };
    commands::report::print(&commands);
    if plan.record {
        commands::report::record(&facts, &commands)?;
    }
    drop(pair);
    let writes = match plan.writes {
        true => writes::run(plan.rounds.div_ceil(READ_ROUNDS_PER_WRITE_ROUND))?,
        false => Value::Null,
    };
    println!("\nresults: {}", report::write_json(&facts, &results, &writes, &commands)?.display());
    Ok(())
}

fn read(pair: &Pair, home: Home, rounds: usize) -> Outcome<Vec<LayoutResult>> {
    let entries = entries::create(pair, home)?;
    let flights = flights::load(pair)?;
    let mut results = Vec::new();
    for layout in affinity::layouts()? {
        layout.apply(pair.postgres.pid(), pair.redis.pid())?;
        let cases = rounds::measure(pair, &entries, &flights, rounds)?;
        let result = LayoutResult { layout, home, cases };
        report::print_layout(&result);
        results.push(result);
    }
    Ok(results)
}
