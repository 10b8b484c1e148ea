//! What a run has seen: checks, hits, errors, violations.
//!
//! Owns the numbers that are published. The invariant: a check is counted once, when its answer
//! was compared, and a violation is never dropped. Break it and the published line is a lie.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Only the first ones are kept whole.
const DETAILS_MAX: usize = 20;

/// Readers may be unable to read for a while.
const READS_WAIT_MAX: Duration = Duration::from_millis(300);

/// Counters of one key family, as `redis_stat_cached` has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    pub hits: u64,
    pub misses: u64,
    pub reasons: BTreeMap<String, u64>,
}

#[derive(Debug)]
pub struct Tally {
    pub reads: AtomicU64,
    /// Those of them that a standby answered.
    pub standby_reads: AtomicU64,
    /// Answers of redis_cached compared by sessions of the poller's side: GET after COMMIT.
    pub named_checks: AtomicU64,
    pub looks: AtomicU64,
    /// Differences in which the cache was right and PostgreSQL's session behind, by key family: see
    /// `third`.
    behind: Mutex<BTreeMap<String, u64>>,
    /// Differences while something changed in the schema that the query hangs on, of which nobody
    /// can tell any more.
    vanished: AtomicU64,
    /// Differences about partitions that changed while a snapshot of a standby was held, where
    /// PostgreSQL has no one answer.
    ambiguous: AtomicU64,
    /// Checks that fell into a time for which nothing is promised.
    pub unpromised: AtomicU64,
    pub transactions: AtomicU64,
    /// Entries that redis_verify recomputed.
    pub verified: AtomicU64,
    over: AtomicBool,
    stop_at: Option<&'static str>,
    start: Instant,
    violations: Mutex<Vec<String>>,
    violation_count: AtomicU64,
    families: Mutex<BTreeMap<String, Family>>,
    /// By SQLSTATE: how many, and what the first one said.
    errors: Mutex<BTreeMap<String, (u64, String)>>,
    actions: Mutex<BTreeMap<&'static str, u64>>,
}

impl Tally {
    pub fn new(stop_at: Option<&'static str>) -> Tally {
        Tally {
            reads: AtomicU64::new(0),
            standby_reads: AtomicU64::new(0),
            named_checks: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            behind: Mutex::default(),
            vanished: AtomicU64::new(0),
            ambiguous: AtomicU64::new(0),
            unpromised: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            verified: AtomicU64::new(0),
            over: AtomicBool::new(false),
            stop_at,
            start: Instant::now(),
            violations: Mutex::default(),
            violation_count: AtomicU64::new(0),
            families: Mutex::default(),
            errors: Mutex::default(),
            actions: Mutex::default(),
        }
    }

