//! What a person and a program read of the writers.
//!
//! Owns the table and the JSON. The invariant: a ratio is that of one round, between neighbours in
//! time. Break it and a slow minute of the disk is blamed on a trigger.

use serde_json::{Value, json};

use super::{Goal, Row, SCALE};

pub fn print_head(rounds: usize) {
    println!("\n## Writers: fsync on\n");
    println!("measured    {rounds} rounds; in each, every way in turn, in a database of its own");
    println!("            (pgbench, scale {SCALE}, prepared, 1 second). Ratios are of one");
    println!("            round; shown is their median, and their quartiles. Redis across: client");
    println!("            and PostgreSQL are pinned to one core, Redis to another.");
}

pub fn print(row: &Row) {
    println!("\n| {:<36} | {:>8} | {:>5} | {:<13} | goal |", row.what, "median", "ratio", "");
    println!("|{:-<38}|{:->10}|{:->7}|{:-<15}|------|", "", ":", ":", "");
    for result in &row.results {
        let (low, high) = (result.ratio(0.25), result.ratio(0.75));
        let memory = result.grown_kb.map(|kb| format!(" memory + {} MB", kb / 1024));
        println!(
            "| {:<36} | {:>8.2} | {:>5.2} | {low:>5.2} to {high:<4.2} | {}{} |",
            result.way,
            result.median(),
            result.ratio(0.5),
            goal_in_words(result.goal, result.ratio(0.5)),
            memory.unwrap_or_default(),
        );
    }
}

fn goal_in_words(goal: Option<Goal>, ratio: f64) -> String {
    let said = |met: bool, words: String| if met { words } else { format!("{words}: MISSED") };
    match goal {
        None => String::new(),
        Some(Goal::AtLeast(least)) => said(ratio >= least, format!("at least {least}")),
        Some(Goal::AtMost(most)) => said(ratio <= most, format!("at most {most}")),
    }
}

pub fn as_json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let results: Vec<Value> = row
            .results
            .iter()
            .map(|result| {
                let goal = result.goal.map(|goal| match goal {
                    Goal::AtLeast(least) => json!({ "at_least": least }),
                    Goal::AtMost(most) => json!({ "at_most": most }),
                });
                json!({
                    "way": result.id, "title": result.way, "median": result.median(),
                    "ratio": result.ratio(0.5), "ratio_quartile_1": result.ratio(0.25),
                    "ratio_quartile_3": result.ratio(0.75), "goal": goal,
                    "memory_grown_kb": result.grown_kb,
                })
            })
            .collect();
        json!({ "what": row.what, "ways": results })
    };
    Value::Array(rows.iter().map(row).collect())
}
