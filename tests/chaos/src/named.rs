//! Writers of the rows whose keys a trigger names, and the look at Redis after each COMMIT (S2).
//!
//! Owns the rows: each belongs to one writer, so its versions grow one by one and the ledger knows
//! the order in which they were committed. Break it and no one can say what a plain client may see.

use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use postgres::{Client, Error};

use crate::guards::Guard;
use crate::ledger::{Fate, ROWS};
use crate::plain::Plain;
use crate::ways::MARKER;
use crate::world::{Side, World};

/// How many of these writers there are.
pub const WRITERS: usize = 3;

/// How a version comes into the world, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Deleted,
    Savepoint,
    Exception,
    RolledBack,
    Prepared,
    PreparedRolledBack,
    Soft,
    Settled,
    ReadOnlyAtTheEnd,
}

const KINDS: [Kind; 14] = [
    Kind::Plain,
    Kind::Plain,
    Kind::Plain,
    Kind::Plain,
    Kind::Deleted,
    Kind::Savepoint,
    Kind::Exception,
    Kind::RolledBack,
    Kind::RolledBack,
    Kind::Prepared,
    Kind::PreparedRolledBack,
    Kind::Soft,
    Kind::Settled,
    Kind::ReadOnlyAtTheEnd,
];

struct Writer<'w> {
    world: &'w World,
    client: Client,
    plain: Plain<'w>,
    ids: Vec<usize>,
    version: u64,
    owed: i64,
}

/// Writes the rows `which`, `which + WRITERS`, … until the run is over.
pub fn write(world: &World, which: usize, mut random: Rng) {
    let ids: Vec<usize> = (which..ROWS).step_by(WRITERS).collect();
    let mut version = 0;
    for &id in &ids {
        world.ledger.committing(id, 0, true);
        world.ledger.committed(id, 0, Fate::Hard);
    }
    while let Some(client) = world.insist(Side::Primary) {
        let plain = Plain::new(world);
        let mut writer = Writer { world, client, plain, ids: ids.clone(), version, owed: 0 };
        let result = writer.go_on(&mut random);
        version = writer.version;
        match result {
            Ok(()) => return,
            Err(error) => world.tally.error(&error),
        }
    }
}

