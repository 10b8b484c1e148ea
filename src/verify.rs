//! Computes live entries again and compares: the proof of the promise, on the operator's own data.
//!
//! An entry is recomputed as whoever filled it, from the recipe beside it, and only if a call of
//! theirs would be served it under the snapshot at hand. So every difference is a breach of the
//! promise: the invariant is that nothing else is reported. What cannot be judged is skipped and
//! counted, in words.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::rc::Rc;
use std::time::Instant;

use pg_cache_core::error::Error;
use pg_cache_core::key::{EntryKeys, key_of_sidecar};
use pg_cache_core::reason::Reason;
use pg_cache_core::recipe::{Recipe, Refused};
use pg_cache_core::rows::{Compared, compare};
use pg_cache_core::sidecar::Sidecar;
use serde_json::{Value, json};

use crate::entries;
use crate::flush::unreachable;
use crate::pg::error::{self, Outcome};
use crate::pg::plan::{self, Plan};
use crate::pg::snapshot::Snapshot;
use crate::pg::{
    Datum, activity, assume, guc, host, identity, settings, subtransaction, text, xact,
};
use crate::read::{self, Computing, Looked, PASSES_MAX, Reading, Request, Under};
use crate::registry::{self, Registration};
use crate::{connection, recipe};

/// Rows of (key, exact, detail) for entries that differ, among at most `max` that are recomputed.
pub fn verify(max: Option<i32>) -> Outcome<Value> {
    if Computing::is_under_way() {
        return Err(Error::Nested.into());
    }
    let disabled = (!guc::enabled()).then_some(Reason::Disabled);
    if let Some(reason) = disabled.or_else(xact::obstacle) {
        return Err(Error::CannotVerify { reason }.into());
    }
    connection::retry_now();
    let left = max.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(0));
    let registration = match registry::usable(&Snapshot::active()) {
        Ok(registration) => registration,
        Err(reason) => {
            error::notice("recomputed 0 entries, 0 differ, skipped 0", Some(reason.sentence()));
            return Ok(Value::Array(Vec::new()));
        }
    };
    let mut verification = Verification::of(registration, left);
    verification.walk()?;
    verification.tell();
    Ok(Value::Array(verification.rows))
}

struct Verification {
    registration: Rc<Registration>,
    left: usize,
    recomputed: u64,
    skipped: BTreeMap<Skip, u64>,
    /// What the first query that failed said.
    failure: Option<String>,
    rows: Vec<Value>,
    /// Names of sidecars that wait for all others.
    later: Vec<Vec<u8>>,
}

/// Why an entry was not recomputed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Skip {
    /// A call would not be served it either.
    Miss(Reason),
    /// It may be older than its rows until its ttl ends, so nothing tells what it should be.
    NotExact,
    Forged,
    Format,
    Role,
    SessionRole,
    Setting,
    Permission,
    Failed,
    Unsteady,
}

impl Skip {
    fn words(self) -> &'static str {
        match self {
            Skip::Miss(reason) => reason.as_str(),
            Skip::NotExact => "without a recipe or not exact",
            Skip::Forged => "with a recipe that this database did not write for them",
            Skip::Format => "with a recipe of another release",
            Skip::Role => "of a role that is gone",
            Skip::SessionRole => "that depend on the session of another role",
            Skip::Setting => "that depend on a setting that this session cannot have",
            Skip::Permission => "that their role may not read any more",
            Skip::Failed => "whose query fails",
            Skip::Unsteady => "whose query gives other rows each time",
        }
    }
}

impl Verification {
    fn of(registration: Rc<Registration>, left: usize) -> Self {
        Self {
            registration,
            left,
            recomputed: 0,
            skipped: BTreeMap::new(),
            failure: None,
            rows: Vec::new(),
            later: Vec::new(),
        }
    }

    fn walk(&mut self) -> Outcome<()> {
        let _shown = activity::Shown::start();
        let pattern = entries::pattern(&self.registration.prefix, None);
        let mut cursor = 0;
        while self.left > 0 {
            host::check_interrupts();
            let (next, names) = entries::step(&pattern, cursor).map_err(unreachable)?;
            for name in &names {
                self.entry(name, true)?;
            }
            if next == 0 {
                break;
            }
            cursor = next;
        }
        for name in std::mem::take(&mut self.later) {
            self.entry(&name, false)?;
        }
        Ok(())
    }

