//! Pays what committed transactions could not settle with Redis.
//!
//! With an id of its own and a fresh snapshot it bumps the tags and deletes the keys that it sees
//! owed, and deletes the rows in the same transaction. Readers that see it complete see the tags
//! bumped; those that do not, see the debt. So at every moment one or the other keeps an old entry
//! from being used.

use std::borrow::Cow;
use std::ops::ControlFlow;

use pg_cache_core::arrears::{Arrears, Place};
use pg_cache_core::key::EntryKeys;
use pg_cache_core::pending::Keys;
use pg_cache_core::reason::Reason;
use pg_cache_core::settlement::{Bump, Gone};
use pg_cache_core::tag::Tag;

use crate::client::failure::Failure;
use crate::client::scripts::{self, OwedKey, Settlement};
use crate::connection;
use crate::listed;
use crate::pg::error::Outcome;
use crate::pg::snapshot::{Fresh, Snapshot};
use crate::pg::tags::Tags;
use crate::pg::transaction::{self, End};
use crate::pg::{Datum, activity, error, host, table, text, utility, xact};
use crate::registry::{self, Home, Registration};

use super::all_keys::{AllKeys, Stepped};
use super::{Pass, Step};

/// Debts paid in one transaction: their readers compute as long as it lasts.
const STEP_DEBTS: usize = 1000;

/// How many steps are taken in turn with the events, where there are many debts.
const STEPS_A_TURN: u32 = 16;

/// The tag of a debt of every key, as it stands in the table.
const ALL_KEYS: i64 = Tag::ALL_KEYS.0.cast_signed();

/// One debt: what to bump, what to delete, and who owed it.
struct Debt {
    tag: Tag,
    key: Option<Vec<u8>>,
    xid: u64,
    /// Whoever left a token beside the key has deleted it, and is to set it.
    yields: bool,
}

impl Debt {
    fn place(&self) -> Place {
        (self.tag.0.cast_signed(), self.xid)
    }

    /// What stands for everything that one owed.
    fn of_catalogue(xid: u64) -> Self {
        Self { tag: Tag::CATALOGUE, key: None, xid, yields: false }
    }

    fn is_for_all_keys(&self) -> bool {
        self.tag == Tag::ALL_KEYS
    }
}

/// What the worker knows of debts beside what stands in the table.
#[derive(Default)]
pub struct Debts {
    arrears: Arrears,
    all_keys: AllKeys,
    /// Steps in a row that were full.
    full_steps: u32,
}

impl Debts {
    /// Pays one step of the debts. Nobody who writes is waited for: the proof in `commit` asks it
    /// of the making of a table, not of this.
    pub fn pay(&mut self, registration: &Registration) -> Step<Pass> {
        host::fault_point("worker.pay");
        activity::show("paying debts");
        let full_steps = std::mem::take(&mut self.full_steps);
        self.arrears.begin_step(host::monotonic_ms());
        let arrears = &self.arrears;
        let mut of_all_keys = Vec::new();
        let paid = transaction::run(|| {
            let Some(schema) = locked_schema() else { return Ok(End::Abort(Ok(None))) };
            let Some(debts) = next_step(arrears, &mut of_all_keys) else {
                return Ok(End::Abort(Ok(None)));
            };
            if debts.is_empty() {
                return Ok(End::Commit(Ok(Some((debts, Vec::new())))));
            }
            let refused = match settle(registration, &debts) {
                Ok(refused) => refused,
                Err(failure) => return Ok(End::Abort(Err(failure))),
            };
            let paid = debts.iter().zip(&refused).filter(|(_, refused)| refused.is_none());
            delete(&schema, paid.map(|(debt, _)| debt.place()))?;
            Ok(End::Commit(Ok(Some((debts, refused)))))
        });
        let Some((debts, refused)) = paid?? else { return Ok(Pass::Blocked) };
        let pass = match debts.is_empty() {
            true => self.pay_for_all_keys(registration),
            false => Ok(Pass::Worked),
        };
        // Who came in the middle of a walk waits for its end, and others are not to wait for that.
        if self.all_keys.is_under_way(registration.generation) {
            of_all_keys.into_iter().for_each(|xid| self.arrears.refuse(xid));
        }
        let of_whom = debts.iter().map(|debt| debt.xid).zip(&refused);
        self.refuse(of_whom.filter_map(|(xid, refused)| Some((xid, refused.as_ref()?))));
        let last = debts.last().map(Debt::place);
        self.full_steps = if debts.len() < STEP_DEBTS { 0 } else { full_steps + 1 };
        self.arrears.end_step(last, host::monotonic_ms());
        pass
    }

    /// Whether anything is owed that was not refused, for one who is not to pay it.
    pub fn is_anything_new(&self) -> Outcome<bool> {
        transaction::run(|| {
            let is_new = |xid| !self.arrears.is_stuck(xid);
            let found = registry::debts::is_any_of(&Snapshot::active(), is_new);
            Ok(End::Commit(found.unwrap_or(true)))
        })
    }

