//! Links inside the project lead somewhere.

use pg_cache_documents::{documents, root};

/// What stands in the parentheses of `](…)`.
fn targets(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(to, _)| to).collect()
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let lower = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = lower.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Danger: a file is renamed and the pages that point to it are not.
#[test]
fn links_lead_to_files_and_headings_that_are_there() {
    let (mut seen, mut broken) = (0, Vec::new());
    for document in documents() {
        for target in targets(&document.text).iter().filter(|target| !target.contains("://")) {
            seen += 1;
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let own = root().join(&document.path);
            let file =
                if path.is_empty() { own } else { own.parent().expect("a folder").join(path) };
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let has = text.lines().any(|line| line.starts_with('#') && anchor(line) == heading);
            if !file.exists() || !(heading.is_empty() || has) {
                broken.push(format!("{}: {target}", document.path));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n  {}", broken.join("\n  "));
    assert!(seen > 20, "only {seen} links were followed");
}