impl Writer<'_> {
    fn go_on(&mut self, random: &mut Rng) -> Result<(), Error> {
        self.client.batch_execute("SET statement_timeout = '10s'; SET lock_timeout = '2s'")?;
        self.resolve()?;
        while !self.world.tally.is_over() {
            let lost = self.world.setup.without.is_some_and(Guard::wants_lost_commits);
            let kind = if lost { Kind::Soft } else { KINDS[random.usize(..KINDS.len())] };
            if let Err(error) = self.once(kind, random) {
                if error.code().is_none() {
                    return Err(error);
                }
                self.world.tally.error(&error);
                self.client.batch_execute("ROLLBACK")?;
                self.resolve()?;
            }
            self.world.tally.transactions.fetch_add(1, Ordering::Relaxed);
            let pause = Duration::from_millis(random.u64(2..60));
            self.world.tally.rest_for_reads(pause, random.u64(..200));
        }
        Ok(())
    }

    /// After trouble: ends what is prepared, and asks the database which versions are there. A
    /// fresh row for those that are not, so that every history goes on.
    fn resolve(&mut self) -> Result<(), Error> {
        let left = "SELECT gid FROM pg_prepared_xacts WHERE gid LIKE $1";
        let pattern = format!("named{}-%", self.ids[0]);
        for row in self.client.query(left, &[&pattern])? {
            let gid: String = row.get(0);
            self.client.batch_execute(&format!("ROLLBACK PREPARED '{gid}'"))?;
        }
        // What this sees may not be durable yet: a commit of our own makes it so.
        self.client
            .batch_execute("SET synchronous_commit = on; BEGIN; SELECT txid_current(); END")?;
        for &id in &self.ids.clone() {
            let key = id as i32;
            let row = self.client.query_opt("SELECT version FROM users WHERE id = $1", &[&key])?;
            if let Some(row) = row {
                self.world.ledger.resolve(id, u64::try_from(row.get::<_, i64>(0)).unwrap_or(0));
            } else {
                self.world.ledger.resolve_absent(id);
                self.version += 1;
                self.world.ledger.committing(id, self.version, true);
                self.client.batch_execute(&upsert(id, self.version))?;
                let fate = if self.owes()? { Fate::Owed } else { Fate::Hard };
                self.world.ledger.committed(id, self.version, fate);
            }
        }
        Ok(())
    }

    fn once(&mut self, kind: Kind, random: &mut Rng) -> Result<(), Error> {
        let count = match kind {
            Kind::Settled => self.ids.len(),
            _ => random.usize(1..3),
        };
        let mut ids = self.ids.clone();
        random.shuffle(&mut ids);
        ids.truncate(count);
        self.version += 1;
        let version = self.version;
        let present = kind != Kind::Deleted;
        self.client.batch_execute(&format!("BEGIN; {}", opening(kind, random)))?;
        for &id in &ids {
            let sql = if present { upsert(id, version) } else { delete(id) };
            self.client.batch_execute(&around(kind, id, &sql))?;
            if kind == Kind::RolledBack {
                // What only this transaction sees must not go into the cache.
                self.client.query_one(&self.world.questions[id].check(), &[])?;
            }
        }
        if random.u32(..3) == 0 {
            self.world.tally.rest(Duration::from_millis(random.u64(..30)));
        }
        self.end(kind, &ids, version, present, random)
    }

    /// Whether this backend could not tell Redis of a commit since it was last asked: for plain
    /// readers that is the promise's own limit.
    fn owes(&mut self) -> Result<bool, Error> {
        if !self.world.setup.tracked {
            return Ok(false);
        }
        let row = self.client.query_one("SELECT owed FROM redis_stat_commit", &[])?;
        let owed: i64 = row.get(0);
        Ok(std::mem::replace(&mut self.owed, owed) != owed)
    }

    fn end(
        &mut self,
        kind: Kind,
        ids: &[usize],
        version: u64,
        present: bool,
        random: &mut Rng,
    ) -> Result<(), Error> {
        if kind == Kind::RolledBack {
            return self.client.batch_execute("ROLLBACK");
        }
        let ledger = &self.world.ledger;
        let gid = format!("'named{}-{version}'", self.ids[0]);
        if matches!(kind, Kind::Prepared | Kind::PreparedRolledBack) {
            self.client.batch_execute(&format!("PREPARE TRANSACTION {gid}"))?;
            self.world.tally.rest(Duration::from_millis(random.u64(..40)));
        }
        if kind == Kind::PreparedRolledBack {
            return self.client.batch_execute(&format!("ROLLBACK PREPARED {gid}"));
        }
        ids.iter().for_each(|id| ledger.committing(*id, version, present));
        let calm = self.world.weather.calm();
        match kind {
            Kind::Prepared => {
                self.client.batch_execute(&format!("COMMIT PREPARED {gid}"))?;
            }
            // What is owed must be written even now.
            Kind::ReadOnlyAtTheEnd => {
                self.client.batch_execute("SET TRANSACTION READ ONLY; COMMIT")?;
            }
            _ => self.client.batch_execute("COMMIT")?,
        }
        let soft = if kind == Kind::Soft { Fate::Soft } else { Fate::Hard };
        let fate = if self.owes()? { Fate::Owed } else { soft };
        ids.iter().for_each(|id| ledger.committed(*id, version, fate));
        for &id in ids {
            self.plain.look_after_commit(id, calm);
        }
        if !present {
            self.version += 1;
            ids.iter().for_each(|id| ledger.committing(*id, self.version, true));
            let back: Vec<String> = ids.iter().map(|id| upsert(*id, self.version)).collect();
            self.client.batch_execute(&format!("BEGIN; {}; COMMIT", back.join("; ")))?;
            let fate = if self.owes()? { Fate::Owed } else { Fate::Hard };
            ids.iter().for_each(|id| ledger.committed(*id, self.version, fate));
        }
        Ok(())
    }
}

fn upsert(id: usize, version: u64) -> String {
    format!(
        "INSERT INTO users VALUES ({id}, {version}, 'v{version}') \
         ON CONFLICT (id) DO UPDATE SET version = excluded.version, payload = excluded.payload"
    )
}

fn delete(id: usize) -> String {
    format!("DELETE FROM users WHERE id = {id}")
}

fn opening(kind: Kind, random: &mut Rng) -> String {
    match kind {
        Kind::Soft => "SET LOCAL synchronous_commit = off".to_owned(),
        // One of them may be refused for being too small a number: the others are not.
        Kind::Settled => format!("SET LOCAL pg_cache.pending_keys_max = {}", random.u32(1..8)),
        _ => String::new(),
    }
}

/// The statement, in what its kind puts around it.
fn around(kind: Kind, id: usize, sql: &str) -> String {
    let marked = format!(
        "UPDATE users SET version = version + 1000000, payload = '{MARKER}-{kind:?}' \
          WHERE id = {id}"
    );
    match kind {
        Kind::Savepoint => format!(
            "SAVEPOINT a; {marked}; ROLLBACK TO a; SAVEPOINT b; {sql}; RELEASE b; \
             SAVEPOINT c; {marked}; ROLLBACK TO c"
        ),
        Kind::Exception => format!(
            "DO $$ BEGIN {sql}; BEGIN {marked}; RAISE EXCEPTION 'undo'; \
             EXCEPTION WHEN raise_exception THEN NULL; END; END $$"
        ),
        Kind::RolledBack | Kind::PreparedRolledBack => marked,
        _ => sql.to_owned(),
    }
}
