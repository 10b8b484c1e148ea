//! Size, heads and names of files.

use pg_cache_tidy::{assert_none, sources};

const FILE_LINES_MAX: usize = 500;
const LINE_COLUMNS_MAX: usize = 100;
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "helpers", "helper", "common", "manager"];

/// Danger: the file that everything goes into, which nobody opens gladly.
#[test]
fn files_stay_short() {
    let long = |count: usize| count > FILE_LINES_MAX;
    let breaches: Vec<_> = sources(&[".rs", ".lua"])
        .iter()
        .map(|source| (source, source.text.lines().count()))
        .filter(|(_, count)| long(*count))
        .map(|(source, count)| format!("{} has {count} lines", source.path))
        .collect();
    assert_none("files have at most 500 lines", &breaches);
}

/// Danger: rustfmt leaves long strings and comments as they are.
#[test]
fn lines_fit_the_page() {
    let mut breaches = Vec::new();
    for source in sources(&[".rs", ".lua"]) {
        for (number, line) in source.lines() {
            if line.chars().count() > LINE_COLUMNS_MAX {
                breaches.push(format!("{}:{number}", source.path));
            }
        }
    }
    assert_none("lines have at most 100 columns", &breaches);
}

/// Danger: a module whose invariant nobody wrote down is broken by the next change.
#[test]
fn modules_say_what_they_own() {
    let breaches: Vec<_> = sources(&[".rs"])
        .iter()
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| source.path.clone())
        .collect();
    assert_none("files open with a //! head", &breaches);
}

/// Danger: a name that fits everything collects everything.
#[test]
fn names_mean_something() {
    let sources = sources(&[".rs", ".lua", ".sql"]);
    let breaches: Vec<_> = sources
        .iter()
        .flat_map(|source| source.path.split(['/', '.']).map(move |part| (source, part)))
        .filter(|(_, part)| EMPTY_NAMES.contains(part))
        .map(|(source, part)| format!("{}: {part}", source.path))
        .collect();
    assert_none("no file or folder is called utils, helpers, common or manager", &breaches);
}

/// Danger: what is left to do is forgotten where it stands.
#[test]
fn nothing_is_left_half_done() {
    let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["unimpl", "emented!"].concat()];
    let mut breaches = Vec::new();
    for source in sources(&[".rs", ".lua", ".sql"]) {
        for (number, line) in source.lines() {
            if marks.iter().any(|mark| line.contains(mark.as_str())) {
                breaches.push(format!("{}:{number}", source.path));
            }
        }
    }
    assert_none("no marks of unfinished work", &breaches);
}
