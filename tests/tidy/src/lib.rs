//! The house rules that a program can check, over the project's own source files.
//!
//! Owns the reading of the tree for `tests/`. A rule that nobody checks is a wish: each test names
//! the file and line that breaks it.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file of the project.
pub struct Source {
    /// Relative to the root, with slashes.
    pub path: String,
    pub text: String,
}

/// The project's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default()
}

/// Every file below the root with one of these endings, but for build output and version control.
pub fn sources(endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root(), endings, &mut found);
    assert!(!found.is_empty(), "no files ending in {endings:?}: the check would check nothing");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(folder: &Path, endings: &[&str], found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | ".git" | "node_modules") {
                collect(&path, endings, found);
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            let relative = path.strip_prefix(root()).unwrap_or(&path);
            let text = fs::read_to_string(&path).unwrap_or_default();
            found.push(Source { path: relative.to_string_lossy().into_owned(), text });
        }
    }
}

impl Source {
    /// Lines with their numbers, from one.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    pub fn is_below(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    /// Part of what users run, rather than of what proves it.
    pub fn is_product(&self) -> bool {
        self.is_below("src/") || self.is_below("crates/core/src/")
    }
}

/// Fails with every breach of a rule, not only the first.
pub fn assert_none(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}
