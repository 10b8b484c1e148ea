//! What this backend counted, by key family.
//!
//! One map entry and a few additions a call. Families are bounded: keys are made by programs.

use std::cell::RefCell;
use std::collections::HashMap;

use pg_cache_core::key;
use pg_cache_core::reason::Reason;
use serde_json::{Map, Value, json};

/// More families than this are counted together.
const FAMILIES_MAX: usize = 256;

const OTHERS: &str = "(other)";

#[derive(Default)]
struct Counters {
    hits: u64,
    misses: u64,
    reasons: Reasons,
    fills: u64,
    bytes_read: u64,
    bytes_filled: u64,
    hit_us: u64,
    query_us: u64,
    saved_us: u64,
}

/// A counter for each reason. (Arrays beyond 32 members have no default of their own.)
struct Reasons([u64; Reason::ALL.len()]);

impl Default for Reasons {
    fn default() -> Self {
        Self([0; Reason::ALL.len()])
    }
}

thread_local! {
    static FAMILIES: RefCell<HashMap<String, Counters>> = RefCell::new(HashMap::new());
}

fn count(key: &[u8], update: impl FnOnce(&mut Counters)) {
    let family = key::family(std::str::from_utf8(key).unwrap_or(OTHERS));
    FAMILIES.with_borrow_mut(|families| match families.get_mut(family) {
        Some(counters) => update(counters),
        None => {
            let name = if families.len() < FAMILIES_MAX { family } else { OTHERS };
            update(families.entry(name.to_owned()).or_default());
        }
    });
}

/// What a sidecar says of costs came from outside: sums must bear any number.
fn add(sum: &mut u64, part: u64) {
    *sum = sum.saturating_add(part);
}

pub fn hit(key: &[u8], bytes: usize, hit_us: u64, cost_us: u64) {
    count(key, |counters| {
        add(&mut counters.hits, 1);
        add(&mut counters.bytes_read, bytes as u64);
        add(&mut counters.hit_us, hit_us);
        add(&mut counters.saved_us, cost_us.saturating_sub(hit_us));
    });
}

/// A call that was computed, for this reason.
pub fn miss(key: &[u8], reason: Reason, query_us: u64) {
    count(key, |counters| {
        add(&mut counters.misses, 1);
        add(&mut counters.reasons.0[reason.index()], 1);
        add(&mut counters.query_us, query_us);
    });
}

pub fn fill(key: &[u8], bytes: usize) {
    count(key, |counters| {
        add(&mut counters.fills, 1);
        add(&mut counters.bytes_filled, bytes as u64);
    });
}

/// A result that could not be stored, for this reason.
pub fn unfilled(key: &[u8], reason: Reason) {
    count(key, |counters| add(&mut counters.reasons.0[reason.index()], 1));
}

/// All counters as an array of objects, which the view `redis_stat_cached` reads.
pub fn as_json() -> Value {
    let ms = |us: u64| us as f64 / 1000.0;
    FAMILIES.with_borrow(|families| {
        let row = |(family, c): (&String, &Counters)| {
            json!({
                "key_family": family, "hits": c.hits, "misses": c.misses, "reasons": reasons(c),
                "fills": c.fills, "bytes_read": c.bytes_read, "bytes_filled": c.bytes_filled,
                "hit_ms": ms(c.hit_us), "query_ms": ms(c.query_us), "saved_ms": ms(c.saved_us),
            })
        };
        families.iter().map(row).collect()
    })
}

/// What commits cost, and what became of them.
#[derive(Default)]
struct Commits {
    settled: u64,
    early: u64,
    owed: u64,
    tags: u64,
    keys: u64,
    time_us: u64,
    sent: u64,
    lost: u64,
    send_us: u64,
}

thread_local! {
    static COMMITS: RefCell<Commits> = RefCell::new(Commits::default());
}

/// One delivery to Redis.
pub fn delivered(is_settled: bool, buckets: usize, keys: usize, time_us: u64) {
    COMMITS.with_borrow_mut(|commits| {
        add(if is_settled { &mut commits.settled } else { &mut commits.owed }, 1);
        add(&mut commits.tags, buckets as u64);
        add(&mut commits.keys, keys as u64);
        add(&mut commits.time_us, time_us);
    });
}

/// A delivery in the middle of a transaction.
pub fn settled_early() {
    COMMITS.with_borrow_mut(|commits| add(&mut commits.early, 1));
}

/// Messages that left after a commit, and those that did not.
pub fn messages(sent: usize, lost: usize, time_us: u64) {
    COMMITS.with_borrow_mut(|commits| {
        add(&mut commits.sent, sent as u64);
        add(&mut commits.lost, lost as u64);
        add(&mut commits.send_us, time_us);
    });
}

/// One object, which the view `redis_stat_commit` reads.
pub fn commits_as_json() -> Value {
    COMMITS.with_borrow(|c| {
        json!([{
            "settled": c.settled, "early": c.early, "owed": c.owed, "tags": c.tags,
            "keys": c.keys, "redis_ms": c.time_us as f64 / 1000.0, "sent": c.sent,
            "lost": c.lost, "send_ms": c.send_us as f64 / 1000.0,
        }])
    })
}

fn reasons(counters: &Counters) -> Map<String, Value> {
    let counted = Reason::ALL.iter().map(|reason| (reason, counters.reasons.0[reason.index()]));
    counted
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason.as_str().to_owned(), count.into()))
        .collect()
}