    /// Whether something that this transaction owes cannot be paid for now.
    pub fn is_stuck(&self, xid: u64) -> bool {
        self.arrears.is_stuck(xid)
    }

    /// Whether events are to wait for more steps: each batch of them asks what its transactions
    /// owe, which is to go through all debts. Not for ever, as there may be new ones all the time.
    pub fn go_first(&self) -> bool {
        !self.full_steps.is_multiple_of(STEPS_A_TURN)
    }

    /// Nothing is owed any more.
    pub fn forget(&mut self) {
        *self = Debts::default();
    }

    /// Notes who is stuck, and tells the log once of those of whom that is new.
    fn refuse<'a>(&mut self, refused: impl Iterator<Item = (u64, &'a Failure)>) {
        let mut new = None;
        for (xid, failure) in refused {
            if !self.arrears.is_stuck(xid) {
                new = new.or(Some(failure));
            }
            self.arrears.refuse(xid);
        }
        new.into_iter().for_each(tell_refused);
    }

    /// One step of a debt of all keys, if there is one.
    fn pay_for_all_keys(&mut self, registration: &Registration) -> Step<Pass> {
        let pass = self.step_for_all_keys(registration);
        // Nobody else's events are to wait for the rest of it.
        self.all_keys.unpaid().for_each(|xid| self.arrears.refuse(xid));
        pass
    }

    fn step_for_all_keys(&mut self, registration: &Registration) -> Step<Pass> {
        if !self.all_keys.is_under_way(registration.generation) {
            let Some(xids) = self.bump_for_all_keys(registration)? else {
                return Ok(Pass::Blocked);
            };
            if xids.is_empty() {
                return Ok(Pass::Stuck);
            }
            self.all_keys.begin(xids);
        }
        let xids = match self.all_keys.step()? {
            Stepped::GoesOn => return Ok(Pass::Worked),
            Stepped::Refused { failure, is_news } => {
                self.arrears.rest(host::monotonic_ms());
                if is_news {
                    tell_refused(&failure);
                }
                return Ok(Pass::Stuck);
            }
            Stepped::Done(xids) => xids,
        };
        let is_deleted = transaction::run(|| {
            let Some(schema) = locked_schema() else { return Ok(End::Abort(false)) };
            delete(&schema, xids.iter().map(|xid| (ALL_KEYS, *xid)))?;
            Ok(End::Commit(true))
        })?;
        if !is_deleted {
            return Ok(Pass::Blocked);
        }
        self.all_keys.paid(&xids);
        Ok(Pass::Worked)
    }

    /// Those who owe every key, after the catalogue's tag was bumped for each of them once; `None`
    /// if somebody is in the way.
    fn bump_for_all_keys(&mut self, registration: &Registration) -> Step<Option<Vec<u64>>> {
        let (arrears, all_keys) = (&self.arrears, &self.all_keys);
        let bumped = transaction::run(|| {
            let Some(schema) = locked_schema() else { return Ok(End::Abort(Ok(None))) };
            let owed = format!(
                "SELECT pg_catalog.string_agg(xid::text, ',')
                   FROM {schema}.redis_debt WHERE tag = {ALL_KEYS}"
            );
            let owed = utility::ask(&owed)?.unwrap_or_default();
            let xids = owed.split(',').filter_map(|xid| xid.parse().ok());
            // One that came in the middle of a walk was told to be stuck, and was not tried.
            let is_due = |xid: &u64| all_keys.is_unbumped(*xid) || !arrears.leaves_out(*xid);
            let xids: Vec<u64> = xids.filter(is_due).collect();
            let unbumped = xids.iter().copied().filter(|xid| all_keys.is_unbumped(*xid));
            let everything: Vec<Debt> = unbumped.map(Debt::of_catalogue).collect();
            if everything.is_empty() {
                return Ok(End::Abort(Ok(Some(xids))));
            }
            Ok(match settle(registration, &everything) {
                Ok(_) => End::Commit(Ok(Some(xids))),
                Err(failure) => End::Abort(Err(failure)),
            })
        });
        let xids = bumped??;
        self.all_keys.bumped(xids.as_deref().unwrap_or_default());
        Ok(xids)
    }
}

fn tell_refused(Failure { detail, .. }: &Failure) {
    error::log(&format!("pg_cache worker: debts cannot be paid for now ({detail})"));
}

fn locked_schema() -> Option<String> {
    registry::lock_all()?;
    table::extension_schema_name()
}