    /// The entry of a sidecar's name. A setting that was never set in this session cannot be unset
    /// again once an entry needed it: such entries can wait.
    fn entry(&mut self, name: &[u8], can_wait: bool) -> Outcome<()> {
        host::check_interrupts();
        let Some(keys) = key_of_sidecar(name).map(EntryKeys::new) else { return Ok(()) };
        if self.left == 0 {
            return Ok(());
        }
        let recipe = match self.recipe(&keys) {
            Some(Ok(recipe)) => recipe,
            Some(Err(skip)) => {
                self.skip(skip);
                return Ok(());
            }
            None => return Ok(()),
        };
        if can_wait && sets_something_new(&recipe) && self.later.len() < self.left {
            self.later.push(name.to_vec());
            return Ok(());
        }
        match subtransaction::undone(|| recomputed(&recipe, &keys))? {
            Ok(Ok(compared)) => self.count(&keys, compared),
            Ok(Err(skip)) => self.skip(skip),
            Err(message) => {
                self.skip(Skip::Failed);
                self.failure.get_or_insert(message);
            }
        }
        Ok(())
    }

    /// None if the entry is not of this database, or gone.
    fn recipe(&self, keys: &EntryKeys) -> Option<Result<Recipe, Skip>> {
        let mut look = redis::cmd("MGET");
        look.arg(keys.sidecar()).arg(keys.recipe());
        type Found = (Option<Vec<u8>>, Option<Vec<u8>>);
        let (sidecar, recipe): Found = match connection::ask(|session| Ok(look.query(session)?)) {
            Ok(found) => found,
            Err(failure) => return Some(Err(Skip::Miss(failure.reason))),
        };
        let sidecar = Sidecar::decode(&sidecar?).ok()?;
        let generation = self.registration.generation;
        if sidecar.generation != generation {
            return None;
        }
        let Some(bytes) = recipe else { return Some(Err(Skip::NotExact)) };
        Some(match Recipe::open(&bytes, &self.registration.secret, keys.value()) {
            Ok(recipe) if recipe.generation == generation => Ok(recipe),
            Ok(_) => Err(Skip::Miss(Reason::Generation)),
            Err(Refused::Version(_)) => Err(Skip::Format),
            Err(Refused::Forged) => Err(Skip::Forged),
        })
    }

    fn skip(&mut self, skip: Skip) {
        *self.skipped.entry(skip).or_default() += 1;
    }

    fn count(&mut self, keys: &EntryKeys, compared: Compared) {
        self.recomputed += 1;
        self.left -= 1;
        activity::show(&format!("redis_verify: {} entries recomputed", self.recomputed));
        let detail = match compared {
            Compared::Same | Compared::Reordered => return,
            Compared::Malformed => "What stands in Redis is no JSON array.".to_owned(),
            Compared::Different { only_left, only_right, left, right } => format!(
                "Rows in Redis: {left}, of which {only_left} are not in the result; rows in the \
                 result: {right}, of which {only_right} are not in Redis."
            ),
        };
        let key = String::from_utf8_lossy(keys.value());
        let row = json!({ "key": key, "exact": false, "detail": detail });
        // SCAN may come by an entry twice.
        if !self.rows.contains(&row) {
            self.rows.push(row);
        }
    }

    fn tell(&self) {
        let skipped: u64 = self.skipped.values().sum();
        let (recomputed, differ) = (self.recomputed, self.rows.len());
        let message =
            format!("recomputed {recomputed} entries, {differ} differ, skipped {skipped}");
        let told = |(skip, count): (&Skip, &u64)| match (skip, &self.failure) {
            (Skip::Failed, Some(failure)) => format!("{count} {} ({failure})", skip.words()),
            _ => format!("{count} {}", skip.words()),
        };
        let told: Vec<_> = self.skipped.iter().map(told).collect();
        let detail = (skipped > 0).then(|| format!("Skipped: {}.", told.join(", ")));
        error::notice(&message, detail.as_deref());
    }
}

