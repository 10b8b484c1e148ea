//! A plain Redis client: what any program sees under a key (S2), and what nobody may (S3).
//!
//! Owns the poller and the judgement of a value. The invariant: a value is judged by the history
//! that the ledger had before the GET was sent. Break it and the newest commit makes liars of all
//! who looked a moment earlier.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::{Connection, ConnectionAddr, IntoConnectionInfo};

use crate::ledger::{ROWS, Verdict};
use crate::questions::user_key;
use crate::ways::MARKER;
use crate::weather::Calm;
use crate::world::World;

const TIMEOUT: Duration = Duration::from_secs(1);
const SCAN_COUNT: usize = 100;
const SETTLE_TIME_MAX: Duration = Duration::from_secs(45);

pub struct Plain<'w> {
    world: &'w World,
    connection: Option<Connection>,
}

impl<'w> Plain<'w> {
    pub fn new(world: &'w World) -> Plain<'w> {
        Plain { world, connection: None }
    }

    /// The text under `key`. The outer None: Redis did not answer.
    fn get(&mut self, key: &str) -> Option<Option<String>> {
        self.ask(redis::cmd("GET").arg(key))
    }

    fn ask<T: redis::FromRedisValue>(&mut self, command: &redis::Cmd) -> Option<T> {
        if self.connection.is_none() {
            self.connection = connect(self.world);
        }
        let connection = self.connection.as_mut()?;
        let answer = command.query(connection);
        if answer.is_err() {
            self.connection = None;
        }
        answer.ok()
    }

    /// S2 for the writer itself: nothing, or what it has just committed, or newer.
    pub fn look_after_commit(&mut self, id: usize, calm: Option<Calm>) {
        // The connection may lead to a Redis that does not count any more.
        if calm.is_none() {
            self.connection = None;
        }
        if self.judge(id, calm, "after COMMIT") {
            self.world.tally.named_checks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether there was an answer, and a promise about it.
    fn judge(&mut self, id: usize, calm: Option<Calm>, when: &str) -> bool {
        let tally = &self.world.tally;
        let mark = self.world.ledger.mark(id);
        let Some(answer) = self.get(&user_key(id)) else { return false };
        let Some(value) = answer else { return self.world.weather.still(calm) };
        if self.world.weather.history_is_lost() {
            return false;
        }
        match self.world.ledger.judge(id, mark, &value) {
            Verdict::Good => {}
            Verdict::Unknown { found } => {
                tally.violation(format!(
                    "S3: {} {when}: a plain client found what was never committed: {found}",
                    user_key(id)
                ));
            }
            Verdict::Stale { found, newest } => {
                if self.world.weather.still(calm) {
                    let facts = self.facts(&user_key(id));
                    tally.violation(format!(
                        "S2: {} {when}: version {newest} was committed before this was read: \
                         {found}\n{facts}",
                        user_key(id)
                    ));
                }
            }
        }
        let promised = self.world.weather.still(calm);
        if !promised {
            tally.unpromised.fetch_add(1, Ordering::Relaxed);
        }
        promised
    }

    /// What stands in the Redis that counts, for the details of a violation.
    pub fn facts(&mut self, key: &str) -> String {
        let mut facts = Vec::new();
        let mut names = |pattern: String| -> Vec<String> {
            self.ask(redis::cmd("KEYS").arg(pattern)).unwrap_or_default()
        };
        let (values, tables) = (names(format!("pgc:*:{key}")), names("pgc:t:*".to_owned()));
        for name in values {
            let bytes: Option<Option<Vec<u8>>> = self.ask(redis::cmd("GET").arg(&name));
            let bytes = bytes.flatten().unwrap_or_default();
            facts.push(format!("  {name}: {}", bytes.escape_ascii()));
        }
        for name in tables {
            let fields = ["R", "B", "V", "claim", "C"];
            let found: Option<Vec<Option<String>>> =
                self.ask(redis::cmd("HMGET").arg(&name).arg(&fields));
            facts.push(format!("  {name} {fields:?}: {found:?}"));
        }
        facts.join("\n")
    }

    /// S3: the marker stands nowhere.
    fn look_everywhere(&mut self) {
        let mut cursor: u64 = 0;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("COUNT").arg(SCAN_COUNT).arg("TYPE").arg("string");
            let Some((next, keys)): Option<(u64, Vec<Vec<u8>>)> = self.ask(&scan) else { return };
            for key in keys {
                let found: Option<Option<Vec<u8>>> = self.ask(redis::cmd("GET").arg(&key));
                let Some(Some(value)) = found else { continue };
                self.world.tally.looks.fetch_add(1, Ordering::Relaxed);
                if contains(&value, MARKER.as_bytes()) {
                    self.world.tally.violation(format!(
                        "S3: {} holds what was rolled back: {}",
                        key.escape_ascii(),
                        value.escape_ascii()
                    ));
                }
            }
            if next == 0 {
                return;
            }
            cursor = next;
        }
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

fn connect(world: &World) -> Option<Connection> {
    let address = ConnectionAddr::Unix(world.redis_socket()).into_connection_info().ok()?;
    let client = redis::Client::open(address).ok()?;
    let connection = client.get_connection().ok()?;
    connection.set_read_timeout(Some(TIMEOUT)).ok()?;
    connection.set_write_timeout(Some(TIMEOUT)).ok()?;
    Some(connection)
}

/// Looks until the run is over.
pub fn poll(world: &World, mut random: fastrand::Rng) {
    let mut plain = Plain::new(world);
    while !world.tally.is_over() {
        for _ in 0..50 {
            let calm = world.weather.calm();
            if plain.judge(random.usize(..ROWS), calm, "poller") {
                world.tally.looks.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_micros(random.u64(..1500)));
        }
        plain.look_everywhere();
        plain.connection = None;
    }
}

/// After a storm: waits until everything owed is paid and no named key is old. Then S2 holds again.
pub fn settle(world: &World) {
    let start = Instant::now();
    let mut plain = Plain::new(world);
    while !world.tally.is_over() {
        let why = match (debts(world), old_values(world, &mut plain)) {
            (Ok(()), None) => return world.weather.calm_down(),
            (Err(why), _) => why,
            (_, Some(why)) => why,
        };
        if start.elapsed() > SETTLE_TIME_MAX {
            world.tally.violation(format!("not settled within {SETTLE_TIME_MAX:?}: {why}"));
            return world.weather.calm_down();
        }
        world.tally.rest(Duration::from_millis(100));
        plain.connection = None;
    }
}

fn debts(world: &World) -> Result<(), String> {
    let mut client = world.connect(crate::world::Side::Primary).ok_or("no connection")?;
    client
        .batch_execute("SET statement_timeout = '40s'; SELECT * FROM redis_repair()")
        .map_err(|error| format!("redis_repair: {error:?}"))?;
    let row = client.query_one("SELECT count(*) FROM redis_debt", &[]);
    let owed: i64 = row.map_err(|error| error.to_string())?.get(0);
    if owed == 0 { Ok(()) } else { Err(format!("{owed} rows in redis_debt")) }
}

fn old_values(world: &World, plain: &mut Plain<'_>) -> Option<String> {
    for id in 0..ROWS {
        let mark = world.ledger.mark(id);
        let Some(answer) = plain.get(&user_key(id)) else {
            return Some("Redis does not answer".to_owned());
        };
        let Some(value) = answer else { continue };
        if let Verdict::Stale { found, .. } = world.ledger.judge(id, mark, &value) {
            return Some(format!("{} still holds {found}", user_key(id)));
        }
    }
    None
}
