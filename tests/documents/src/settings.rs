//! The settings as the source declares them.
//!
//! Owns the reading of `src/pg/guc.rs`: a name `c"pg_cache.…"` and the string after it, which is
//! its description. The invariant: each declaration is found; one that is not could say anything in
//! the documents.

use std::fs;

use crate::root;

/// The settings of the source: name and description.
pub fn declared() -> Vec<(String, String)> {
    let source = fs::read_to_string(root().join("src/pg/guc.rs")).expect("the settings' source");
    pairs(&source)
}

/// Every `c"pg_cache.name"` with the C string that follows it.
pub fn pairs(source: &str) -> Vec<(String, String)> {
    let strings = c_strings(source);
    let named = strings.windows(2).filter(|pair| pair[0].starts_with("pg_cache."));
    named.map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

/// The contents of the `c"…"` literals, in order. Ours hold no quotes.
fn c_strings(source: &str) -> Vec<String> {
    let literals = source.split("c\"").skip(1);
    literals.filter_map(|rest| rest.split_once('"')).map(|(text, _)| text.to_owned()).collect()
}
