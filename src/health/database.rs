//! What this database has to say: its registration, its worker, and whatever keeps tags from being
//! settled or changes from being noticed.
//!
//! Whoever may call `redis_health` need not be able to read the tables: nothing here may raise for
//! want of a privilege.

use pg_cache_core::reason::Reason;
use serde_json::Value;

use super::row;
use crate::client::making::made;
use crate::client::server::Server;
use crate::pg::error::Outcome;
use crate::pg::snapshot::{Fresh, Snapshot};
use crate::pg::{guc, lockers, queue, table, tracked, utility, wal};
use crate::registry::{self, Home, Registration};
use crate::{connection, outbox, worker};

/// Whether this server is the registered one and has the registered generation's table.
pub fn tag_table(server: &Server) -> Value {
    let fresh = Fresh::push();
    let (ok, detail) = match registry::seen(&fresh.snapshot).filter(|found| found.is_made()) {
        None => (false, "not made yet".to_owned()),
        Some(registration) => match registration.check(server) {
            Ok(()) => match registration.home {
                Home::Redis => of_generation(&registration),
                Home::Memory => in_memory(),
            },
            Err(_) => {
                let is = server.identity();
                (false, format!("{} is registered, not {is}", registration.server))
            }
        },
    };
    row("tag table", ok, &detail)
}

fn in_memory() -> (bool, String) {
    match wal::is_standby() {
        true => (false, Reason::PrimaryMemory.sentence().to_owned()),
        false => (true, "in this server's memory".to_owned()),
    }
}

fn of_generation(registration: &Registration) -> (bool, String) {
    match connection::ask(|session| Ok(made(session, &registration.table)?)) {
        Err(failure) => (false, failure.reason.sentence().to_owned()),
        Ok(found) => match found.is_of(registration.generation) {
            true => (true, "of the registered generation".to_owned()),
            false => (false, "lost, or of another generation".to_owned()),
        },
    }
}

/// Rows that need no Redis.
pub fn checks() -> Outcome<Vec<Value>> {
    let fresh = Fresh::push();
    let flaw = registry::flaw(&fresh.snapshot);
    let mut rows = vec![row("registration", flaw.is_none(), flaw.unwrap_or("valid"))];
    let owes = registry::debts::is_any(&fresh.snapshot);
    if flaw.is_some() || owes {
        worker::wake();
    }
    rows.push(worker_row());
    let debts = if owes {
        "some changes could not be settled with Redis yet: their readers compute"
    } else {
        "none"
    };
    rows.push(row("debts", !owes, debts));
    rows.extend(events(&fresh.snapshot));
    rows.push(prepared()?);
    if let Some(schema) = table::extension_schema_name() {
        rows.push(event_triggers());
        rows.push(triggers(&schema)?);
    }
    Ok(rows)
}

/// An event that waits for longer than this is one that somebody should look after.
const EVENT_AGE_SECONDS_MAX: i64 = 60;

const BYTES_A_MEGABYTE: u64 = 1024 * 1024;

/// How durable events stand: those that wait, and those that Redis refuses.
fn events(snapshot: &Snapshot) -> Vec<Value> {
    let Some(standing) = outbox::standing(snapshot) else { return Vec::new() };
    let outbox::Standing { bytes, waiting_bytes, waiting, aside, oldest } = standing;
    let seconds = oldest.map_or(0, queue::seconds_since);
    if waiting > 0 || aside > 0 {
        worker::wake_now();
    }
    let megabytes_max = guc::outbox_mb_max();
    let megabytes = |bytes: u64| bytes / BYTES_A_MEGABYTE;
    let is_full = megabytes(waiting_bytes) >= megabytes_max;
    let mut detail = match waiting {
        0 => "nothing waits".to_owned(),
        _ => format!("{} wait, the oldest for {seconds} s", counted(waiting)),
    };
    detail.push_str(&format!("; about {} MB of {megabytes_max} MB", megabytes(waiting_bytes)));
    if megabytes(bytes) > megabytes(waiting_bytes) {
        detail.push_str(&format!(
            "; the table takes {} MB, which VACUUM gives back unless an old snapshot keeps it",
            megabytes(bytes)
        ));
    }
    let asides = match aside {
        0 => "none".to_owned(),
        _ => format!(
            "{}: Redis refuses them, the server's log says why; they are tried again",
            counted(aside)
        ),
    };
    vec![
        row("outbox", !is_full && seconds <= EVENT_AGE_SECONDS_MAX, &detail),
        row("events put aside", aside == 0, &asides),
    ]
}

fn counted(count: usize) -> String {
    match count >= outbox::COUNTED_MAX {
        true => format!("{count} or more"),
        false => count.to_string(),
    }
}

fn worker_row() -> Value {
    if wal::is_standby() {
        return row("worker", true, "none is needed on a standby");
    }
    if worker::no_slot() {
        let detail = "no free slot: raise max_worker_processes and restart PostgreSQL";
        return row("worker", false, detail);
    }
    let state = if lockers::is_running() { "running" } else { "not running, nothing to do" };
    row("worker", true, state)
}

/// Prepared transactions that bumped tags: what hangs on those is computed until they end.
fn prepared() -> Outcome<Value> {
    let Some(relation) = registry::server_table() else {
        return Ok(row("prepared transactions", true, "none"));
    };
    // A prepared transaction has no process, and its locks share a number that tells nothing else.
    let found = utility::ask_read_only(&format!(
        "SELECT pg_catalog.string_agg(x.gid, ', ' ORDER BY x.prepared)
           FROM pg_catalog.pg_prepared_xacts AS x
           JOIN pg_catalog.pg_locks AS own
             ON own.locktype = 'transactionid' AND own.transactionid = x.transaction
            AND own.pid IS NULL
          WHERE x.database = pg_catalog.current_database()
            AND EXISTS (
                SELECT FROM pg_catalog.pg_locks AS held
                 WHERE held.pid IS NULL AND held.locktype = 'relation'
                   AND held.virtualtransaction = own.virtualtransaction
                   AND held.relation = {}::pg_catalog.oid)",
        relation.to_u32()
    ))?;
    Ok(match found {
        None => row("prepared transactions", true, "none"),
        Some(names) => {
            let detail = format!("what they changed is computed until they end: {names}");
            row("prepared transactions", false, &detail)
        }
    })
}

/// Without the event triggers, nobody notices a change of the schema, and nothing is exact.
fn event_triggers() -> Value {
    if !tracked::event_triggers_run() {
        return row("event triggers", false, "the setting event_triggers is off");
    }
    let missing = tracked::missing_event_triggers();
    if missing.is_empty() {
        return row("event triggers", true, "all are ENABLE ALWAYS");
    }
    let detail = format!("not there or not ENABLE ALWAYS: {}", missing.join(", "));
    row("event triggers", false, &detail)
}

/// Tracked tables whose changes may go unnoticed.
fn triggers(schema: &str) -> Outcome<Value> {
    let missing = utility::ask_read_only(&format!(
        "SELECT pg_catalog.string_agg(relation::text || ': ' || missing, '; ')
           FROM {schema}.redis_tracked WHERE missing IS NOT NULL"
    ))?;
    Ok(match missing {
        None => row("triggers", true, "nothing is missing"),
        Some(missing) => row("triggers", false, &missing),
    })
}
