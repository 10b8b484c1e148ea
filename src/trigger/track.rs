//! `redis_track_row`, `redis_track_note` and `redis_track_truncate`: a tracked table tells that it
//! changes.
//!
//! Invariant: every write notes `any` of the root, and the group of each column of `by` that the
//! row leaves and enters. What cannot be told by groups is told of the whole.
//!
//! Where there are no groups, the note is taken in the condition of the row trigger: PostgreSQL
//! evaluates it as it changes the row, in the transaction and savepoint of the change. A trigger
//! function would be queued at each row, and the row fetched once more to call it, for nothing.

use std::cell::Cell;
use std::ops::Range;

use pg_cache_core::error::{AFTER_EACH_ROW, Error, Flaw, Tracking};
use pg_cache_core::tag::{GroupColumn, Tag};

use crate::commit;
use crate::pg::call::Call;
use crate::pg::error::{Outcome, Raised};
use crate::pg::row_groups::{self, Hashed, Hashes};
use crate::pg::trigger::{self, Attached, Fired, Kept, Row};
use crate::pg::{Datum, Oid, tracked};

use super::flawed;

sql_function!(redis_track_row, pg_finfo_redis_track_row, row);
sql_function!(redis_track_note, pg_finfo_redis_track_note, note);
sql_function!(redis_track_truncate, pg_finfo_redis_track_truncate, truncate);

thread_local! {
    static TRACKED: Kept<Tracked> = const { Kept::new() };
    /// The table noted last, its tag, and the count of changes of tables before it was made.
    static NOTED: Cell<Option<(u32, Tag, u64)>> = const { Cell::new(None) };
}

/// What a tracked table notes at each row.
struct Tracked {
    relation: u32,
    any: Tag,
    /// A column of `by` is no longer there, or cannot be hashed any more.
    ungrouped: bool,
    names: Vec<String>,
    columns: Vec<Hashed>,
}

impl Tracked {
    fn new(fired: Fired<'_>) -> Outcome<Self> {
        check_row(fired.attached())?;
        let table = fired.relation();
        let relation = table.tag_relation();
        let mut names = fired.arguments();
        let hashed = |name: &String| Hashed::new(table.attribute(name)?);
        let columns: Option<Vec<_>> = names.iter().map(hashed).collect();
        let ungrouped = columns.is_none() || names.len() > row_groups::COLUMNS_MAX;
        let columns = columns.filter(|_| !ungrouped).unwrap_or_default();
        names.truncate(columns.len());
        Ok(Self { relation, any: Tag::any(relation), ungrouped, names, columns })
    }

    fn note(&self, fired: Fired<'_>) -> Outcome<()> {
        commit::note(self.any)?;
        if self.ungrouped {
            commit::note(Tag::whole(self.relation))?;
        }
        if self.columns.is_empty() {
            return Ok(());
        }
        let hashes =
            |row: Option<Row>| row.map(|row| row_groups::hashes(row, &self.columns)).transpose();
        let (old, new) = (hashes(fired.row_before())?, hashes(fired.row_after())?);
        for (place, _) in self.names.iter().enumerate() {
            self.note_group(old, new, place..place + 1)?;
        }
        if self.names.len() > 1 {
            self.note_group(old, new, 0..self.names.len())?;
        }
        Ok(())
    }

    /// The group that the row leaves and the one that it enters, which mostly are one.
    fn note_group(
        &self,
        old: Option<Hashes>,
        new: Option<Hashes>,
        places: Range<usize>,
    ) -> Outcome<()> {
        let group = |hashes: Option<Hashes>| self.group(&hashes?, places.clone());
        let (left, entered) = (group(old), group(new));
        if let Some(tag) = left {
            commit::note_group(self.relation, tag)?;
        }
        if let Some(tag) = entered.filter(|tag| left != Some(*tag)) {
            commit::note_group(self.relation, tag)?;
        }
        Ok(())
    }

    fn group(&self, hashes: &Hashes, places: Range<usize>) -> Option<Tag> {
        const NONE: GroupColumn<'static> = GroupColumn { name: "", value_hash: 0 };
        let mut columns = [NONE; row_groups::COLUMNS_MAX];
        let count = places.len();
        for (column, place) in columns.iter_mut().zip(places) {
            *column = GroupColumn { name: &self.names[place], value_hash: hashes[place]? };
        }
        Some(Tag::group(self.relation, &columns[..count]))
    }
}

fn row(call: &Call) -> Outcome<Datum> {
    let wanted = "a trigger AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW";
    let fired = Fired::of(call).ok_or_else(|| protocol("redis_track_row", wanted))?;
    let tracked = TRACKED.with(|kept| kept.get(fired, Tracked::new))?;
    tracked.note(fired)?;
    Ok(Datum::from(0usize))
}

/// The table is locked while its rows change, so that no message about it can come in between.
fn note(call: &Call) -> Outcome<Datum> {
    let table = call.datum(0).map_or(0, |datum| datum.value() as u32);
    let changes = trigger::changes();
    let tag = match NOTED.get() {
        Some((noted, tag, seen)) if (noted, seen) == (table, changes) => tag,
        _ => {
            let tag = Tag::any(tracked::root_of(Oid::from(table)).to_u32());
            NOTED.set(Some((table, tag, changes)));
            tag
        }
    };
    commit::note(tag)?;
    Ok(Datum::from(false))
}

fn truncate(call: &Call) -> Outcome<Datum> {
    let wanted = "a trigger AFTER TRUNCATE FOR EACH STATEMENT";
    let fired = Fired::of(call).ok_or_else(|| protocol("redis_track_truncate", wanted))?;
    check_truncate(fired.attached())?;
    let relation = fired.relation().tag_relation();
    commit::note(Tag::any(relation))?;
    commit::note(Tag::whole(relation))?;
    Ok(Datum::from(0usize))
}

/// Refuses a trigger that no row can fire. A column of `by` that is not there passes: the dump of a
/// table that lost one must be restored.
pub fn check_row(trigger: Attached<'_>) -> Outcome<()> {
    must_be(AFTER_EACH_ROW, trigger.is_after_row(), trigger)
}

/// Refuses a trigger that something else than TRUNCATE fires.
pub fn check_truncate(trigger: Attached<'_>) -> Outcome<()> {
    let fits = trigger.is_after() && trigger.is_only_truncate();
    must_be("AFTER TRUNCATE FOR EACH STATEMENT", fits, trigger)
}

fn must_be(wanted: &'static str, fits: bool, trigger: Attached<'_>) -> Outcome<()> {
    if fits { Ok(()) } else { Err(flawed(trigger, Flaw::Timing { wanted })) }
}

fn protocol(function: &str, wanted: &'static str) -> Raised {
    Error::from(Tracking::Protocol { function: function.to_owned(), wanted }).into()
}
