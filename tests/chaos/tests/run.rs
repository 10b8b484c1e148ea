//! The oracle on the code as it is: about a minute of readers, writers and troubles.

use std::time::Duration;

use pg_cache_chaos::{Setup, run};

/// With the start of three servers and their end, about a minute for both.
const TIME: Duration = Duration::from_secs(28);

/// Fewer would mean that the run proves little: a slow machine reaches several times as many.
const READS_MIN: u64 = 2_500;

fn nothing_is_broken(setup: Setup) {
    println!("seed {}", setup.seed);
    let outcome = run(Setup { time: TIME, ..setup });
    println!("{}{}", outcome.report, outcome.line);
    assert_eq!(outcome.violations, 0, "{}\n{}", outcome.details.join("\n"), outcome.line);
    assert!(outcome.reads >= READS_MIN, "it hardly read: {}", outcome.line);
    assert!(outcome.hits * 10 >= outcome.reads, "hardly a hit was checked: {}", outcome.line);
    assert!(outcome.standby_reads > 0, "the standby was not read: {}", outcome.line);
    assert!(outcome.verified > 0, "redis_verify looked at nothing: {}", outcome.line);
    assert!(outcome.named_checks > 0 && outcome.looks > 0, "S2 was not checked: {}", outcome.line);
}

#[test]
fn no_promise_is_broken_whatever_happens_to_the_servers() {
    // Danger: a reader is served what is no longer, or never was.
    let seed = fastrand::u64(..1_000_000_000);
    // Preloaded every other time: what backends share must break no promise either.
    let preloaded = seed.is_multiple_of(2);
    println!("{}", if preloaded { "--preloaded" } else { "not preloaded" });
    nothing_is_broken(Setup { seed, preloaded, ..Setup::default() });
    // With the tag table in shared memory.
    println!("--memory");
    nothing_is_broken(Setup { seed, memory: true, ..Setup::default() });
}
