//! What `redis_cached` would do with a query, and why.

use pg_cache_core::fence::{Judgement, Look, Wanted, blamed, judge};
use pg_cache_core::reason::Reason;
use pg_cache_core::sidecar::Sidecar;
use pg_cache_core::template::Template;
use serde_json::{Value, json};

use crate::connection;
use crate::entry::Entry;
use crate::listed;
use crate::pg::dependencies::Reads;
use crate::pg::error::Outcome;
use crate::pg::plan::{self, Plan};
use crate::pg::snapshot::Snapshot;
use crate::pg::{classify, tracked};
use crate::read::{self, Request};
use crate::registry::{self, Registration};

/// The answer of `redis_explain`.
pub fn explain(request: &Request<'_>) -> Outcome<Value> {
    let plan = plan::get(request.query, &request.arguments)?;
    let bound = plan.bind(&request.arguments)?;
    let snapshot = Snapshot::active();
    let usable = registry::usable(&snapshot);
    let registration = match &usable {
        Ok(registration) => registration.clone(),
        Err(_) => registry::seen(&snapshot).unwrap_or_default(),
    };
    let entry = Entry::new(&registration, &request.key, &plan, &bound);
    let refusal = plan.analysis.refusal.as_ref().map(|error| error.message());
    let obstacle = read::obstacle(&plan);
    let reason = refusal.clone().or_else(|| obstacle.map(|reason| reason.sentence().to_owned()));
    let status = match (&refusal, obstacle) {
        (Some(_), _) => Status::of("refused"),
        (None, Some(reason)) => Status::of(reason.as_str()),
        (None, None) => match usable {
            Err(reason) => Status::of(reason.as_str()),
            Ok(_) => status(&plan, &entry, &registration, &snapshot)?,
        },
    };
    let scope = entry.scope.iter().map(|(name, value)| {
        // A setting carries "=" before its value, or is unset; a role is only its name.
        if value.starts_with('=') { format!("{name}{value}") } else { format!("{name} {value}") }
    });
    let kept = refusal.is_none() && plan.analysis.obstacle.is_none();
    Ok(json!({
        "cacheable": reason.is_none(),
        "reason": reason,
        "redis_key": String::from_utf8_lossy(entry.keys.value()),
        "scope": scope.collect::<Vec<_>>(),
        "tables": tables(&plan),
        "functions": functions(&plan),
        "settings": plan.analysis.settings,
        "exact": kept.then(|| if plan.is_exact() { "exact" } else { "ttl" }),
        "ttl_only_because": if kept { plan.dependencies.gaps() } else { Vec::new() },
        "redis_readers": kept.then(|| redis_readers(request, &plan, &entry)),
        "status": status.word,
        "status_because": status.because,
        "entry": status.found,
    }))
}

