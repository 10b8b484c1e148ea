//! What committed transactions owe Redis: `redis_debt`.
//!
//! Invariant: a reader finds what is owed under its own snapshot, and by a new one what is owed by
//! commands that leave snapshots. Nobody waits for a lock on the table: whoever cannot read it
//! takes everything for owed.

use std::collections::HashSet;
use std::ops::ControlFlow;

use pg_cache_core::arrears::Place;
use pg_cache_core::debt::{Debt, Search};
use pg_cache_core::error::Error;
use pg_cache_core::room;
use pg_cache_core::tag::Tag;

use crate::pg::error::Outcome;
use crate::pg::snapshot::{Fresh, Snapshot};
use crate::pg::table::{self, EXCLUSIVE_LOCK, Row, Table, Tables, WRITE_LOCK};
use crate::pg::transaction::End;
use crate::pg::{Datum, Oid, host, lockers, standbys, text, wal};

use super::{is_installed, lock_to_the_end, open, open_for};

/// Sooner read than an index of them. What was paid leaves a block, until autovacuum comes.
const FEW_BLOCKS: u32 = 4;

/// What stepping over them costs whoever reads is felt: some 10,000 debts.
const MANY_BYTES: u64 = 512 * 1024;

/// Whether the snapshot sees a debt for one of these tags.
pub fn owes(snapshot: &Snapshot, tags: &[Tag]) -> bool {
    if !is_installed() {
        return false;
    }
    let Some(table) = open(|tables| tables.debt) else { return true };
    if table.is_bare() || host::skips("guard.debt") {
        return false;
    }
    // REINDEX may hold the index, or have put another in its place.
    let Some(index) = open(|tables| tables.debt_index) else { return true };
    let owed_in = |snapshot: &Snapshot| {
        tags.iter().any(|tag| snapshot.has(&table, index.oid(), tag.0 as i64))
    };
    // A debt that the snapshot does not see may be of a command that leaves it: TRUNCATE, REFRESH
    // and changes of the schema show in older snapshots too once the query is computed.
    owed_in(snapshot) || Fresh::try_push().is_none_or(|fresh| owed_in(&fresh.snapshot))
}

/// Whether nobody owes anything that [`owes`] would find for any tag, as far as that is soon seen.
pub fn is_free(snapshot: &Snapshot) -> bool {
    let Some(table) = open(|tables| tables.debt) else { return false };
    let sees_none = |snapshot: &Snapshot| snapshot.first(&table, |_| ()).is_none();
    match table.blocks() {
        0 => true,
        1..=FEW_BLOCKS => {
            sees_none(snapshot) && Fresh::try_push().is_some_and(|fresh| sees_none(&fresh.snapshot))
        }
        _ => false,
    }
}

/// Whether the snapshot sees any debt.
pub fn is_any(snapshot: &Snapshot) -> bool {
    let Some(table) = open(|tables| tables.debt) else { return true };
    !table.is_bare() && snapshot.first(&table, |_| ()).is_some()
}

/// Those of these transactions that the snapshot sees owe something; `None` if the table is locked.
pub fn owing(snapshot: &Snapshot, of: impl Iterator<Item = u64>) -> Option<HashSet<u64>> {
    let mut search = Search::of(of);
    walk_xids(snapshot, |xid| search.pass(xid))?;
    Some(search.found())
}

/// Whether the snapshot sees a debt of such a transaction; `None` if the table is locked.
pub fn is_any_of(snapshot: &Snapshot, is_meant: impl Fn(u64) -> bool) -> Option<bool> {
    let mut is_found = false;
    walk_xids(snapshot, |xid| {
        is_found = is_meant(xid);
        if is_found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Some(is_found)
}

fn walk_xids(snapshot: &Snapshot, mut each: impl FnMut(u64) -> ControlFlow<()>) -> Option<()> {
    walk(None, snapshot, |row| {
        let [_, xid] = row.values();
        each(xid.map_or(0, |xid| xid.value() as u64))
    })
}

/// Shows the debts that the snapshot sees, in order, those behind a place if there is one; `None`
/// if the table is locked.
pub fn walk(
    behind: Option<Place>,
    snapshot: &Snapshot,
    mut each: impl FnMut(&Row) -> ControlFlow<()>,
) -> Option<()> {
    let table = open(|tables| tables.debt)?;
    if table.is_bare() {
        return Some(());
    }
    let index = open(|tables| tables.debt_index)?;
    let Some(behind) = behind else {
        let _ = table.walk(&index, i64::MIN..=i64::MAX, snapshot, each);
        return Some(());
    };
    let flow = table.walk_beyond(&index, behind, snapshot, &mut each);
    if flow.is_continue()
        && let Some(next) = behind.0.checked_add(1)
    {
        let _ = table.walk(&index, next..=i64::MAX, snapshot, each);
    }
    Some(())
}

/// Takes the lock of one who writes what is owed, if nobody is in the way, and keeps it until the
/// transaction ends: who looks for writers of debts finds this one.
pub fn lock() -> bool {
    lock_to_the_end(|tables| tables.debt)
}

/// The oid of `redis_debt`, as it is remembered: between two transactions there is no other.
pub fn table() -> Option<Oid> {
    Tables::known().map(|tables| tables.debt)
}

/// Gives the room of paid debts back, if there are no others and nobody is in the way. Whoever
/// reads steps over them, and VACUUM may be long in coming. TRUNCATE takes them from old snapshots
/// too, which need them no more: what was owed is bumped.
pub fn shrink() -> Outcome<End<()>> {
    let Some(schema) = table::extension_schema_name() else { return Ok(End::Abort(())) };
    if self::table().is_none_or(lockers::is_used) {
        return Ok(End::Abort(()));
    }
    let Some(table) = open_for(EXCLUSIVE_LOCK, |tables| tables.debt) else {
        return Ok(End::Abort(()));
    };
    // Behind the lock: nobody has rows there that are yet to be committed.
    if Fresh::push().snapshot.first(&table, |_| ()).is_some() {
        return Ok(End::Abort(()));
    }
    table.truncate(&schema, "redis_debt")
}

/// Whether so many debts have been that, once they are paid, their room is worth giving back. Not
/// where the log is decoded: a subscriber would lose debts of its own.
pub fn are_worth_shrinking() -> bool {
    let is_large = |table: Table| room::is_too_much(table.bytes(), MANY_BYTES, standbys::is_any);
    !wal::is_logical() && open(|tables| tables.debt).is_some_and(is_large)
}

/// Writes debts of the transaction at hand.
pub fn write(xid: u64, debts: &[Debt<'_>]) -> Outcome<()> {
    if debts.is_empty() {
        return Ok(());
    }
    let table = open_for(WRITE_LOCK, |tables| tables.debt).ok_or(Error::DebtLocked)?;
    for debt in debts {
        let key = debt.key.and_then(text::from_utf8).map(|key| text::datum(&key));
        let (tag, xid) = (Datum::from(debt.tag.0 as i64), Datum::from(xid as i64));
        table.insert(&[Some(tag), Some(xid), key, Some(Datum::from(debt.yields))]);
    }
    table.keep_lock();
    Ok(())
}
