//! What was counted, by key family and of commits: in this session, and of all backends together
//! where the library was preloaded.
//!
//! One map entry and a few additions a call, without a lock. Families are bounded: keys are made by
//! programs. What others count is for those only who may read all statistics: the names of families
//! tell what others read.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::time::Instant;

use pg_cache_core::counters::{Commits, Database, Reads};
use pg_cache_core::key::{self, FAMILY_OTHER};
use pg_cache_core::reason::Reason;
use serde_json::{Map, Value, json};

use crate::pg::{identity, privileges, shmem};

/// More families than this are counted together.
const FAMILIES_MAX: usize = 256;

const ALL_BACKENDS: &str = "all backends";
const SESSION: &str = "session";

/// What a family counts, here and with all others.
struct Family {
    own: Reads,
    shared: Option<&'static Reads>,
}

thread_local! {
    static FAMILIES: RefCell<HashMap<String, Family>> = RefCell::new(HashMap::new());
    static COMMITS: Commits = Commits::default();
    static DATABASE: OnceCell<Option<&'static Database>> = const { OnceCell::new() };
}

fn count(key: &[u8], update: impl Fn(&Reads)) {
    let family = key::family(std::str::from_utf8(key).unwrap_or(FAMILY_OTHER));
    FAMILIES.with_borrow_mut(|families| {
        let counted = match families.get(family) {
            Some(known) => known,
            None => {
                let name = if families.len() < FAMILIES_MAX { family } else { FAMILY_OTHER };
                families.entry(name.to_owned()).or_insert_with(|| new_family(name))
            }
        };
        update(&counted.own);
        counted.shared.inspect(|shared| update(shared));
    });
}

fn new_family(name: &str) -> Family {
    let database = identity::database();
    let shared = shmem::shared().map(|shared| shared.families.of(database, name));
    Family { own: Reads::default(), shared }
}

/// What all backends know of this database.
pub fn database() -> Option<&'static Database> {
    DATABASE.with(|database| {
        let find = || shmem::shared()?.databases.of(identity::database());
        *database.get_or_init(find)
    })
}

fn count_commit(update: impl Fn(&Commits)) {
    COMMITS.with(|commits| update(commits));
    database().inspect(|database| update(&database.commits));
}

pub fn hit(key: &[u8], bytes: usize, hit_us: u64, cost_us: u64) {
    count(key, |reads| {
        reads.hits.add(1);
        reads.bytes_read.add(bytes as u64);
        reads.hit_us.add(hit_us);
        reads.saved_us.add(cost_us.saturating_sub(hit_us));
    });
}

/// A call that was computed, for this reason.
pub fn miss(key: &[u8], reason: Reason, query_us: u64) {
    count(key, |reads| {
        reads.misses.add(1);
        reads.reasons[reason.index()].add(1);
        reads.query_us.add(query_us);
    });
}

pub fn fill(key: &[u8], bytes: usize) {
    count(key, |reads| {
        reads.fills.add(1);
        reads.bytes_filled.add(bytes as u64);
    });
}

/// A result that could not be stored, for this reason.
pub fn unfilled(key: &[u8], reason: Reason) {
    count(key, |reads| reads.reasons[reason.index()].add(1));
}

/// What has passed since then, as it is counted.
pub fn us_since(then: Instant) -> u64 {
    u64::try_from(then.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// One delivery to Redis.
pub fn delivered(is_settled: bool, buckets: usize, keys: usize, time_us: u64) {
    count_commit(|commits| {
        let what = if is_settled { &commits.settled } else { &commits.owed };
        what.add(1);
        commits.tags.add(buckets as u64);
        commits.keys.add(keys as u64);
        commits.time_us.add(time_us);
    });
}

/// A delivery in the middle of a transaction.
pub fn settled_early() {
    count_commit(|commits| commits.early.add(1));
}

/// Begins anew, for this database and this session. Other sessions keep what they counted for
/// themselves.
pub fn reset() {
    FAMILIES.with_borrow(|families| families.values().for_each(|family| family.own.reset()));
    COMMITS.with(Commits::reset);
    if let Some(shared) = shmem::shared() {
        shared.families.reset(identity::database());
    }
    database().inspect(|database| database.commits.reset());
}

/// All counters as an array of objects, which the view `redis_stat_cached` reads.
pub fn as_json() -> Value {
    match shmem::shared().filter(|_| privileges::may_read_all_statistics()) {
        Some(shared) => {
            let rows = shared.families.all_in(identity::database());
            rows.iter().map(|(family, reads)| row(family, reads, ALL_BACKENDS)).collect()
        }
        None => FAMILIES.with_borrow(|families| {
            let counted = families.iter().filter(|(_, counted)| !counted.own.is_zero());
            counted.map(|(family, counted)| row(family, &counted.own, SESSION)).collect()
        }),
    }
}

fn row(family: &str, reads: &Reads, scope: &str) -> Value {
    json!({
        "key_family": family, "hits": reads.hits.get(), "misses": reads.misses.get(),
        "reasons": reasons(reads), "fills": reads.fills.get(),
        "bytes_read": reads.bytes_read.get(), "bytes_filled": reads.bytes_filled.get(),
        "hit_ms": ms(reads.hit_us.get()), "query_ms": ms(reads.query_us.get()),
        "saved_ms": ms(reads.saved_us.get()), "scope": scope,
    })
}

/// Messages that left after a commit, and those that did not.
pub fn messages(sent: usize, lost: usize, time_us: u64) {
    count_commit(|commits| {
        commits.sent.add(sent as u64);
        commits.lost.add(lost as u64);
        commits.send_us.add(time_us);
    });
}

/// One object, which the view `redis_stat_commit` reads.
pub fn commits_as_json() -> Value {
    match database().filter(|_| privileges::may_read_all_statistics()) {
        Some(database) => json!([commit_row(&database.commits, ALL_BACKENDS)]),
        None => COMMITS.with(|commits| json!([commit_row(commits, SESSION)])),
    }
}

fn commit_row(commits: &Commits, scope: &str) -> Value {
    json!({
        "settled": commits.settled.get(), "early": commits.early.get(),
        "owed": commits.owed.get(), "tags": commits.tags.get(), "keys": commits.keys.get(),
        "redis_ms": ms(commits.time_us.get()), "sent": commits.sent.get(),
        "lost": commits.lost.get(), "send_ms": ms(commits.send_us.get()), "scope": scope,
    })
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

fn reasons(reads: &Reads) -> Map<String, Value> {
    let counted = Reason::ALL.iter().map(|reason| (reason, reads.reasons[reason.index()].get()));
    counted
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason.as_str().to_owned(), count.into()))
        .collect()
}
