//! Finds query texts in which analysis may freeze the clock.
//!
//! PostgreSQL turns a literal such as `'today'::date` into a constant when it analyses the query,
//! so a plan that is kept would mean the day on which it was made for as long as it lives.
//! Invariant: a text that spells such a literal is always found; one without may be found too, and
//! costs an analysis.

const WORDS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// Whether a literal of the text may mean the current time. `now()` is a call, not a literal.
pub fn may_freeze(query: &str) -> bool {
    let lower = query.to_ascii_lowercase();
    // With escapes, any literal may spell such a word.
    let escapes = lower.contains("u&'") || (lower.contains('\\') && lower.contains("e'"));
    escapes
        || continues_a_literal(&lower)
        || WORDS.iter().any(|word| {
            lower.match_indices(word).any(|(at, _)| stands_alone(&lower, at, at + word.len()))
        })
}

/// Two literals with only white space and a line end between them are one.
fn continues_a_literal(text: &str) -> bool {
    text.match_indices('\'').any(|(at, _)| {
        let behind = &text[at + 1..];
        let next = behind.trim_start();
        next.starts_with('\'') && behind[..behind.len() - next.len()].contains('\n')
    })
}

fn stands_alone(text: &str, start: usize, end: usize) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    let before = text[..start].chars().next_back();
    let after = &text[end..];
    !before.is_some_and(part_of_name)
        && !after.starts_with(part_of_name)
        && !after.trim_start().starts_with('(')
}

#[cfg(test)]
mod tests {
    use super::may_freeze;

    /// Danger: a backend that keeps the plan of `'today'` answers tomorrow with yesterday's rows.
    #[test]
    fn finds_every_literal_that_means_the_clock() {
        for text in [
            "select 'now'::timestamptz",
            "select date 'Today'",
            "select timestamp 'tomorrow 10:00'",
            "select ' yesterday '::date",
            "select $$now$$::timestamptz",
            "select E'now'::timestamptz",
            "select 'today'",
            "select 'no'\n 'w'::timestamptz",
            r"select E'\x6eow'::timestamptz",
            r"select U&'\006eow'::timestamptz",
        ] {
            assert!(may_freeze(text), "{text}");
        }
    }

    /// Danger: analysing such queries at every call would cost more than Redis.
    #[test]
    fn leaves_calls_and_names_alone() {
        for text in [
            "select now()",
            "select now ( )",
            "select known, snow, today_s from t where nowhere = 1",
            "select 1",
        ] {
            assert!(!may_freeze(text), "{text}");
        }
    }
}
