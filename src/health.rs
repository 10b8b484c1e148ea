//! The checks behind `redis_health()`: each says what it found, in words for an operator.

mod database;

use serde_json::{Value, json};

use crate::client::server::info;
use crate::connection;
use crate::pg::error::Outcome;
use crate::pg::{guc, plan};

/// Rows of (check, ok, detail).
pub fn checks() -> Outcome<Value> {
    connection::retry_now();
    let mut rows = vec![enabled()];
    match connection::ask(|session| Ok(session.identify()?)) {
        Ok(server) => {
            let version = format!("{} {}", server.name, server.version);
            let run = format!("run_id {}", server.run_id);
            rows.push(row("connection", true, &format!("connected, {run}")));
            rows.push(row("server version", true, &version));
            let role = format!("role {}", server.role);
            rows.push(row("server role", server.role == "master", &role));
            rows.extend(memory());
            rows.push(database::tag_table(&server));
        }
        Err(failure) => {
            let detail = format!("{} ({})", failure.reason.sentence(), failure.detail);
            rows.push(row("connection", false, &detail));
        }
    }
    let (closed, state) = connection::breaker();
    rows.push(row("breaker", closed, &state));
    let plans = format!("{} of {} kept in this backend", plan::kept(), guc::plans_max());
    rows.push(row("plans", true, &plans));
    rows.extend(database::checks()?);
    Ok(Value::Array(rows))
}

fn row(check: &str, ok: bool, detail: &str) -> Value {
    json!({ "check": check, "ok": ok, "detail": detail })
}

fn enabled() -> Value {
    let on = guc::enabled();
    row("enabled", on, if on { "on" } else { "pg_cache.enabled is off: every query is computed" })
}

/// A server that evicts any key can evict what other programs keep there without a ttl; one that
/// refuses writes when it is full cannot take new entries.
fn memory() -> Option<Value> {
    let asked = connection::ask(|session| {
        let text: String = redis::cmd("INFO").arg("memory").query(session)?;
        Ok(text)
    });
    let text = asked.ok()?;
    let policy = info(&text, "maxmemory_policy").unwrap_or("unknown");
    let number = |name| info(&text, name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
    let (used, limit) = (number("used_memory"), number("maxmemory"));
    let full = limit > 0 && used >= limit;
    let evicts_all = limit > 0 && policy.starts_with("allkeys");
    let limit = if limit == 0 { "no limit".to_owned() } else { format!("{limit} bytes") };
    let mut detail = format!("{used} bytes used, {limit}, policy {policy}");
    if evicts_all {
        detail.push_str(": keys without a ttl may be evicted too, prefer volatile-lru");
    }
    Some(row("memory", !full && !evicts_all, &detail))
}
