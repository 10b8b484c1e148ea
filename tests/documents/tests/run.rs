//! Documents run, and what they show is what is printed.

use std::fs;

use pg_cache_documents::block::{Block, Expected, Kind, parse};
use pg_cache_documents::judge::{judge, rewritten};
use pg_cache_documents::stage::Stage;
use pg_cache_documents::{Document, documents, root};

/// Danger: people type in what a document says, and it does not work, or not so. UPDATE_DOCS=1
/// writes the outputs into the documents instead: read the difference before you keep it.
#[test]
fn documents_run_and_print_what_they_show() {
    let update = std::env::var_os("UPDATE_DOCS").is_some();
    let mut stage = Stage::start();
    let (mut compared, mut failures) = (0, Vec::new());
    for document in documents().iter().filter(|document| !document.blocks().is_empty()) {
        let outputs = stage.run(document);
        compared += document.blocks().iter().filter(|block| block.expected.is_some()).count();
        if update {
            let text = rewritten(document, &outputs);
            fs::write(root().join(&document.path), &text).unwrap();
            failures.extend(judge(&Document { text, ..document.clone() }, &outputs));
        } else {
            failures.extend(judge(document, &outputs));
        }
    }
    println!("{compared} outputs compared");
    let told: Vec<String> = failures.iter().map(ToString::to_string).collect();
    assert!(told.is_empty(), "{} wrong:\n\n{}", told.len(), told.join("\n"));
    assert!(compared >= 30, "only {compared} outputs were compared");
}

/// Danger: the test above passes whatever is printed.
#[test]
fn a_document_that_lies_is_found_out() {
    let text = "\
```sql\nCREATE TABLE t AS SELECT 1 AS a;\n```\n
```sql\nSELECT a FROM t;\n```\n```text\n a\n---\n 2\n(1 row)\n```\n
```sql\nSELECT nope FROM t;\n```\n
```sql error\nSELECT a FROM t;\n```\n```text\nERROR:  no\n```\n
```sql error\nSELECT 1 / 0;\n```\n```text\nERROR:  division by zero\n```\n
```sql\nSELECT redis_cached('k', 60, 'SELECT a FROM t');\n```\n
```sh\nredis-cli GET k\n```\n```text\n[{\"a\":1}]\n```\n
```sh\nredis-cli GET k\n```\n```text\n[{\"a\":2}]\n```\n";
    let lying = Document { path: "lying.md".to_owned(), text: text.to_owned() };
    let outputs = Stage::start().run(&lying);
    let failures = judge(&lying, &outputs);
    let found: Vec<_> = failures.iter().map(|failure| (failure.line, failure.what)).collect();
    let lies = [(8, "another output"), (15, "it failed"), (22, "no error"), (47, "another output")];
    assert_eq!(found, lies, "{outputs:?}");
    let shown = failures[0].to_string();
    assert!(shown.contains("lying.md:8") && shown.contains(" 2\n") && shown.contains(" 1\n"));
    let mended = Document { text: rewritten(&lying, &outputs), ..lying.clone() };
    let left: Vec<_> = judge(&mended, &outputs).iter().map(|failure| failure.what).collect();
    assert_eq!(left, ["it failed", "no error"]);
}

/// Danger: an output is compared with another block's, or with none.
#[test]
fn an_output_belongs_to_the_block_before_it() {
    let block = |kind, line, text: &str, expected: Option<(usize, &str)>| Block {
        kind,
        line,
        text: text.to_owned(),
        expected: expected.map(|(line, text)| Expected { line, text: text.to_owned() }),
    };
    let text = "a\n```sql\nSELECT 1;\n```\nb\n```text\n1\n```\n```sql error\nx;\n```\n\
                ```sh\nmake\n```\n```text\nmade\n```\n```sh\nredis-cli GET k\n```\n\
                ```ini\na = 1\n```\n```text\nz\n```\n";
    let expected = [
        block(Kind::Sql, 2, "SELECT 1;\n", Some((6, "1\n"))),
        block(Kind::SqlError, 9, "x;\n", None),
        block(Kind::Redis, 18, "redis-cli GET k\n", None),
    ];
    assert_eq!(parse(text), expected);
}

/// Danger: a fence written as SQL or Sql is shown and never run.
#[test]
#[should_panic(expected = "what is a block of \"SQL\"")]
fn a_misspelt_fence_is_refused() {
    parse("```SQL\nSELECT 1;\n```\n");
}

/// Danger: a page without an example that runs says what it likes.
#[test]
fn every_page_of_a_function_has_an_example_with_its_output() {
    let documents = documents();
    let pages: Vec<_> =
        documents.iter().filter(|d| d.path.starts_with("docs/functions/")).collect();
    assert!(pages.len() >= 8, "{} pages", pages.len());
    for page in pages {
        let shown = page.blocks().iter().filter(|block| block.expected.is_some()).count();
        assert!(shown > 0, "{} shows no output", page.path);
    }
}
