//! The committed history of the rows whose keys a trigger names, kept beside the database.
//!
//! Owns, for each row, which versions exist for the world. The invariant: a version is listed from
//! just before its COMMIT is sent until it is known not to have happened, and it is a floor only
//! once its COMMIT has returned and a crash cannot take it back. Break it and the poller accuses
//! the innocent or sees nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

/// How many rows there are, with ids from 0.
pub const ROWS: usize = 24;

/// Far longer ago than any value in Redis may be, even one brought back by an old dump.
const STATES_MAX: usize = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// COMMIT was sent and has not answered, or the connection was lost.
    Committing,
    /// COMMIT has returned, but with synchronous_commit off: a crash may undo it.
    Soft,
    /// COMMIT has returned, but it could not reach Redis and owes: old values may be seen.
    Owed,
    /// Nothing takes it back.
    Hard,
}

#[derive(Clone, Copy, Debug)]
struct State {
    version: u64,
    /// False: the row was deleted.
    present: bool,
    fate: Fate,
}

#[derive(Debug, Default)]
pub struct Ledger {
    rows: [Mutex<Vec<State>>; ROWS],
}

/// What a value read from Redis is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Committed at that moment or later, or none of ours.
    Good,
    /// Committed once, but something newer was before it was read.
    Stale { found: String, newest: u64 },
    /// Never committed.
    Unknown { found: String },
}

/// The position in a row's history before a look.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

impl Ledger {
    fn row(&self, id: usize) -> MutexGuard<'_, Vec<State>> {
        self.rows[id].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before COMMIT or PREPARE is sent. Versions of a row only grow.
    pub fn committing(&self, id: usize, version: u64, present: bool) {
        let mut row = self.row(id);
        if row.len() >= STATES_MAX {
            row.drain(..STATES_MAX / 2);
        }
        row.push(State { version, present, fate: Fate::Committing });
    }

    /// COMMIT has returned.
    pub fn committed(&self, id: usize, version: u64, fate: Fate) {
        let mut row = self.row(id);
        for state in row.iter_mut().filter(|state| state.version <= version) {
            // A later hard commit makes the earlier soft ones durable, too.
            let newer = state.version == version;
            if newer || (fate == Fate::Hard && state.fate == Fate::Soft) {
                state.fate = fate;
            }
        }
    }

    /// After a lost connection or a crash: the database says which version is the last one.
    /// Newer ones never happened.
    pub fn resolve(&self, id: usize, last: u64) {
        let mut row = self.row(id);
        row.retain(|state| state.version <= last);
        for state in row.iter_mut() {
            if state.version == last {
                // Nobody knows what a commit without an answer told Redis.
                state.fate = match state.fate {
                    Fate::Committing | Fate::Owed => Fate::Owed,
                    Fate::Soft | Fate::Hard => Fate::Hard,
                };
            }
        }
        row.retain(|state| state.fate != Fate::Committing);
    }

    /// As `resolve`, where the database says that there is no row: the newest versions with a row
    /// never happened.
    pub fn resolve_absent(&self, id: usize) {
        let last = self.row(id).iter().rev().find(|state| !state.present).map(|s| s.version);
        if let Some(last) = last {
            self.resolve(id, last);
        }
    }

    /// The newest version that a look from now on may not fall behind.
    pub fn mark(&self, id: usize) -> Mark {
        let row = self.row(id);
        let newest = row.iter().rev().find(|state| state.fate == Fate::Hard);
        Mark(newest.map_or(0, |state| state.version))
    }

    /// Judges what a GET that began after `mark` found.
    pub fn judge(&self, id: usize, mark: Mark, value: &str) -> Verdict {
        let Some((version, present)) = read(value) else {
            // Another program's value, or one of another shape: not ours to judge.
            return Verdict::Good;
        };
        let row = self.row(id);
        let known = row.iter().rev().find(|state| {
            state.present == present && version.is_none_or(|wanted| state.version == wanted)
        });
        match known {
            None => Verdict::Unknown { found: value.to_owned() },
            Some(state) if state.version < mark.0 => {
                Verdict::Stale { found: value.to_owned(), newest: mark.0 }
            }
            Some(_) => Verdict::Good,
        }
    }
}

/// The version in `[{"id":1,"version":7,…}]`, and whether there is a row; None if it is not ours.
fn read(value: &str) -> Option<(Option<u64>, bool)> {
    let rows: Value = serde_json::from_str(value).ok()?;
    let rows = rows.as_array()?;
    match rows.first() {
        None => Some((None, false)),
        Some(row) => Some((Some(row.get("version")?.as_u64()?), true)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Fate, Ledger, Verdict};

    fn value(version: u64) -> String {
        format!(r#"[{{"id":1,"version":{version},"payload":"x"}}]"#)
    }

    #[test]
    fn each_kind_of_wrong_value_is_told_apart() {
        // A ledger that calls everything good proves nothing.
        let ledger = Ledger::default();
        for version in [1, 2] {
            ledger.committing(1, version, true);
            ledger.committed(1, version, Fate::Hard);
        }
        let mark = ledger.mark(1);
        assert_eq!(ledger.judge(1, mark, &value(2)), Verdict::Good);
        assert!(matches!(ledger.judge(1, mark, &value(1)), Verdict::Stale { newest: 2, .. }));
        assert!(matches!(ledger.judge(1, mark, &value(3)), Verdict::Unknown { .. }));
        assert!(matches!(ledger.judge(1, mark, "[]"), Verdict::Unknown { .. }));
        assert_eq!(ledger.judge(1, mark, "another program's"), Verdict::Good);
        ledger.committing(1, 3, false);
        assert_eq!(ledger.judge(1, mark, "[]"), Verdict::Good, "it may be committed already");
        ledger.committed(1, 3, Fate::Soft);
        assert_eq!(ledger.judge(1, ledger.mark(1), &value(2)), Verdict::Good, "not durable yet");
        ledger.resolve(1, 2);
        assert!(matches!(ledger.judge(1, mark, "[]"), Verdict::Unknown { .. }), "it was lost");
    }
}
