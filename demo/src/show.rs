//! What the person at the terminal reads.
//!
//! Owns the layout: short, aligned, at most 100 columns. Decides nothing and measures nothing.

use std::time::Duration;

use crate::Failure;
use crate::read::{Answer, Question, Without};
use crate::stage::Stage;

const GET_BYTES_SHOWN: usize = 200;
const TABLE_ROWS_SHOWN: usize = 5;

pub fn tables(counts: &[(&str, u64)]) {
    let counts: Vec<String> =
        counts.iter().rev().map(|(table, rows)| format!("{} {table}", grouped(*rows))).collect();
    println!("{}\n", counts.join(", "));
}

pub fn times(answers: &[Answer]) {
    println!("{:<32}{:>6}{:>14}{:>12}{:>10}", "redis_cached", "rows", "PostgreSQL", "Redis", "");
    for answer in answers {
        let factor = answer.miss.as_secs_f64() / answer.hit.as_secs_f64();
        println!(
            "{:<32}{:>6}{:>11.1} ms{:>9.3} ms{:>9}×",
            answer.title,
            answer.rows,
            ms(answer.miss),
            ms(answer.hit),
            grouped(factor.round() as u64),
        );
    }
    println!("\nPostgreSQL: the first call, which computes and fills. Redis: the median of the");
    println!("next 101. Every answer was compared with PostgreSQL's own JSON, byte for byte.\n");
}

pub fn redis_cli(stage: &Stage, question: &Question) {
    let value = stage.redis.cli(&["GET", question.key]);
    let shown: String =
        value.bytes().take(GET_BYTES_SHOWN).map(char::from).filter(char::is_ascii).collect();
    println!("$ redis-cli GET {}", question.key);
    println!("{shown} … ({} bytes in all)\n", grouped(value.len() as u64));
}

pub fn as_table(stage: &Stage, question: &Question) -> Result<(), Failure> {
    let statement = stage.client()?.prepare(question.query)?;
    let columns: Vec<String> = statement
        .columns()
        .iter()
        .map(|column| format!("{} {}", column.name(), column.type_().name()))
        .collect();
    let columns = columns.join(", ");
    let sql = format!(
        "SELECT * FROM redis_cached_rows('{}', '10 minutes', $q${}$q$) AS t({columns}) LIMIT {}",
        question.key, question.query, TABLE_ROWS_SHOWN
    );
    println!("SELECT * FROM redis_cached_rows('{}', '10 minutes', 'SELECT …')", question.key);
    println!("  AS t({}) LIMIT {TABLE_ROWS_SHOWN};", columns.replace(", ", ",\n       "));
    println!("{}\n", stage.postgres.psql(&["-P", "footer=off"], &sql).trim_end());
    Ok(())
}

pub fn without_redis(without: &Without) {
    println!("Redis is stopped. The same call, {}:", without.title);
    for warning in &without.warnings {
        println!("  {warning}");
    }
    println!("  the same answer after {:.1} ms, from PostgreSQL\n", ms(without.took));
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// With commas between the thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        // A comma in the wrong place makes a factor ten times what it is.
        assert_eq!([0, 999, 1000, 336_776].map(grouped), ["0", "999", "1,000", "336,776"]);
    }
}
