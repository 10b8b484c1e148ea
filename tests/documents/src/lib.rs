//! The project's documents, as a program reads them.
//!
//! Owns the finding and reading of README.md and docs/**/*.md. The invariant: what a document shows
//! as the output of a statement is what the statement prints, and what it says of a setting is what
//! the source says. Break it and people type in what does not work.

pub mod block;
pub mod judge;
pub mod settings;
pub mod stage;

use std::fs;
use std::path::{Path, PathBuf};

use block::Block;

/// One Markdown file.
#[derive(Clone, Debug)]
pub struct Document {
    /// Relative to the project's root, with slashes.
    pub path: String,
    pub text: String,
}

impl Document {
    pub fn blocks(&self) -> Vec<Block> {
        block::parse(&self.text)
    }
}

/// The project's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("two folders below the root").to_owned()
}

/// Every Markdown file at the root and below docs/, in the order of their paths.
pub fn documents() -> Vec<Document> {
    let mut paths = markdown_in(&root(), false);
    paths.extend(markdown_in(&root().join("docs"), true));
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Document {
    let relative = path.strip_prefix(root()).expect("found below the root");
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Document { path: relative.to_string_lossy().into_owned(), text }
}

fn markdown_in(folder: &Path, deep: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of the project").flatten() {
        let path = entry.path();
        if path.is_dir() && deep {
            found.extend(markdown_in(&path, deep));
        } else if path.extension().is_some_and(|ending| ending == "md") {
            found.push(path);
        }
    }
    found
}
