//! Whether a document says what its blocks printed.
//!
//! Owns the comparison. The invariant: a block whose output is shown is compared to the last
//! character but for blanks at the ends of lines; a block without one must not fail, unless it says
//! that it does. Break it and a wrong document passes.

use std::fmt;

use crate::Document;
use crate::block::{Block, Kind};

/// A place where a document is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub path: String,
    pub line: usize,
    pub what: &'static str,
    pub expected: String,
    pub got: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { path, line, what, expected, got } = self;
        writeln!(f, "{path}:{line}: {what}")?;
        write!(f, "expected:\n{}got:\n{}", indented(expected), indented(got))
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// Every place where the outputs of the document's blocks differ from what it shows.
pub fn judge(document: &Document, outputs: &[String]) -> Vec<Failure> {
    let blocks = document.blocks();
    assert_eq!(blocks.len(), outputs.len(), "{}: an output for each block", document.path);
    let judged = blocks.iter().zip(outputs).filter_map(|(block, got)| {
        let (what, expected) = wrong(block, got)?;
        let line = block.expected.as_ref().map_or(block.line, |expected| expected.line);
        Some(Failure { path: document.path.clone(), line, what, expected, got: got.clone() })
    });
    judged.collect()
}

fn wrong(block: &Block, got: &str) -> Option<(&'static str, String)> {
    let failed = got.lines().any(|line| line.starts_with("ERROR:") || line.starts_with("FATAL:"));
    match (block.kind, &block.expected) {
        (Kind::SqlError, None) => Some(("an error without its text", "a text block".to_owned())),
        (Kind::SqlError, _) if !failed => Some(("no error", "an ERROR".to_owned())),
        (Kind::Sql | Kind::Redis, _) if failed => Some(("it failed", "no ERROR".to_owned())),
        (_, Some(expected)) if trimmed(&expected.text) != trimmed(got) => {
            Some(("another output", expected.text.clone()))
        }
        _ => None,
    }
}

/// psql pads its lines.
pub fn trimmed(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_end().to_owned()
}

/// The document with the outputs that its blocks printed in the place of those that it shows.
pub fn rewritten(document: &Document, outputs: &[String]) -> String {
    let mut lines: Vec<String> = document.text.lines().map(str::to_owned).collect();
    for (block, got) in document.blocks().iter().zip(outputs).rev() {
        if let Some(expected) = &block.expected {
            let count = expected.text.lines().count();
            let got = trimmed(got).lines().map(str::to_owned).collect::<Vec<_>>();
            lines.splice(expected.line..expected.line + count, got);
        }
    }
    lines.join("\n") + "\n"
}
