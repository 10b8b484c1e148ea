//! What documents say of settings, errors, functions and files is what the sources say.

use std::collections::BTreeSet;
use std::fs;

use pg_cache_documents::stage::Stage;
use pg_cache_documents::{Document, documents, root, settings};

/// What only the extension's own views, triggers and event triggers call.
const INTERNAL: [&str; 7] = [
    "redis_ddl_end",
    "redis_ddl_start",
    "redis_sql_drop",
    "redis_track_columns",
    "redis_track_note",
    "redis_track_row",
    "redis_track_truncate",
];

const TEST_BUILDS_ONLY: &str = "pg_cache.fault_point";

fn document(path: &str) -> Document {
    let found = documents().into_iter().find(|document| document.path == path);
    found.unwrap_or_else(|| panic!("there is no {path}"))
}

/// Danger: the description in the server and the one in the document tell different things.
#[test]
fn every_setting_is_described_in_the_words_of_its_source() {
    let text = document("docs/configuration.md").text;
    let declared = settings::declared();
    assert!(declared.len() >= 12, "{declared:?}");
    for (name, sentence) in declared {
        let section = text.split("\n## ").find(|section| section.starts_with(&format!("{name}\n")));
        let section = section.unwrap_or_else(|| panic!("no section {name}"));
        assert!(
            section.lines().any(|line| line == sentence),
            "{name}: not word for word: {sentence}"
        );
    }
}

/// Danger: the reader of `settings` finds nothing, and nothing is compared.
#[test]
fn settings_are_read_in_pairs() {
    let source =
        "int(\n  c\"pg_cache.a_ms\",\n  c\"How long.\",\n  x, c\"\") str(c\"pg_cache.b\", c\"B.\")";
    let pair = |name: &str, about: &str| (name.to_owned(), about.to_owned());
    assert_eq!(
        settings::pairs(source),
        [pair("pg_cache.a_ms", "How long."), pair("pg_cache.b", "B.")]
    );
}

/// Danger: a default or a limit changes and the document keeps the old one.
#[test]
fn the_table_of_settings_is_that_of_the_server() {
    let text = document("docs/configuration.md").text;
    let stage = Stage::start();
    let mut client = stage.connect();
    client.batch_execute("LOAD 'pg_cache'").unwrap();
    let sql = "SELECT name, coalesce(nullif(boot_val, ''), ''), coalesce(unit, ''), vartype,
                      coalesce(min_val, ''), coalesce(max_val, ''), context,
                      coalesce(array_to_string(enumvals, ', '), '')
                 FROM pg_settings WHERE name LIKE 'pg\\_cache.%' AND name <> $1 ORDER BY name";
    let rows = client.query(sql, &[&TEST_BUILDS_ONLY]).unwrap();
    let expected: BTreeSet<String> = rows.iter().map(|row| table_row(|i| row.get(i))).collect();
    let shown = text.lines().filter(|line| line.starts_with("| [`pg_cache."));
    assert_eq!(shown.map(str::to_owned).collect::<BTreeSet<_>>(), expected);
}

fn table_row(column: impl Fn(usize) -> String) -> String {
    let name = column(0);
    let default = if column(1).is_empty() { "empty".into() } else { format!("`{}`", column(1)) };
    let unit = match column(2).as_str() {
        "ms" => "milliseconds",
        "MB" => "megabytes",
        "s" => "seconds",
        "B" => "bytes",
        _ => "",
    };
    let range = match column(3).as_str() {
        "integer" => format!("{} to {}", column(4), column(5)),
        "bool" => "on, off".to_owned(),
        "enum" => column(7),
        _ => "text".to_owned(),
    };
    let who = if column(6) == "user" { "everybody" } else { "superusers" };
    let anchor = name.replace('.', "");
    format!("| [`{name}`](#{anchor}) | {default} | {unit} | {range} | {who} |")
}

/// Danger: a page promises an error that the code no longer raises, or another SQLSTATE.
#[test]
fn the_errors_of_a_page_are_those_of_the_catalogue() {
    let rows = |text: &str| -> BTreeSet<(String, String)> {
        let cells = |line: &str| line.split(" | ").map(str::to_owned).collect::<Vec<_>>();
        text.lines()
            .map(|line| cells(&line.replace("\\_", "_").replace("\\$", "$")))
            .filter(|row| is_sqlstate(&row[0]))
            .map(|row| {
                (
                    row[0].trim_matches(['|', ' ', '`']).to_owned(),
                    row[2].trim_end_matches([' ', '|']).to_owned(),
                )
            })
            .collect()
    };
    let catalogue = rows(&document("docs/errors.md").text);
    assert!(catalogue.len() > 20);
    let mut seen = 0;
    for page in documents().iter().filter(|page| page.path.starts_with("docs/functions/")) {
        for row in rows(&page.text) {
            seen += 1;
            assert!(catalogue.contains(&row), "{}: {row:?} is not in docs/errors.md", page.path);
        }
    }
    assert!(seen > 20, "only {seen} errors were compared");
}

/// "| `42601`", the first cell of a row about an error.
fn is_sqlstate(cell: &str) -> bool {
    let code = cell.strip_prefix("| `").and_then(|rest| rest.strip_suffix('`'));
    code.is_some_and(|code| {
        code.len() == 5 && code.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
    })
}

/// Danger: a function is added and nobody can read about it.
#[test]
fn every_public_function_and_view_has_a_page() {
    let script = fs::read_to_string(root().join("sql/pg_cache--0.1.0.sql")).unwrap();
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for create in ["CREATE FUNCTION ", "CREATE VIEW "] {
        let declared = script.split(create).skip(1);
        names.extend(declared.filter_map(|rest| rest.split(['(', ' ']).next()));
    }
    names.retain(|name| !name.ends_with("_json") && !INTERNAL.contains(name));
    let pages: BTreeSet<String> =
        names.iter().map(|name| format!("docs/functions/{name}.md")).collect();
    let there: BTreeSet<String> = documents()
        .into_iter()
        .map(|d| d.path)
        .filter(|p| p.starts_with("docs/functions/"))
        .collect();
    assert_eq!(pages, there);
}
