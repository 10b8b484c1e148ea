//! Runs the oracle for as long as wanted, and ends with the line to publish.
//!
//! Owns the command line only. The invariant: the exit status is 1 if and only if a promise was
//! broken, 2 for a wrong command line. Break it and a script takes red for green.

use std::process::ExitCode;
use std::time::Duration;

use pg_cache_chaos::guards::Guard;
use pg_cache_chaos::{Setup, run, troubles};

const USAGE: &str = "\
chaos [--minutes N | --seconds N] [--seed N] [--without GUARD [--keep-guard]]
      [--only TROUBLE[,TROUBLE…]]
      [--changes PART] [--questions PART] [--readers N] [--writers N]
      [--preloaded] [--memory] [--no-standby] [--calm] [--untracked] [--first]
    Needs PG_CACHE_PREFIX: run it by `make chaos MINUTES=…` or `scripts/with-prefix`.
    --without GUARD  removes a guard from the real code: a violation must be found
    --keep-guard     all else as without that guard, but it stays: none may be found
    --only           only these troubles
    --changes        only changes of the catalogue with this in their name, more often
    --questions      only queries with this in their key
    --preloaded      with the library in shared_preload_libraries
    --memory         the same, and the tag table in shared memory
    --calm           no troubles
    --untracked      tracks no table: a violation must be found
    --first          ends at the first violation";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let setup = match setup(&words) {
        Ok(setup) => setup,
        Err(why) => {
            eprintln!("chaos: {why}\n{USAGE}\nguards: {}", guard_names());
            eprintln!("troubles: {}", troubles().join(", "));
            return ExitCode::from(2);
        }
    };
    println!("seed {}", setup.seed);
    let outcome = run(setup);
    print!("{}", outcome.report);
    for details in &outcome.details {
        println!("violation {details}");
    }
    println!("{}", outcome.line);
    if outcome.violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn guard_names() -> String {
    Guard::ALL.map(Guard::name).join(", ")
}

fn setup(words: &[String]) -> Result<Setup, String> {
    let mut setup = Setup { seed: fastrand::u64(..1_000_000_000), ..Setup::default() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64, String> {
            let value = words.next().and_then(|value| value.parse().ok());
            value.ok_or_else(|| format!("{word} needs a number"))
        };
        match word.as_str() {
            "--minutes" => setup.time = Duration::from_secs(60 * number()?),
            "--seconds" => setup.time = Duration::from_secs(number()?),
            "--seed" => setup.seed = number()?,
            "--readers" => setup.readers = number()? as usize,
            "--writers" => setup.writers = number()? as usize,
            "--preloaded" => setup.preloaded = true,
            "--memory" => setup.memory = true,
            "--no-standby" => setup.standby = false,
            "--calm" => setup.only = Some(Vec::new()),
            "--untracked" => setup.tracked = false,
            "--keep-guard" => setup.keep_guard = true,
            "--first" => setup.stop_at = Some(""),
            "--only" => {
                let names: Vec<String> = words
                    .next()
                    .map(|list| list.split(',').map(str::to_owned).collect())
                    .unwrap_or_default();
                let unknown = names.iter().find(|name| !troubles().contains(&name.as_str()));
                if let Some(name) = unknown {
                    return Err(format!("no such trouble: {name}"));
                }
                setup.only = Some(names);
            }
            "--changes" => setup.changes = words.next().cloned(),
            "--questions" => setup.questions = words.next().cloned(),
            "--without" => {
                let name = words.next().cloned().unwrap_or_default();
                let guard = Guard::named(&name).ok_or(format!("no such guard: {name}"))?;
                setup = Setup { seed: setup.seed, ..Setup::without(guard) };
            }
            _ => return Err(format!("what is {word}?")),
        }
    }
    Ok(setup)
}
