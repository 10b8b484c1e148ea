//! Pays what committed transactions could not settle with Redis.
//!
//! With an id of its own and a fresh snapshot it bumps the tags and deletes the keys that it sees
//! owed, and deletes the rows in the same transaction. Readers that see it complete see the tags
//! bumped; those that do not, see the debt. So at every moment one or the other keeps an old entry
//! from being used.

use pg_cache_core::key::EntryKeys;
use pg_cache_core::pending::Keys;
use pg_cache_core::reason::Reason;
use pg_cache_core::settlement::{Bump, Gone};
use pg_cache_core::tag::Tag;
use serde_json::Value;

use crate::client::failure::Failure;
use crate::client::scripts::{self, Settlement};
use crate::connection;
use crate::pg::error::Outcome;
use crate::pg::snapshot::{Fresh, Snapshot};
use crate::pg::transaction::{self, End};
use crate::pg::{activity, host, table, utility, xact};
use crate::registry::{self, Registration};

use super::waiting::outwait_writers;
use super::{Pass, Step, sweep};

/// Debts paid in one transaction: their readers compute as long as it lasts.
const STEP_DEBTS: u32 = 1000;

/// A debt that means every key of the database: the catalogue's tag, and no key of that name.
const IS_FOR_ALL_KEYS: &str = "(tag = -1 AND key IS NOT DISTINCT FROM '*')";

/// One debt: what to bump, what to delete, and who owed it.
struct Debt {
    tag: Tag,
    key: Option<String>,
    xid: u64,
    /// Whoever left a token beside the key has deleted it, and is to set it.
    yields: bool,
}

/// Pays one step of the debts.
pub fn pay(registration: &Registration) -> Step<Pass> {
    let Some(relation) = registry::known_server_table() else { return Ok(Pass::Absent) };
    host::fault_point("worker.pay");
    outwait_writers(relation)?;
    activity::show("paying debts");
    let paid = transaction::run(|| {
        let Some(schema) = locked_schema() else { return Ok(End::Abort(Ok(None))) };
        let debts = take_step(&schema)?;
        if debts.is_empty() {
            return Ok(End::Commit(Ok(Some(0))));
        }
        Ok(match settle(registration, &debts) {
            Ok(()) => End::Commit(Ok(Some(debts.len()))),
            Err(failure) => End::Abort(Err(failure)),
        })
    });
    match paid?? {
        None => Ok(Pass::Blocked),
        Some(0) => pay_for_all_keys(registration),
        Some(_) => Ok(Pass::Worked),
    }
}

/// Somebody owed more than could be written down: then every key may be old. Its readers compute,
/// or do not see it and find the catalogue's tag bumped by somebody they do not see; so nothing is
/// filled from before this bump until the debt is gone, and the keys can go in steps.
fn pay_for_all_keys(registration: &Registration) -> Step<Pass> {
    let bumped = transaction::run(|| {
        let Some(schema) = locked_schema() else { return Ok(End::Abort(Ok(None))) };
        let owed = format!(
            "SELECT pg_catalog.string_agg(xid::text, ',')
               FROM {schema}.redis_debt WHERE {IS_FOR_ALL_KEYS}"
        );
        let Some(owed) = utility::ask(&owed)? else { return Ok(End::Abort(Ok(None))) };
        let xids = owed.split(',').filter_map(|xid| xid.parse().ok());
        let everything: Vec<Debt> =
            xids.map(|xid| Debt { tag: Tag::CATALOGUE, key: None, xid, yields: false }).collect();
        Ok(match settle(registration, &everything) {
            Ok(()) => End::Commit(Ok(Some(owed))),
            Err(failure) => End::Abort(Err(failure)),
        })
    });
    let Some(owed) = bumped?? else { return Ok(Pass::Blocked) };
    sweep::delete_all(registration)?;
    let deleted = transaction::run(|| {
        let Some(schema) = locked_schema() else { return Ok(End::Abort(Pass::Blocked)) };
        utility::run(&format!(
            "DELETE FROM {schema}.redis_debt
              WHERE {IS_FOR_ALL_KEYS} AND xid = ANY ('{{{owed}}}'::pg_catalog.xid8[])"
        ))?;
        Ok(End::Commit(Pass::Worked))
    });
    Ok(deleted?)
}

