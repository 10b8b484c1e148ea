//! What the project may not speak of.

use pg_cache_tidy::{assert_none, sources};

/// Danger: a path or a host of the machine it was written on means nothing to a reader.
#[test]
fn nothing_names_a_machine_or_a_registry() {
    let hosts = ["crates", "pypi", "npmjs", "debian"].map(|name| match name {
        "crates" => ["crates", ".io/"].concat(),
        "pypi" => ["pypi", ".org"].concat(),
        "npmjs" => ["npmjs", ".org"].concat(),
        _ => ["deb.", "debian.org"].concat(),
    });
    let places = [["/wo", "rk/"].concat(), ["/ro", "ot/"].concat()];
    let mut breaches = Vec::new();
    for source in sources(&[".rs", ".lua", ".sql", ".md", ".toml", ".in", "Makefile", ".sh"]) {
        for (number, line) in source.lines() {
            let found = hosts.iter().chain(&places).find(|word| line.contains(word.as_str()));
            if let Some(word) = found {
                breaches.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    assert_none("no hosts of registries, no paths of a machine", &breaches);
}
