//! `make demo`: pg_cache at work on 336,776 real flights, for a person to watch.
//!
//! Owns the order of what is shown. The invariant: a number that is printed was measured in this
//! run, and what is said to come from Redis did (the counters are read, not trusted). Whatever
//! ends the demo, a Ctrl-C included, its servers and directories are gone afterwards, unless
//! `--keep` asked for them. Break it and the first thing people see of pg_cache is a lie or a mess.

mod data;
mod interrupt;
mod read;
mod show;
mod stage;

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::read::Question;
use crate::stage::Stage;

const USAGE: &str =
    "pg_cache_demo --pg-config PATH --library PATH --data DIR [--keep] (see scripts/demo)";

/// What goes wrong here is told to a person and ends the demo.
type Failure = Box<dyn Error>;

struct Arguments {
    pg_config: PathBuf,
    library: PathBuf,
    data: PathBuf,
    keep: bool,
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    interrupt::watch();
    // The testbed panics when a server is gone, and after a Ctrl-C that is as it should be.
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !interrupt::happened() {
            loud(info);
        }
    }));
    let outcome = catch_unwind(AssertUnwindSafe(|| demo(&arguments)));
    if interrupt::happened() {
        println!("\nInterrupted. Both servers are stopped and their files removed.");
        return ExitCode::from(130);
    }
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => {
            eprintln!("\nThe demo failed: {failure}");
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn arguments() -> Option<Arguments> {
    let (mut pg_config, mut library, mut data, mut keep) = (None, None, None, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--pg-config" => pg_config = words.next(),
            "--library" => library = words.next(),
            "--data" => data = words.next(),
            "--keep" => keep = true,
            _ => return None,
        }
    }
    Some(Arguments {
        pg_config: pg_config?.into(),
        library: library?.into(),
        data: data?.into(),
        keep,
    })
}

fn demo(arguments: &Arguments) -> Result<(), Failure> {
    println!("Starting a private PostgreSQL and a private Redis …");
    let mut stage = Stage::set(&arguments.pg_config, &arguments.library, arguments.keep)?;
    println!("Loading the flights of New York in 2013 …\n");
    let counts = data::load(&mut stage.client()?, &arguments.data)?;
    interrupt::check()?;
    show::tables(&counts);

    let questions = Question::all();
    let first = &questions[0];
    let answers = read::compare(&stage, &questions)?;
    show::times(&answers);
    interrupt::check()?;

    show::redis_cli(&stage, first);
    show::as_table(&stage, first)?;
    interrupt::check()?;

    let without = read::without_redis(&mut stage, first, &answers[0].text)?;
    show::without_redis(&without);
    interrupt::check()?;

    if arguments.keep {
        stage.start_redis_again();
        read::compare(&stage, &questions)?;
        stage.keep();
    } else {
        drop(stage);
        println!("Both servers are stopped and their files removed.");
    }
    Ok(())
}