fn locked_schema() -> Option<String> {
    registry::lock_all()?;
    table::extension_schema_name()
}

/// Deletes a step of debts and returns what they were.
fn take_step(schema: &str) -> Outcome<Vec<Debt>> {
    let taken = utility::ask(&format!(
        "WITH step AS (
             SELECT tag, xid FROM {schema}.redis_debt
              WHERE NOT {IS_FOR_ALL_KEYS} ORDER BY tag, xid LIMIT {STEP_DEBTS}),
         taken AS (
             DELETE FROM {schema}.redis_debt AS debt USING step
              WHERE debt.tag = step.tag AND debt.xid = step.xid
              RETURNING debt.tag, debt.key, debt.xid, debt.yields)
         SELECT pg_catalog.json_agg(pg_catalog.json_build_array(tag, key, xid::text, yields))
           FROM taken"
    ))?;
    let taken = taken.and_then(|taken| serde_json::from_str(&taken).ok());
    let Some(Value::Array(rows)) = taken else { return Ok(Vec::new()) };
    let debt = |row: &Value| {
        let tag = Tag(row[0].as_i64().unwrap_or_default().cast_unsigned());
        let xid = row[2].as_str().and_then(|xid| xid.parse().ok()).unwrap_or_default();
        let (key, yields) = (row[1].as_str().map(str::to_owned), row[3] == Value::Bool(true));
        Debt { tag, key, xid, yields }
    };
    Ok(rows.iter().map(debt).collect())
}

/// Who owes a change of the schema, or stands in the catalogue's list, may be visible and about to
/// send its messages. Readers who find us in its place would trust their caches too early: so not
/// before it has let go of the lock on its id.
fn check_messages(
    registration: &Registration,
    snapshot: &Snapshot,
    debts: &[Debt],
) -> Result<(), Failure> {
    let listed =
        connection::ask(|session| Ok(scripts::catalogue_writers(session, &registration.table)?))?;
    let owing = debts.iter().filter(|debt| debt.tag == Tag::CATALOGUE).map(|debt| debt.xid);
    for xid in listed.into_iter().chain(owing).filter(|xid| snapshot.is_complete(*xid)) {
        if !xact::has_let_go(xid) {
            return Err(Failure::new(Reason::Catalogue, "a schema change is ending"));
        }
    }
    Ok(())
}

/// BUMP and DEL, with the id and a snapshot of the transaction at hand.
fn settle(registration: &Registration, debts: &[Debt]) -> Result<(), Failure> {
    let xid = transaction::top_xid();
    let fresh = Fresh::push();
    let now = registry::usable(&fresh.snapshot).ok();
    if now.map(|now| now.generation) != Some(registration.generation) {
        return Err(Failure::new(Reason::Generation, "another generation was registered"));
    }
    if debts.iter().any(|debt| debt.tag == Tag::CATALOGUE) {
        check_messages(registration, &fresh.snapshot, debts)?;
    }
    let mut buckets = registration.buckets_of(debts.iter().map(|debt| debt.tag));
    if host::skips("guard.paybump") {
        buckets.clear();
    }
    let keys: Keys = keys_of(debts, false).collect();
    let yielding: Vec<EntryKeys> = keys_of(debts, true)
        .map(|key| EntryKeys::new(&[&registration.prefix[..], key.as_bytes()].concat()))
        .collect();
    let in_progress = fresh.snapshot.in_progress();
    let bump = Bump {
        table: &registration.table,
        generation: Some(registration.generation),
        xid,
        xmax: fresh.snapshot.xmax(),
        in_progress: &in_progress,
        buckets: &buckets,
    };
    let (prefix, book) = (&registration.prefix, &registration.book);
    let gone = Gone { prefix, keys: &keys, tokens: &[], book, keep_leases: false };
    let settlement = Settlement::new(&bump, &gone);
    connection::ask(|session| {
        let found = settlement.settle(session)?;
        registration.check_settled(session.server(), &found)?;
        Ok(scripts::delete_yielding(session, &yielding)?)
    })
}

/// The keys that are to be deleted, and those that yield to a token.
fn keys_of(debts: &[Debt], yields: bool) -> impl Iterator<Item = &String> {
    debts.iter().filter(move |debt| debt.yields == yields).filter_map(|debt| debt.key.as_ref())
}