/// A step of debts, in order, and who was found to owe all keys; `None` if the table is locked.
fn next_step(arrears: &Arrears, of_all_keys: &mut Vec<u64>) -> Option<Vec<Debt>> {
    let mut debts = Vec::new();
    registry::debts::walk(arrears.cursor(), &Snapshot::active(), |row| {
        let [tag, xid, key, yields] = row.values();
        let number = |datum: Option<Datum>| datum.map_or(0, |datum| datum.value() as u64);
        let (tag, xid) = (Tag(number(tag)), number(xid));
        let mut debt = Debt { tag, key: None, xid, yields: number(yields) != 0 };
        if arrears.leaves_out(xid) {
            return ControlFlow::Continue(());
        }
        debt.key = key.and_then(|key| text::to_utf8(text::bytes(key))).map(Cow::into_owned);
        match debt.is_for_all_keys() {
            true => of_all_keys.push(xid),
            false => debts.push(debt),
        }
        match debts.len() < STEP_DEBTS {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    Some(debts)
}

/// Deletes debts that are paid.
fn delete(schema: &str, paid: impl Iterator<Item = Place>) -> Outcome<()> {
    let (tags, xids): (Vec<String>, Vec<String>) =
        paid.map(|(tag, xid)| (tag.to_string(), xid.to_string())).unzip();
    let (tags, xids) = (tags.join(","), xids.join(","));
    utility::run(&format!(
        "DELETE FROM {schema}.redis_debt AS debt
          USING ROWS FROM (pg_catalog.unnest('{{{tags}}}'::pg_catalog.int8[]),
                           pg_catalog.unnest('{{{xids}}}'::pg_catalog.xid8[])) AS paid(tag, xid)
          WHERE debt.tag = paid.tag AND debt.xid = paid.xid"
    ))
}

/// Who owes a change of the schema, or stands in the catalogue's list, may be visible and about to
/// send its messages. Readers who find us in its place would trust their caches too early: so not
/// before it has let go of the lock on its id.
fn check_messages(
    registration: &Registration,
    snapshot: &Snapshot,
    debts: &[Debt],
) -> Result<(), Failure> {
    let mut listed = Tags::here().map(Tags::catalogue_writers).unwrap_or_default();
    if registration.home == Home::Redis {
        let table = &registration.table;
        listed.extend(connection::ask(|session| Ok(scripts::catalogue_writers(session, table)?))?);
    }
    let owing = debts.iter().filter(|debt| debt.tag == Tag::CATALOGUE).map(|debt| debt.xid);
    for xid in listed.into_iter().chain(owing).filter(|xid| snapshot.is_complete(*xid)) {
        if !xact::has_let_go(xid) {
            return Err(Failure::new(Reason::Catalogue, "a schema change is ending"));
        }
    }
    Ok(())
}

/// BUMP and DEL, with the id and a snapshot of the transaction at hand. Gives for each debt why its
/// key was not deleted.
fn settle(registration: &Registration, debts: &[Debt]) -> Result<Vec<Option<Failure>>, Failure> {
    let xid = transaction::top_xid();
    let fresh = Fresh::push();
    let now = registry::usable(&fresh.snapshot).ok();
    if now.map(|now| now.generation) != Some(registration.generation) {
        return Err(Failure::new(Reason::Generation, "another generation was registered"));
    }
    if debts.iter().any(|debt| debt.tag == Tag::CATALOGUE) {
        check_messages(registration, &fresh.snapshot, debts)?;
    }
    if let Some(table) = Tags::here().filter(|_| !host::skips("guard.paybump")) {
        listed::enter(table, debts.iter().map(|debt| debt.tag), xid, &fresh.snapshot)?;
    }
    let bumped = bump(registration, xid, &fresh.snapshot, debts);
    let prefix = &registration.prefix;
    let named = debts.iter().filter_map(|debt| Some((debt.key.as_deref()?, debt.yields)));
    let owed: Vec<OwedKey> = named
        .map(|(key, yields)| OwedKey { names: EntryKeys::new(&[prefix, key].concat()), yields })
        .collect();
    let refused = connection::ask(|session| {
        if let Some(bumped) = &bumped {
            let found = bumped.settle(session)?;
            registration.check_settled(session.server(), &found)?;
        }
        // Behind the bump: nobody fills from before it any more.
        let refused = scripts::delete_owed(session, &owed)?;
        registration.check(session.server())?;
        Ok(refused)
    })?;
    let mut refused = refused.into_iter();
    let of_debt = |debt: &Debt| debt.key.is_some().then(|| refused.next()).flatten().flatten();
    Ok(debts.iter().map(of_debt).collect())
}

/// What gives them their next version in a table in Redis, if it is there.
fn bump(
    registration: &Registration,
    xid: u64,
    snapshot: &Snapshot,
    debts: &[Debt],
) -> Option<Settlement> {
    let mut buckets = registration.buckets_of(debts.iter().map(|debt| debt.tag));
    if host::skips("guard.paybump") {
        buckets.clear();
    }
    let in_progress = snapshot.in_progress();
    let bump = Bump {
        table: &registration.table,
        generation: Some(registration.generation),
        xid,
        xmax: snapshot.xmax(),
        in_progress: &in_progress,
        buckets: &buckets,
    };
    let Registration { prefix, book, home, .. } = registration;
    let gone = Gone { prefix, keys: &Keys::default(), tokens: &[], book, keep_leases: false };
    (*home == Home::Redis).then(|| Settlement::new(Some(&bump), &gone, || true))
}