    /// Whether everybody should come to an end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Sleeps, but not beyond the end.
    pub fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_over() && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }

    /// Rests, and longer where reading is slow: on any machine there are so many reads between two
    /// transactions of a writer that entries are hit at all.
    pub fn rest_for_reads(&self, time: Duration, reads: u64) {
        let wanted = self.reads.load(Ordering::Relaxed) + reads;
        let until = Instant::now() + READS_WAIT_MAX;
        self.rest(time);
        while self.reads.load(Ordering::Relaxed) < wanted && Instant::now() < until {
            if self.is_over() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub fn violation(&self, details: String) {
        self.violation_count.fetch_add(1, Ordering::Relaxed);
        let is_awaited = self.stop_at.is_some_and(|begin| details.starts_with(begin));
        let mut kept = self.violations.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < DETAILS_MAX || is_awaited {
            kept.push(format!("{details}\n  at {:.3} s", self.elapsed().as_secs_f64()));
        }
        if is_awaited {
            self.end();
        }
    }

    pub fn behind(&self, key: &str) {
        let family = key.split(':').next().unwrap_or_default().to_owned();
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        *behind.entry(family).or_default() += 1;
    }

    pub fn behind_sum(&self) -> u64 {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    pub fn ambiguous(&self) {
        self.ambiguous.fetch_add(1, Ordering::Relaxed);
    }

    pub fn vanished(&self) {
        self.vanished.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a further violation would be kept whole.
    pub fn wants_details(&self) -> bool {
        self.violations() < DETAILS_MAX as u64
    }

    pub fn violations(&self) -> u64 {
        self.violation_count.load(Ordering::Relaxed)
    }

    pub fn violation_details(&self) -> Vec<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An error of a statement is no violation: it says that there is no answer.
    pub fn error(&self, error: &postgres::Error) {
        let name = match error.code() {
            Some(code) => code.code().to_owned(),
            None => "connection".to_owned(),
        };
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let said = || match error.as_db_error() {
            Some(error) => error.message().to_owned(),
            None => error.to_string(),
        };
        errors.entry(name).or_insert_with(|| (0, said())).0 += 1;
    }

    pub fn action(&self, name: &'static str) {
        let mut actions = self.actions.lock().unwrap_or_else(PoisonError::into_inner);
        *actions.entry(name).or_default() += 1;
    }

    /// Adds what a session counted since it was last asked.
    pub fn family(&self, name: &str, since: &Family) {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = families.entry(name.to_owned()).or_default();
        sum.hits += since.hits;
        sum.misses += since.misses;
        for (reason, count) in &since.reasons {
            *sum.reasons.entry(reason.clone()).or_default() += count;
        }
    }

    pub fn hits(&self) -> u64 {
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        families.values().map(|family| family.hits).sum()
    }

    /// Everything but the one line: actions, errors, families.
    pub fn report(&self) -> String {
        let mut text = String::new();
        let actions = self.actions.lock().unwrap_or_else(PoisonError::into_inner);
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(text, "actions: {}", listed(&actions));
        let _ = writeln!(text, "errors of statements, by SQLSTATE, each with the first message:");
        for (code, (count, said)) in errors.iter() {
            let _ = writeln!(text, "  {code} {count:6}  {said}");
        }
        for (name, family) in families.iter() {
            let all = (family.hits + family.misses).max(1);
            let percent = 100.0 * family.hits as f64 / all as f64;
            let reasons = listed(&family.reasons);
            let _ = writeln!(text, "{name:20} {:8} hits {percent:5.1} %  {reasons}", family.hits);
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let sum = self.behind_sum();
        let behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(
            text,
            "{} transactions of writers; {} entries recomputed by redis_verify\n\
             not counted: {} checks in times without promise; {} differences in which the cache \
             was right and PostgreSQL's session behind, as a new session proved ({}); {} that were \
             gone at once, while what the query hangs on changed; {} about partitions that changed \
             under a snapshot of the standby",
            count(&self.transactions),
            count(&self.verified),
            count(&self.unpromised),
            sum,
            listed(&behind),
            count(&self.vanished),
            count(&self.ambiguous),
        );
        text
    }

    /// The line to publish.
    pub fn line(&self, seed: u64) -> String {
        let (reads, hits) = (self.reads.load(Ordering::Relaxed), self.hits());
        let percent = 100.0 * hits as f64 / reads.max(1) as f64;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "checked reads {reads} ({} on a standby), hits {hits} ({percent:.1} %), \
             S2 checks {}, poller looks {}, redis_verify {}, violations {}, \
             excused {} (PostgreSQL behind {}, vanished {}, partitions on a standby {}), \
             seed {seed}",
            count(&self.standby_reads),
            count(&self.named_checks),
            count(&self.looks),
            count(&self.verified),
            self.violations(),
            self.behind_sum() + count(&self.vanished) + count(&self.ambiguous),
            self.behind_sum(),
            count(&self.vanished),
            count(&self.ambiguous),
        )
    }
}

fn listed<K: AsRef<str>>(counts: &BTreeMap<K, u64>) -> String {
    let words: Vec<String> =
        counts.iter().map(|(name, count)| format!("{} {count}", name.as_ref())).collect();
    words.join(", ")
}
