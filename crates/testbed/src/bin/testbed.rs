//! The testbed for shell scripts: makes private PostgreSQL prefixes and runs PostgreSQL's own test
//! programs in them.
//!
//! Owns the command line only. The invariant: the exit status says whether everything passed, and
//! the last line of a suite reads `N passed, N failed`. Break it and a script takes red for green.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use pg_cache_testbed::regress::{Suite, run_suite};
use pg_cache_testbed::{Cluster, Pair};

const USAGE: &str = "\
testbed prefix (--major N | --pg-config PATH) --library PATH --out DIR [--root DIR]
    Copies that PostgreSQL into DIR (which must not exist), installs pg_cache into the copy and
    prints its bin directory: the value of PG_CACHE_PREFIX.
testbed regress [--results DIR] [TEST …]
testbed isolation [--results DIR] [TEST …]
    Runs tests/pg_regress or tests/isolation on the prefix PG_CACHE_PREFIX.
testbed hold
    Starts a PostgreSQL and a Redis, prints how to reach them, and holds them until its standard
    input ends.";

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if words.is_empty() {
        return wrong("which command?");
    }
    let command = words.remove(0);
    match command.as_str() {
        "prefix" => prefix(words),
        "regress" => suite(Suite::Regress, words),
        "hold" => hold(),
        "isolation" => suite(Suite::Isolation, words),
        _ => wrong(&format!("no such command: {command}")),
    }
}

fn prefix(mut words: Vec<String>) -> ExitCode {
    let root = option(&mut words, "--root").map_or_else(repository, PathBuf::from);
    let pg_config = match (option(&mut words, "--pg-config"), option(&mut words, "--major")) {
        (Some(path), None) => PathBuf::from(path),
        (None, Some(major)) => find_pg_config(&major),
        _ => return wrong("prefix needs one of --major and --pg-config"),
    };
    let (library, out) = (option(&mut words, "--library"), option(&mut words, "--out"));
    let (Some(library), Some(out), true) = (library, out, words.is_empty()) else {
        return wrong("prefix needs --library and --out");
    };
    let out = std::path::absolute(out).expect("a path");
    if out.exists() {
        return wrong(&format!("{} exists already", out.display()));
    }
    let cluster = Cluster::create(&pg_config, &out, &root, Path::new(&library));
    println!("{}", cluster.bin("").display().to_string().trim_end_matches('/'));
    ExitCode::SUCCESS
}

fn suite(suite: Suite, mut words: Vec<String>) -> ExitCode {
    let results = option(&mut words, "--results").map(PathBuf::from);
    let outcome = run_suite(suite, &repository(), &words, results.as_deref());
    println!("{} passed, {} failed", outcome.passed, outcome.failed);
    if outcome.failed == 0 && outcome.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn hold() -> ExitCode {
    let pair = Pair::start();
    println!("postgres {} redis {}", pair.postgres.pid(), pair.redis.pid());
    println!("psql '{}'", pair.postgres.conninfo("test"));
    println!("redis-cli -s {}", pair.redis.socket().display());
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
    ExitCode::SUCCESS
}

/// Takes `name VALUE` out of the command line.
fn option(words: &mut Vec<String>, name: &str) -> Option<String> {
    let at = words.iter().position(|word| word == name)?;
    words.remove(at);
    (at < words.len()).then(|| words.remove(at))
}

fn find_pg_config(major: &str) -> PathBuf {
    let script = repository().join("scripts/pg-config");
    let output = Command::new(&script).arg(major).output().expect("scripts/pg-config starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(printed.trim_end())
}

fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("crates/testbed lies two levels down").to_owned()
}

fn wrong(what: &str) -> ExitCode {
    eprintln!("testbed: {what}\n{USAGE}");
    ExitCode::from(2)
}
