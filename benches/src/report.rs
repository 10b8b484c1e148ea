//! What a person and a program read of a run.
//!
//! Owns the table, the goal line and `target/bench/results.json`. The invariant: all three are made
//! from the same summaries. Break it and the two disagree.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Outcome;
use crate::affinity::Layout;
use crate::commands::{self, Case};
use crate::entries::Home;
use crate::facts::Facts;
use crate::rounds::Measured;
use crate::samples::quantile;

/// What a hit of 150 B may add to `SELECT 1`, in round trips of a raw GET.
const GOAL: f64 = 1.3;

pub struct LayoutResult {
    pub layout: Layout,
    pub home: Home,
    pub cases: Vec<Measured>,
}

/// The multiple of the goal line: of each round, so that a slow hour is the same for all three of
/// its times; their median and quartiles.
struct Goal {
    median: f64,
    quarter: f64,
    three_quarters: f64,
}

pub fn print_head(facts: &Facts) {
    println!("machine     {}", facts.machine);
    println!("PostgreSQL  {}", facts.postgres);
    println!("Redis       {}", facts.redis);
    println!("date        {}", facts.date);
    let rounds = facts.rounds;
    println!(
        "measured    {rounds} rounds; in each, every case in turn makes up to 100 calls after"
    );
    println!("            40 unmeasured ones (1 MB: 4 after 1; plain flights queries: about 20 in");
    println!("            the run). One connection over the Unix socket, client postgres crate;");
    println!("            prepared statements, flights as simple queries. Raw: a blocking");
    println!("            UnixStream and a packed command. Each backend has once freed 24 MB.");
    for doubt in &facts.doubts {
        println!("DOUBTFUL    {doubt}");
    }
}

pub fn print_layout(result: &LayoutResult) {
    println!("\n## {}; {}\n", result.layout.title, result.home.title());
    println!("| {:<36} | {:>6} | {:>9} | {:>9} | ratio |", "case", "calls", "median", "p99");
    println!("|{:-<38}|{:->8}|{:->11}|{:->11}|-------|", "", ":", ":", ":");
    for measured in &result.cases {
        let summary = measured.samples.summary();
        println!(
            "| {:<36} | {:>6} | {:>9} | {:>9} | {} |",
            measured.case.title,
            summary.count,
            time(summary.median_us),
            time(summary.p99_us),
            ratio_in_words(measured, &result.cases),
        );
    }
    if let Some(goal) = goal(result) {
        println!(
            "\n(hit 150 B - SELECT 1) / raw GET = {:.2} (median of the rounds; quartiles {:.2} to \
             {:.2}); goal: at most {GOAL}",
            goal.median, goal.quarter, goal.three_quarters
        );
    }
}

pub fn write_json(
    facts: &Facts,
    results: &[LayoutResult],
    writes: &Value,
    commands: &[Case],
) -> Outcome<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target"),
        PathBuf::from,
    );
    let folder = target.join("bench");
    fs::create_dir_all(&folder)?;
    let file = folder.join("results.json");
    let layouts: Vec<Value> = results.iter().map(layout_as_json).collect();
    let all = json!({ "facts": facts.as_json(), "layouts": layouts, "writes": writes,
                      "commands": commands::report::as_json(commands) });
    fs::write(&file, format!("{all:#}\n"))?;
    Ok(file)
}

fn layout_as_json(result: &LayoutResult) -> Value {
    let cases: Vec<Value> = result
        .cases
        .iter()
        .map(|measured| {
            let summary = measured.samples.summary();
            json!({
                "id": measured.case.id,
                "title": measured.case.title,
                "calls": summary.count,
                "median_us": summary.median_us,
                "p99_us": summary.p99_us,
                "max_us": summary.max_us,
                "beside": measured.case.beside,
                "ratio": ratio(measured, &result.cases),
            })
        })
        .collect();
    let goal = goal(result).map(|goal| {
        json!({
            "at_most": GOAL, "rounds_median": goal.median,
            "rounds_quartile_1": goal.quarter, "rounds_quartile_3": goal.three_quarters,
        })
    });
    json!({ "id": result.layout.id, "title": result.layout.title,
            "tag_table": result.home.title(), "cases": cases, "goal": goal })
}

fn find<'a>(id: &str, cases: &'a [Measured]) -> Option<&'a Measured> {
    cases.iter().find(|measured| measured.case.id == id)
}

/// None where nothing is pinned.
fn goal(result: &LayoutResult) -> Option<Goal> {
    let cases = Some(&result.cases).filter(|_| result.layout.is_pinned)?;
    let [hit, nothing, get] = ["hit_150", "select_1", "get_150"].map(|id| find(id, cases));
    let (hit, nothing, get) = (&hit?.samples, &nothing?.samples, &get?.samples);
    let multiple = |hit: f64, nothing: f64, get: f64| (hit - nothing) / get;
    let rounds = hit.round_medians_us().into_iter();
    let rounds = rounds.zip(nothing.round_medians_us()).zip(get.round_medians_us());
    let each: Vec<f64> = rounds.map(|((h, n), g)| multiple(h.1, n.1, g.1)).collect();
    let part = |part| quantile(each.iter().copied(), part);
    Some(Goal { median: part(0.5), quarter: part(0.25), three_quarters: part(0.75) })
}

/// The median as a multiple of the other case's.
fn ratio(measured: &Measured, cases: &[Measured]) -> Option<f64> {
    let other = find(measured.case.beside.as_ref()?, cases)?;
    Some(measured.samples.summary().median_us / other.samples.summary().median_us)
}

fn ratio_in_words(measured: &Measured, cases: &[Measured]) -> String {
    let beside = measured.case.beside.as_ref().and_then(|id| find(id, cases));
    let (Some(ratio), Some(other)) = (ratio(measured, cases), beside) else {
        return String::new();
    };
    let other = &other.case.title;
    match ratio < 0.5 {
        true => format!("{:.0} times faster than {other}", 1.0 / ratio),
        false => format!("{ratio:.2} × {other}"),
    }
}

fn time(us: f64) -> String {
    match us < 10_000.0 {
        true => format!("{us:.1} µs"),
        false => format!("{:.1} ms", us / 1000.0),
    }
}
