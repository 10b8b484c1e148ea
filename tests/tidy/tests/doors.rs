//! One door per danger: what may raise, block or leak stands in one place.

use pg_cache_tidy::{Source, assert_none, sources};

/// A dangerous name, and the only files of the product that may contain it.
const DOORS: &[(&str, &[&str])] = &[
    ("RegisterXactCallback", &["src/pg/xact.rs"]),
    ("RegisterSubXactCallback", &["src/pg/xact.rs"]),
    ("RegisterResourceReleaseCallback", &["src/pg/xact.rs"]),
    ("UnixStream", &["src/client/transport.rs"]),
    ("TcpStream", &["src/client/transport.rs"]),
    ("socket_with", &["src/client/transport.rs"]),
    ("ErrorReport", &["src/pg/error.rs"]),
    ("call_with_sigsetjmp", &["src/pg/error.rs"]),
    ("SPI_", &["src/pg/plan.rs", "src/pg/inference.rs", "src/pg/execute.rs", "src/pg/utility.rs"]),
    ("GucSetting", &["src/pg/guc.rs"]),
    ("shmem_startup_hook", &["src/pg/shmem.rs"]),
    ("shmem_request_hook", &["src/pg/shmem.rs"]),
    ("ShmemInitStruct", &["src/pg/shmem.rs"]),
    ("BackgroundWorker", &["src/pg/bgworker.rs"]),
    ("std::thread::spawn", &[]),
    ("std::process", &[]),
];

/// Danger: a second socket without a deadline, a second transaction callback, an error raised past
/// the door.
#[test]
fn each_danger_has_one_door() {
    let mut breaches = Vec::new();
    for source in product() {
        for (name, doors) in DOORS {
            if source.text.contains(name) && !doors.contains(&source.path.as_str()) {
                breaches.push(format!("{} uses {name}", source.path));
            }
        }
    }
    assert_none("dangerous names stand behind their door", &breaches);
}

/// Danger: a door that nobody goes through any more checks nothing.
#[test]
fn each_door_is_used() {
    let sources = product();
    let unused: Vec<_> = DOORS
        .iter()
        .filter(|(name, doors)| !doors.is_empty() && !name.starts_with("Register"))
        .filter(|(name, _)| !sources.iter().any(|source| source.text.contains(name)))
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_none("names behind doors occur", &unused);
}

/// Danger: pointers spread from the adapters into the decisions.
#[test]
fn only_adapters_touch_postgres() {
    let mut breaches = Vec::new();
    for source in product().iter().filter(|source| !source.is_below("src/pg/")) {
        for (number, line) in source.lines() {
            let code = line.split("//").next().unwrap_or("");
            let symbol = code.contains("#[unsafe(no_mangle)]");
            let names_it = code.contains("pg_sys") || (code.contains("unsafe") && !symbol);
            if names_it && !code.contains("forbid(unsafe_code)") {
                breaches.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert_none("pg_sys and unsafe stay in src/pg", &breaches);
}

/// Danger: an import upwards makes a circle, and the house loses its floors.
#[test]
fn imports_go_down() {
    const FLOORS: &[(&str, &[&str])] = &[
        ("src/client/", &["crate::"]),
        ("src/pg/", &["crate::client", "crate::connection", "crate::read", "crate::api"]),
        ("src/connection.rs", &["crate::read", "crate::entry", "crate::api", "crate::stats"]),
        ("src/entry.rs", &["crate::read", "crate::connection", "crate::api", "crate::client"]),
        ("src/stats.rs", &["crate::client", "crate::connection", "crate::read", "crate::api"]),
        ("src/read.rs", &["crate::explain", "crate::api", "crate::flush", "crate::view"]),
        ("crates/core/", &["pgrx", "UdpSocket", "std::time::Instant", "SystemTime", "redis::"]),
    ];
    let mut breaches = Vec::new();
    for source in product() {
        for (place, above) in FLOORS.iter().filter(|(place, _)| source.is_below(place)) {
            for (number, line) in source.lines().filter(|(_, line)| !line.contains("//")) {
                if above.iter().any(|name| line.contains(name)) {
                    breaches.push(format!("{}:{number} in {place}: {}", source.path, line.trim()));
                }
            }
        }
    }
    assert_none("imports go to the floors below", &breaches);
}

/// Danger: a script that touches keys nobody declared breaks on a cluster.
#[test]
fn scripts_name_their_key_count() {
    let mut breaches = Vec::new();
    for source in sources(&[".lua"]) {
        let declared = source.path.trim_end_matches(".lua").rsplit('_').next().unwrap_or("");
        let used = (1..10).rev().find(|n| source.text.contains(&format!("KEYS[{n}]"))).unwrap_or(0);
        let headed = source.text.lines().any(|line| line.starts_with("-- KEYS:"));
        if declared != used.to_string() || !headed {
            breaches.push(format!("{}: uses {used} keys", source.path));
        }
    }
    assert_none("a script's name and head tell its keys", &breaches);
}

fn product() -> Vec<Source> {
    sources(&[".rs"]).into_iter().filter(Source::is_product).collect()
}