fn sets_something_new(recipe: &Recipe) -> bool {
    recipe.settings.iter().any(|setting| {
        let name = CString::new(&setting.name[..]).unwrap_or_default();
        setting.value.is_some() && settings::bytes(&name).is_none()
    })
}

/// Looks as a call of whoever filled would, and if it is served, computes it too.
fn recomputed(recipe: &Recipe, keys: &EntryKeys) -> Outcome<Result<Compared, Skip>> {
    let Some(request) = recipe::request(recipe) else {
        return Ok(Err(Skip::Miss(Reason::Fingerprint)));
    };
    let _assumed = match recipe::assume(recipe) {
        Ok(assumed) => assumed,
        Err(assume::Refused::Role) => return Ok(Err(Skip::Role)),
        Err(assume::Refused::Setting) => return Ok(Err(Skip::Setting)),
    };
    for _ in 0..PASSES_MAX {
        let plan = plan::get(request.query, &request.arguments)?;
        if let Some(error) = &plan.analysis.refusal {
            return Err(error.clone().into());
        }
        match examined(recipe, keys, &request, &plan)? {
            Some(outcome) => return Ok(outcome),
            // The schema has changed: analyse the query again.
            None => continue,
        }
    }
    Ok(Err(Skip::Miss(Reason::Catalogue)))
}

fn examined(
    recipe: &Recipe,
    keys: &EntryKeys,
    request: &Request<'_>,
    plan: &Plan,
) -> Outcome<Option<Result<Compared, Skip>>> {
    let skip = |skip| Ok(Some(Err(skip)));
    if let Some(reason) = read::obstacle(plan) {
        return skip(Skip::Miss(reason));
    }
    if !plan.is_exact() {
        return skip(Skip::NotExact);
    }
    let is_own_session = recipe.session_role == identity::session_role().to_u32();
    if !is_own_session && plan.analysis.reads_session_role() {
        return skip(Skip::SessionRole);
    }
    if !plan.may_read()? {
        return skip(Skip::Permission);
    }
    let bound = &plan.bind(&request.arguments)?[..];
    let reading = Reading { request, plan, bound, started: Instant::now(), counts: false };
    let under = match reading.under(Snapshot::active()) {
        Ok(under) => under,
        Err(reason) => return skip(Skip::Miss(reason)),
    };
    if under.entry.keys != *keys {
        return skip(Skip::Miss(Reason::Fingerprint));
    }
    let served = match looked(&reading, &under) {
        Ok(served) => served,
        Err(skipped) => return Ok(skipped.map(Err)),
    };
    host::fault_point("verify.looked");
    let _computing = Computing::start();
    let computed = plan.run(bound)?;
    let compared = compare(text::bytes(served), computed.bytes());
    if matches!(compared, Compared::Same | Compared::Reordered) {
        return Ok(Some(Ok(compared)));
    }
    // Whoever asks for some rows and says not which may get others each time.
    let again = compare(computed.bytes(), plan.run(bound)?.bytes());
    if !matches!(again, Compared::Same | Compared::Reordered) {
        return skip(Skip::Unsteady);
    }
    // TRUNCATE and changes of the schema show in snapshots from before them as well: one that came
    // behind the look has bumped or owes by now, so a call would not be served this any more.
    let under = match reading.under(Snapshot::active()) {
        Ok(under) => under,
        Err(reason) => return skip(Skip::Miss(reason)),
    };
    match looked(&reading, &under) {
        Ok(_) => Ok(Some(Ok(compared))),
        Err(skipped) => Ok(skipped.map(Err)),
    }
}

/// What a call would be served. Otherwise why not; or nothing: the query is to be analysed again.
fn looked(reading: &Reading<'_>, under: &Under) -> Result<Datum, Option<Skip>> {
    match reading.look(under) {
        Ok(Looked::Hit(served)) => Ok(served),
        Ok(Looked::Anew) => Err(None),
        Ok(Looked::Miss { reason, .. } | Looked::Compute(reason)) => Err(Some(Skip::Miss(reason))),
        Err(failure) => Err(Some(Skip::Miss(failure.reason))),
    }
}
