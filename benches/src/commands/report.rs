//! What a person and a program read of the commands, and the part of `benches/RESULTS.md` on them.
//!
//! Owns the tables and the part between the two marks of the document. The invariant: both are made
//! from the same summaries, with the machine's load beside them. Break it and a number is copied by
//! hand, from another run.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{APP, Case, SQL, WAYS};
use crate::Outcome;
use crate::facts::Facts;
use crate::samples::{Samples, Summary, quantile};

const BEGIN: &str = "<!-- Commands: written by scripts/bench --record -->\n";
const END: &str = "<!-- Commands: end -->\n";

const ABOUT: &str = "\
An application has a query of its own to make, and something to do in Redis. *own* is the query
by itself: a row by its primary key, and for jobs an INSERT that commits. *redis* is the command
by itself, by redis-py or node-redis. *app* is both from the application, one after the other:
the query, then the command (a job: XREADGROUP, INSERT, XACK). *both* is both from the
application at once, with Promise.all, where the query and the command may go at once. *sql* is
both in one statement. PostgreSQL is reached by psycopg or pg, prepared, over a Unix socket in
all of them, Redis over a Unix socket too; one connection each, one call at a time, nothing
pinned, no fsync. A session is read as connect-redis does: GET and JSON, and EXPIRE to touch.
The rate limit is the same script in both. A job that `app` sends is in Redis when the call
ends, and lost if the application dies before it; one that `sql` sends is committed with the
row, and the worker delivers it behind. What `app` does to a job is not in one transaction with
the row; what `sql` does is. In each round every way makes 20 measured calls after 3 that are
not, in turns; the ratio is that of the medians of one round, its median over the rounds, and
the quartiles.
";

pub fn print(cases: &[Case]) {
    if !cases.is_empty() {
        println!("\n## Commands, from an application\n\n{ABOUT}\n{}", tables(cases));
    }
}

/// Puts them into the document in the place of those that it has.
pub fn record(facts: &Facts, cases: &[Case]) -> Outcome<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md");
    let text = fs::read_to_string(&file)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("RESULTS.md has no mark to begin at")?;
    let (_, after) = rest.split_once(END).ok_or("RESULTS.md has no mark to end at")?;
    let mut part = format!("\n## Commands, from an application\n\n{ABOUT}\n");
    writeln!(
        part,
        "{}, {}. PostgreSQL {}; Redis {}.",
        facts.date, facts.machine, facts.postgres, facts.redis
    )?;
    for doubt in &facts.doubts {
        writeln!(part, "**Doubtful**: {doubt}.")?;
    }
    writeln!(part, "\n{}", tables(cases))?;
    fs::write(&file, [before, BEGIN, &part, END, after].concat())?;
    Ok(())
}

fn tables(cases: &[Case]) -> String {
    let mut text = String::new();
    if let Some(case) = cases.first() {
        let (before, after) = case.load;
        text +=
            &format!("Load average {before} before and {after} after, this run's own included. ");
        text += "Medians in µs; the quartiles of the ratio in parentheses.\n";
    }
    let mut app = "";
    for case in cases {
        if case.app != app {
            app = case.app;
            text += &format!(
                "\n| {app:<24} |   own | redis |   app |  both |   sql | sql / app           | "
            );
            text += "p99 app | p99 sql | app a second | sql a second |\n";
            text += &format!("|{:-<26}|------:|------:|------:|------:|------:|{:-<21}|", "", "");
            text += "--------:|--------:|-------------:|-------------:|\n";
        }
        text += &row(case);
    }
    text
}

fn row(case: &Case) -> String {
    let of: Vec<_> = case.samples.iter().map(|samples| samples.summary()).collect();
    let median = |of: &Summary| match of.count {
        0 => " ".repeat(6) + " |",
        _ => format!(" {:>5.0} |", of.median_us),
    };
    let medians: String = of.iter().map(median).collect();
    let ratios = case.ratios();
    let part = |part| quantile(ratios.iter().copied(), part);
    let ratio = format!("{:.2} ({:.2} to {:.2})", part(0.5), part(0.25), part(0.75));
    let (app, sql) = (of[APP], of[SQL]);
    format!(
        "| {:<24} |{medians} {ratio:<19} | {:>7.0} | {:>7.0} | {:>12.0} | {:>12.0} |\n",
        case.title,
        app.p99_us,
        sql.p99_us,
        1e6 / app.mean_us,
        1e6 / sql.mean_us,
    )
}

pub fn as_json(cases: &[Case]) -> Value {
    let case = |case: &Case| {
        let measured = WAYS.iter().zip(case.samples.iter().map(Samples::summary));
        let ways = measured.filter(|(_, summary)| summary.count > 0).map(|(way, summary)| {
            json!({
                "way": way, "calls": summary.count, "mean_us": summary.mean_us,
                "median_us": summary.median_us, "p99_us": summary.p99_us, "max_us": summary.max_us,
            })
        });
        let ratios = case.ratios();
        let part = |part| quantile(ratios.iter().copied(), part);
        json!({
            "id": case.id, "title": case.title, "app": case.app, "load": [case.load.0, case.load.1],
            "ways": ways.collect::<Vec<_>>(), "sql_beside_app": part(0.5),
            "sql_beside_app_quartile_1": part(0.25), "sql_beside_app_quartile_3": part(0.75),
        })
    };
    Value::Array(cases.iter().map(case).collect())
}
