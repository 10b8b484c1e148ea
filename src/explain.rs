//! What `redis_cached` would do with a query, and why.

use pg_cache_core::fence::{Judgement, judge};
use pg_cache_core::reason::Reason;
use pg_cache_core::sidecar::Sidecar;
use serde_json::{Value, json};

use crate::connection;
use crate::entry::Entry;
use crate::pg::dependencies::Reads;
use crate::pg::error::Outcome;
use crate::pg::plan::{self, Plan};
use crate::pg::{classify, identity};
use crate::read::{self, Request};

/// The answer of `redis_explain`.
pub fn explain(request: &Request<'_>) -> Outcome<Value> {
    let plan = plan::get(request.query, &request.arguments)?;
    let bound = plan.bind(&request.arguments)?;
    let entry = Entry::new(&request.key, &plan, &bound);
    let refusal = plan.analysis.refusal.as_ref().map(|error| error.message());
    let obstacle = read::obstacle(&plan);
    let reason = refusal.clone().or_else(|| obstacle.map(|reason| reason.sentence().to_owned()));
    let (status, found) = match (&refusal, obstacle) {
        (Some(_), _) => (Value::from("refused"), Value::Null),
        (None, Some(reason)) => (Value::from(reason.as_str()), Value::Null),
        (None, None) => status(&plan, &entry)?,
    };
    let scope = entry.scope.iter().map(|(name, value)| {
        // A setting carries "=" before its value, or is unset; a role is only its name.
        if value.starts_with('=') { format!("{name}{value}") } else { format!("{name} {value}") }
    });
    Ok(json!({
        "cacheable": reason.is_none(),
        "reason": reason,
        "redis_key": String::from_utf8_lossy(entry.keys.value()),
        "scope": scope.collect::<Vec<_>>(),
        "tables": tables(&plan),
        "functions": functions(&plan),
        "settings": plan.analysis.settings,
        "exact": if plan.dependencies.exact() { "exact" } else { "ttl" },
        "ttl_only_because": plan.dependencies.gaps(),
        "status": status,
        "entry": found,
    }))
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

/// Looks without taking a lease and without counting.
fn status(plan: &Plan, entry: &Entry) -> Outcome<(Value, Value)> {
    if !plan.may_read()? {
        return Ok((Value::from("permission"), Value::Null));
    }
    let mut pipeline = redis::pipe();
    pipeline.cmd("MGET").arg(entry.keys.value()).arg(entry.keys.sidecar());
    pipeline.cmd("PTTL").arg(entry.keys.value());
    pipeline.cmd("TYPE").arg(entry.keys.value());
    type Look = ((Option<Vec<u8>>, Option<Vec<u8>>), i64, String);
    let ((value, sidecar), ttl_ms, kind): Look =
        match connection::ask(|session| Ok(pipeline.query(session)?)) {
            Ok(found) => found,
            Err(failure) => return Ok((Value::from(failure.reason.as_str()), Value::Null)),
        };
    let fingerprint = &entry.fingerprint;
    let judged = judge(value.as_deref(), sidecar.as_deref(), identity::generation(), fingerprint);
    let status = match judged {
        // MGET says nothing of a list or a hash, under which no entry can be stored.
        Judgement::Miss(_) if kind != "none" && kind != "string" => Reason::Foreign.as_str(),
        Judgement::Hit { .. } => "hit",
        Judgement::Miss(reason) => reason.as_str(),
    };
    let known = sidecar.as_deref().and_then(|bytes| Sidecar::decode(bytes).ok());
    let found = value.as_ref().map(|value| describe(value.len(), known.as_ref(), ttl_ms));
    Ok((Value::from(status), found.unwrap_or(Value::Null)))
}

fn describe(bytes: usize, sidecar: Option<&Sidecar>, ttl_ms: i64) -> Value {
    let age_ms = sidecar.map(|known| read::unix_ms().saturating_sub(known.filled_at_ms));
    let cost_ms = sidecar.map(|known| known.cost_us as f64 / 1000.0);
    let ttl_ms = (ttl_ms >= 0).then_some(ttl_ms);
    json!({ "age_ms": age_ms, "ttl_ms": ttl_ms, "bytes": bytes, "cost_ms": cost_ms })
}
