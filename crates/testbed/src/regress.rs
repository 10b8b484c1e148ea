//! Running pg_regress and pg_isolation_regress against a private pair of servers.
//!
//! The tests lie in `tests/pg_regress/{sql,expected}` and `tests/isolation/{specs,expected}`; they
//! run as superuser `postgres` in database `contrib_regression`, where the extension has already
//! been created (they must not create it), one after another in the order of their names. All of
//! them share one Redis, empty at the start; `pg_cache.url` is set.
//!
//! The invariant: every file of the suite is run and counted exactly once. Break it and a suite
//! that ran nothing passes.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Pair;
use crate::process::{Directory, give_to_service, run};

const DATABASE: &str = "contrib_regression";

/// Which of PostgreSQL's two test programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    Regress,
    Isolation,
}

impl Suite {
    fn program(self) -> &'static str {
        match self {
            Suite::Regress => "regress/pg_regress",
            Suite::Isolation => "isolation/pg_isolation_regress",
        }
    }

    /// The suite's directory in the repository, and of what directory and ending its tests are.
    fn files(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Suite::Regress => ("tests/pg_regress", "sql", "sql"),
            Suite::Isolation => ("tests/isolation", "specs", "spec"),
        }
    }
}

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub passed: usize,
    pub failed: usize,
}

/// Runs a suite of the repository at `root`, printing what the program prints and, for what
/// failed, the differences. `only` names the tests to run, all when empty. The outputs are copied
/// to `results` when given.
pub fn run_suite(suite: Suite, root: &Path, only: &[String], results: Option<&Path>) -> Outcome {
    let (files, tests_in, ending) = suite.files();
    let all = test_names(&root.join(files).join(tests_in), ending);
    let tests = if only.is_empty() { &all } else { only };
    assert!(!tests.is_empty(), "{files}/{tests_in} holds no test");

    let pair = Pair::start_with(&[("max_prepared_transactions", "10")], &[]);
    prepare_database(&pair);
    // A copy, since the service account may be unable to enter the repository.
    let work = Directory::new();
    let input = copy_input(&root.join(files), &work);
    let output = work.path().join("output");
    fs::create_dir(&output).expect("a directory of ours");
    give_to_service(&output);

    let cluster = pair.postgres.cluster();
    let mut command = Command::new(cluster.test_program(suite.program()));
    command.arg("--inputdir").arg(&input).arg("--outputdir").arg(&output);
    command.arg("--bindir").arg(cluster.bin("psql").parent().expect("bin"));
    command.arg("--host").arg(pair.postgres.socket_dir()).args(["--port=5432"]);
    command.args(["--user=postgres", "--use-existing", "--dbname", DATABASE]).args(tests);
    let ran = run(command, work.path());
    let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
    print!("{printed}{}", String::from_utf8_lossy(&ran.stderr));
    if let Some(results) = results {
        copy_tree(&output.join("results"), results);
    }

    let mut outcome = count(&printed);
    // What was not reported did not pass; nor did anything when the program itself says no.
    outcome.failed += tests.len().saturating_sub(outcome.passed + outcome.failed);
    if !ran.status.success() && outcome.failed == 0 {
        outcome.failed = 1;
    }
    if outcome.failed > 0 {
        let diffs = fs::read(output.join("regression.diffs")).unwrap_or_default();
        println!("{}", String::from_utf8_lossy(&diffs));
    }
    outcome
}

fn test_names(directory: &Path, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|e| panic!("{directory:?}: {e}"));
    let paths = entries.map(|entry| entry.expect("can be listed").path());
    let tests = paths.filter(|path| path.extension().is_some_and(|found| found == ending));
    let mut names: Vec<String> =
        tests.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}

/// With `--use-existing` the program creates nothing, so what it would set is set here.
fn prepare_database(pair: &Pair) {
    let mut client = pair.postgres.connect_as("postgres", "postgres");
    client.batch_execute(&format!("CREATE DATABASE {DATABASE}")).expect("CREATE DATABASE");
    for setting in [
        "lc_messages = 'C'",
        "lc_monetary = 'C'",
        "lc_numeric = 'C'",
        "lc_time = 'C'",
        "bytea_output = 'hex'",
        "timezone_abbreviations = 'Default'",
    ] {
        let alter = format!("ALTER DATABASE {DATABASE} SET {setting}");
        client.batch_execute(&alter).expect("ALTER DATABASE");
    }
    pair.postgres.create_extension(DATABASE);
    pair.postgres.register(DATABASE);
}

fn copy_input(from: &Path, work: &Directory) -> std::path::PathBuf {
    let input = work.path().join("input");
    copy_tree(from, &input);
    let mut readable = Command::new("chmod");
    readable.args(["-R", "a+rX"]).arg(&input);
    let done = readable.status().expect("chmod starts");
    assert!(done.success(), "{readable:?}: {done}");
    input
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap_or_else(|error| panic!("{to:?}: {error}"));
    let mut copy = Command::new("cp");
    copy.arg("-R").arg(from.join(".")).arg(to);
    let done = copy.status().expect("cp starts");
    assert!(done.success(), "{copy:?}: {done}");
}

/// PostgreSQL 14 and 15 print `test NAME … ok`, from 16 on it is TAP.
fn count(printed: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for line in printed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let verdict = words.iter().position(|word| *word == "...").map(|dots| &words[dots + 1..]);
        match (words.as_slice(), verdict) {
            (["ok", _, "-" | "+", ..], _) | (["test", ..], Some(["ok", ..])) => outcome.passed += 1,
            (["not", "ok", ..], _) | (["test", ..], Some(["FAILED", ..])) => outcome.failed += 1,
            _ => {}
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_pg_regress_to_report_are_counted() {
        // A verdict that is not recognised would let a failed suite pass.
        let old = "test surface                     ... ok           34 ms\n\
                   test errors                      ... FAILED       12 ms\n\
                   1 of 2 tests failed.\n";
        let new = "# using postmaster on /tmp, port 5432\n\
                   ok 1         - surface                                    34 ms\n\
                   not ok 2     - errors                                     12 ms\n\
                   1..2\n# 1 of 2 tests failed.\n";
        let one_each = Outcome { passed: 1, failed: 1 };
        assert_eq!(count(old), one_each);
        assert_eq!(count(new), one_each);
    }
}
