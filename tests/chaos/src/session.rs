//! A reader's connection: prepared checks, what it counted, and what to do when both sides differ.
//!
//! Owns what is done about a difference: see `third` for who is right.

use std::collections::{BTreeMap, HashMap};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use postgres::{Client, Error, Row, Statement};

use crate::questions::Needs;
use crate::tally::Family;
use crate::third::{self, Verdict};
use crate::world::{Mark, Side, World};

const STATISTICS: &str = "SELECT key_family, hits, misses, reasons::text FROM redis_stat_cached";

pub struct Session<'w> {
    pub world: &'w World,
    pub client: Client,
    pub side: Side,
    prepared: HashMap<usize, Statement>,
    counted: BTreeMap<String, Family>,
    /// Where this transaction began among the changes of the catalogue.
    mark: Mark,
}

impl<'w> Session<'w> {
    pub fn open(world: &'w World, side: Side) -> Option<Session<'w>> {
        let mut client = world.insist(side)?;
        let ready = client.batch_execute(
            "SET statement_timeout = '15s'; SET lock_timeout = '2s'; SET ROLE reader",
        );
        ready.map_err(|error| world.tally.error(&error)).ok()?;
        let (prepared, counted) = (HashMap::new(), BTreeMap::new());
        Some(Session { world, client, side, prepared, counted, mark: Mark::default() })
    }

    /// A transaction, or a statement by itself, begins.
    pub fn begin(&mut self) {
        self.begin_from(self.world.mark(self.side));
    }

    /// The same with a snapshot that somebody took before.
    pub fn begin_from(&mut self, mark: Mark) {
        self.mark = mark;
    }

    /// Asks a question and judges the answer. `inside`: in a transaction block.
    pub fn check(&mut self, index: usize, inside: bool, how: &str) -> Result<(), Error> {
        if !inside {
            self.begin();
        }
        let world = self.world;
        let question = &world.questions[index];
        let _tracked = (question.needs == Needs::Tracked)
            .then(|| world.blinking.read().unwrap_or_else(PoisonError::into_inner));
        let row = self.ask(index)?;
        if row.get(0) {
            return Ok(());
        }
        self.differs(index, inside, how, &row)
    }

    pub fn ask(&mut self, index: usize) -> Result<Row, Error> {
        if !self.prepared.contains_key(&index) {
            let statement = self.client.prepare(&self.world.questions[index].check())?;
            self.prepared.insert(index, statement);
        }
        let row = self.client.query_one(&self.prepared[&index], &[])?;
        self.has_read();
        Ok(row)
    }

    fn differs(&mut self, index: usize, inside: bool, how: &str, row: &Row) -> Result<(), Error> {
        if self.is_unpromised(index)? {
            self.world.tally.unpromised.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let first = self.describe(index, how, row);
        let verdict = third::judge(self, index, inside, row);
        self.take(index, verdict, first)
    }

    fn take(
        &mut self,
        index: usize,
        verdict: Result<Verdict, Error>,
        first: String,
    ) -> Result<(), Error> {
        let (world, key) = (self.world, &self.world.questions[index].key);
        let tally = &world.tally;
        let has_changed = world.changed_since(self.mark, key);
        match &verdict {
            Ok(Verdict::PostgresIsBehind) => tally.behind(key),
            // Only what a change of the schema can explain may vanish.
            Ok(Verdict::Gone) if has_changed => tally.vanished(),
            Ok(Verdict::CacheIsWrong) if has_changed && self.is_ambiguous(index) => {
                tally.ambiguous();
            }
            // Nobody could be asked: what no change can explain needs no third voice.
            Err(_) if world.changed_since(Mark::default(), key) => tally.vanished(),
            _ => tally.violation(first),
        }
        verdict.map(|_| ())
    }

    /// Whether PostgreSQL itself may answer in two ways: on a standby, DETACH PARTITION
    /// CONCURRENTLY waits for no old snapshot. A plan that was made before still reads the
    /// partition, as that snapshot should, and one that is made now does not. Only under a snapshot
    /// from before it.
    fn is_ambiguous(&self, index: usize) -> bool {
        self.side == Side::Standby && self.world.questions[index].key.starts_with("parts")
    }

    fn has_read(&self) {
        let tally = &self.world.tally;
        tally.reads.fetch_add(1, Ordering::Relaxed);
        let on_standby = u64::from(self.side == Side::Standby);
        tally.standby_reads.fetch_add(on_standby, Ordering::Relaxed);
    }

    fn is_unpromised(&mut self, index: usize) -> Result<bool, Error> {
        let question = &self.world.questions[index];
        if question.needs != Needs::Exact {
            return Ok(false);
        }
        let told: String = self.client.query_one(&question.explain(), &[])?.get(0);
        Ok(!told.contains(r#""exact":"exact""#))
    }

    fn describe(&mut self, index: usize, how: &str, row: &Row) -> String {
        let question = &self.world.questions[index];
        let text = |column| row.get::<_, Option<String>>(column).unwrap_or_else(|| "null".into());
        let mut facts = vec![format!(
            "S1: {} ({how}, {:?})\n  query:    {}\n  cached:   {}\n  computed: {}",
            question.key,
            self.side,
            question.query,
            text(1),
            text(2)
        )];
        let asked: &[&str] = &[
            "SELECT pg_current_snapshot()::text",
            "SELECT 'registered: ' || generation || ' at ' || servers FROM redis_server",
            "SELECT 'owed: ' || count(*) FROM redis_debt",
            &question.explain(),
        ];
        for sql in asked.iter().filter(|_| self.world.tally.wants_details()) {
            if let Ok(row) = self.client.query_one(*sql, &[]) {
                facts.push(format!("  {}", row.get::<_, String>(0)));
            }
        }
        facts.push(format!("  last changes: {}", self.world.changes.recent()));
        facts.push(crate::plain::Plain::new(self.world).facts(&question.key));
        facts.join("\n")
    }

    /// Judges rows of a cursor over `check_by_rows`.
    pub fn judge_rows(&mut self, index: usize, rows: &[Row]) -> Result<(), Error> {
        for row in rows {
            self.has_read();
            if !row.get::<_, bool>(0) {
                let first = self.describe(index, "cursor", row);
                let verdict = third::judge_fixed(self, index, row);
                self.take(index, verdict, first)?;
            }
        }
        Ok(())
    }

    /// Adds what this backend counted since the last time to the run's.
    pub fn count(&mut self) -> Result<(), Error> {
        let rows = self.client.query(STATISTICS, &[])?;
        for row in rows {
            let name: String = row.get(0);
            let unsigned = |column| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
            let reasons: Option<String> = row.get(3);
            let reasons = reasons.and_then(|text| serde_json::from_str(&text).ok());
            let now = Family {
                hits: unsigned(1),
                misses: unsigned(2),
                reasons: reasons.unwrap_or_default(),
            };
            let before = self.counted.insert(name.clone(), now.clone()).unwrap_or_default();
            self.world.tally.family(&name, &difference(&now, &before));
        }
        Ok(())
    }
}

fn difference(now: &Family, before: &Family) -> Family {
    let reasons = now.reasons.iter().map(|(reason, count)| {
        (reason.clone(), count - before.reasons.get(reason).copied().unwrap_or(0))
    });
    Family {
        hits: now.hits - before.hits,
        misses: now.misses - before.misses,
        reasons: reasons.filter(|(_, count)| *count > 0).collect(),
    }
}