/// Whether a trigger on every table deletes a key of this form, for programs that read Redis. That
/// it is the key of the very row that changes, only who chose both can know.
fn redis_readers(request: &Request<'_>, plan: &Plan, entry: &Entry) -> &'static str {
    let names = |template: &String| {
        Template::parse(template).is_ok_and(|template| template.may_give(&request.key))
    };
    let named = |reads: &Reads| tracked::key_templates(reads.relation).iter().any(names);
    let all = plan.dependencies.relations().iter().all(named);
    // A trigger names the plain key, and each scope has a key of its own.
    let deleted = all && plan.is_exact() && entry.scope.is_empty();
    if deleted { "named" } else { "ttl" }
}

fn tables(plan: &Plan) -> Vec<Value> {
    let row = |reads: &Reads| {
        json!({
            "name": classify::relation_name(reads.relation),
            "kind": classify::kind_name(reads.relation),
            "tracked": reads.gap.is_none(),
            "groups": reads.groups,
        })
    };
    plan.dependencies.relations().iter().map(row).collect()
}

/// The STABLE functions, by which an entry can be older than its rows.
fn functions(plan: &Plan) -> Vec<Value> {
    let analysis = &plan.analysis;
    let called = analysis.stable.iter().map(|(kind, function)| {
        json!({ "name": classify::function_signature(*function), "kind": kind.as_str() })
    });
    let values = analysis
        .value_functions
        .iter()
        .map(|(kind, name)| json!({ "name": name, "kind": kind.as_str() }));
    called.chain(values).collect()
}

/// What a call would come to.
struct Status {
    word: &'static str,
    /// The dependencies to which that is due.
    because: Vec<String>,
    found: Value,
}

impl Status {
    fn of(word: &'static str) -> Self {
        Self { word, because: Vec::new(), found: Value::Null }
    }
}

/// Looks without taking a lease and without counting.
fn status(
    plan: &Plan,
    entry: &Entry,
    registration: &Registration,
    snapshot: &Snapshot,
) -> Outcome<Status> {
    if !plan.may_read()? {
        return Ok(Status::of("permission"));
    }
    let keys = &entry.keys;
    let ask = listed::ask(registration, entry);
    let memory = match listed::fields(registration, entry, snapshot) {
        Ok(memory) => memory,
        Err(reason) => return Ok(Status::of(reason.as_str())),
    };
    let looked = connection::ask(|session| {
        let found = session.look(&ask)?;
        registration.check(found.server)?;
        let look = found.beside(memory.as_deref());
        let (status, blamed) = judged(&look, entry, registration, snapshot);
        let sidecar = found.sidecar.and_then(|bytes| Sidecar::decode(bytes).ok());
        let bytes = found.value.map(<[u8]>::len);
        let mut pipeline = redis::pipe();
        pipeline.cmd("PTTL").arg(keys.value()).cmd("TYPE").arg(keys.value());
        let (ttl_ms, kind): (i64, String) = pipeline.query(session)?;
        let status = match status {
            // MGET says nothing of a list or a hash, under which no entry can be stored.
            Some(_) if kind != "none" && kind != "string" => Some(Reason::Foreign),
            status => status,
        };
        Ok((status, blamed, bytes.map(|bytes| describe(bytes, sidecar.as_ref(), ttl_ms))))
    });
    let (status, mut blamed, found) = match looked {
        Ok(found) => found,
        Err(failure) => return Ok(Status::of(failure.reason.as_str())),
    };
    let owes = registry::debts::owes(snapshot, &entry.tags).then_some(Reason::Debt);
    if owes.is_some() {
        let owed = |place: &usize| registry::debts::owes(snapshot, &entry.tags[*place..=*place]);
        blamed = (0..entry.tags.len()).filter(owed).collect();
    }
    let word = owes.or(status).map_or("hit", Reason::as_str);
    let because = blamed.iter().map(|place| meaning(plan, entry, *place)).collect();
    Ok(Status { word, because, found: found.unwrap_or(Value::Null) })
}

/// What the entry depends on at this place of its tags.
fn meaning(plan: &Plan, entry: &Entry, place: usize) -> String {
    match (place, entry.tags.get(place)) {
        (0, _) | (_, None) => "the schema".to_owned(),
        (1, _) => "the key itself".to_owned(),
        (_, Some(tag)) => plan.dependencies.meaning(*tag),
    }
}

/// Why the entry would not be served, if it would not, and to which of its tags that is due.
fn judged(
    look: &Look<'_>,
    entry: &Entry,
    registration: &Registration,
    snapshot: &Snapshot,
) -> (Option<Reason>, Vec<usize>) {
    let wanted = Wanted {
        generation: registration.generation,
        fingerprint: &entry.fingerprint,
        buckets: &entry.buckets,
        // A call would catch up with it.
        catalogue_seen: look.table.catalogue_version(),
    };
    let complete = |xid| snapshot.is_complete(xid);
    let reason = match judge(look, &wanted, &complete) {
        Judgement::Hit { .. } => None,
        Judgement::Miss { reason, .. } | Judgement::Compute(reason) => Some(reason),
        Judgement::Catalogue { .. } => Some(Reason::Catalogue),
    };
    let blamed = match reason {
        Some(Reason::Changed | Reason::RunningWriter) => blamed(look, &wanted, &complete),
        _ => Vec::new(),
    };
    (reason, blamed)
}

fn describe(bytes: usize, sidecar: Option<&Sidecar>, ttl_ms: i64) -> Value {
    let age_ms = sidecar.map(|known| read::unix_ms().saturating_sub(known.filled_at_ms));
    let cost_ms = sidecar.map(|known| known.cost_us as f64 / 1000.0);
    let ttl_ms = (ttl_ms >= 0).then_some(ttl_ms);
    json!({ "age_ms": age_ms, "ttl_ms": ttl_ms, "bytes": bytes, "cost_ms": cost_ms })
}
