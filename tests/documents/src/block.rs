//! The blocks of a document that run, and the outputs that it shows for them.
//!
//! Owns the conventions: a fence `sql` runs in psql; `sql error` runs and must fail; `sh` of lines
//! of `redis-cli` only asks the Redis of that PostgreSQL. The next block, if it is `text`, is its
//! output. The invariant: no fence is passed over, so that a misspelt one cannot hide a block from
//! the tests.

/// How a block is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sql,
    /// SQL that must fail with the output shown.
    SqlError,
    /// Lines of redis-cli.
    Redis,
}

/// A block that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub kind: Kind,
    /// The line of its opening fence, from one.
    pub line: usize,
    pub text: String,
    pub expected: Option<Expected>,
}

/// The output that the document shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The line of its opening fence, from one.
    pub line: usize,
    pub text: String,
}

const FENCE: &str = "```";

/// Any fenced block.
struct Fenced {
    info: String,
    line: usize,
    text: String,
}

/// The running blocks of a Markdown text, each with its expected output.
pub fn parse(markdown: &str) -> Vec<Block> {
    let fenced = fenced(markdown);
    let output = |index: usize| {
        fenced
            .get(index)
            .filter(|block| block.info == "text")
            .map(|block| Expected { line: block.line, text: block.text.clone() })
    };
    let running = fenced.iter().enumerate().filter_map(|(index, block)| {
        let (line, text) = (block.line, block.text.clone());
        kind(block).map(|kind| Block { kind, line, text, expected: output(index + 1) })
    });
    running.collect()
}

fn kind(block: &Fenced) -> Option<Kind> {
    match block.info.as_str() {
        "sql" => Some(Kind::Sql),
        "sql error" => Some(Kind::SqlError),
        "sh" if block.text.lines().all(|line| line.starts_with("redis-cli ")) => Some(Kind::Redis),
        "sh" | "text" | "ini" | "json" | "rust" | "javascript" | "python" => None,
        other => panic!("line {}: what is a block of {other:?}?", block.line),
    }
}

fn fenced(markdown: &str) -> Vec<Fenced> {
    let mut found = Vec::new();
    let mut open: Option<Fenced> = None;
    for (index, line) in markdown.lines().enumerate() {
        match (&mut open, line.strip_prefix(FENCE)) {
            (None, Some(info)) => {
                let info = info.trim().to_owned();
                open = Some(Fenced { info, line: index + 1, text: String::new() });
            }
            (Some(_), Some("")) => found.extend(open.take()),
            (Some(block), _) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    if let Some(block) = open {
        panic!("line {}: a block that does not end", block.line);
    }
    found
}
