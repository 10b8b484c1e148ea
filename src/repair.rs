//! What an operator does: wait until the cache is usable, change what all backends agree on.
//!
//! `redis_repair` does none of the work itself: it starts the worker and watches. The invariant: it
//! says that all is well only if a reader that begins now would find it so.

use std::rc::Rc;
use std::time::{Duration, Instant};

use pg_cache_core::error::Error;
use pg_cache_core::key::RESERVED_PREFIX;
use pg_cache_core::reason::Reason;
use serde_json::{Value, json};

use crate::client::failure::Failure;
use crate::client::making::made;
use crate::client::server::Server;
use crate::flush::unreachable;
use crate::pg::error::Outcome;
use crate::pg::snapshot::Fresh;
use crate::pg::{host, identity, quote, table, utility, wal, xact};
use crate::registry::{self, Home, Registration};
use crate::{connection, worker};

/// How long `redis_repair` waits.
const REPAIR_TIME_MAX: Duration = Duration::from_secs(30);

/// How long it looks for a worker slot.
const SLOT_TIME_MAX: Duration = Duration::from_secs(3);

const LOOK_EVERY: Duration = Duration::from_millis(20);

const PREFIX_BYTES_MAX: usize = 128;
const BUCKETS_MAX: i32 = 1 << 20;

/// Waits until the database is registered with the Redis that this session reaches, its table is
/// made, and nothing is owed. Rows of (step, detail).
pub fn repair() -> Outcome<Value> {
    if xact::xid().is_some() {
        return Err(Error::RepairInTransaction.into());
    }
    if wal::is_standby() {
        return Err(Error::RepairOnStandby.into());
    }
    connection::retry_now();
    let server = identify().map_err(unreachable)?;
    if !server.is_primary() {
        let detail = format!("The role of {} is {}.", server.run_id, server.role);
        return Err(Error::Unreachable { reason: Reason::ReadOnly, detail }.into());
    }
    let began = Instant::now();
    let mut slot_seen = began;
    loop {
        let found = look();
        let why = match found {
            Ok(rows) => return Ok(rows),
            Err(why) => why,
        };
        worker::wake();
        if !worker::no_slot() {
            slot_seen = Instant::now();
        } else if slot_seen.elapsed() > SLOT_TIME_MAX {
            return Err(Error::NoWorkerSlot.into());
        }
        if began.elapsed() > REPAIR_TIME_MAX {
            return Err(Error::RepairUnfinished { detail: why }.into());
        }
        host::pause_for(LOOK_EVERY);
    }
}

fn identify() -> Result<Server, Failure> {
    connection::ask(|session| Ok(session.identify()?))
}

/// What a reader that begins now finds: rows for the operator, or what is not done yet.
fn look() -> Result<Value, String> {
    let fresh = Fresh::push();
    let registration = registry::usable(&fresh.snapshot)
        .map_err(|_| "This database is not registered with a Redis yet".to_owned())?;
    let told = |failure: Failure| format!("{} ({})", failure.reason.sentence(), failure.detail);
    connection::retry_now();
    let server = identify().map_err(told)?;
    registration.check(&server).map_err(told)?;
    if registration.home.is_outmoded() {
        return Err("The tag table is to be registered elsewhere".to_owned());
    }
    let table = match registration.home {
        Home::Memory => "in this server's memory".to_owned(),
        Home::Redis => {
            let base = base_of(&registration).map_err(told)?;
            let base = base.ok_or("The tag table is not made yet")?;
            format!("base {base}, {} buckets", registration.buckets)
        }
    };
    if registry::debts::is_any(&fresh.snapshot) {
        return Err("Debts are not paid yet".to_owned());
    }
    Ok(json!([
        row("server", format!("{} {}, run_id {}", server.name, server.version, server.run_id)),
        row("registration", format!("timeline {}", registration.timeline)),
        row("tag table", table),
        row("debts", "none".to_owned()),
    ]))
}

fn row(step: &str, detail: String) -> Value {
    json!({ "step": step, "detail": detail })
}

/// The base of the table if it is of the registered generation.
fn base_of(registration: &Rc<Registration>) -> Result<Option<String>, Failure> {
    let found = connection::ask(|session| Ok(made(session, &registration.table)?))?;
    let is_ours = found.is_of(registration.generation);
    let base = found.base.map(|base| String::from_utf8_lossy(&base).into_owned());
    Ok(base.filter(|_| is_ours))
}

/// Changes the key prefix or the number of buckets, as far as they are given, and makes the worker
/// begin a new generation once this transaction is committed.
pub fn register(prefix: Option<&str>, buckets: Option<i32>) -> Outcome<()> {
    check(prefix, buckets)?;
    let Some(schema) = table::extension_schema_name() else { return Ok(()) };
    let (system, database) = identity::origin();
    let system = system.cast_signed();
    let prefix = prefix.map_or_else(|| "NULL::text".to_owned(), quote::literal);
    let buckets = buckets.map_or_else(|| "NULL::integer".to_owned(), |count| count.to_string());
    utility::run(&format!(
        "INSERT INTO {schema}.redis_server AS server
                (system_identifier, database, generation, key_prefix, buckets)
         VALUES ({system}, {database}, pg_catalog.gen_random_uuid(),
                 coalesce({prefix}, ''), coalesce({buckets}, 65536))
         ON CONFLICT (one) DO UPDATE
            SET system_identifier = excluded.system_identifier, database = excluded.database,
                generation = excluded.generation, servers = '', timeline = 0,
                key_prefix = coalesce({prefix}, server.key_prefix),
                buckets = coalesce({buckets}, server.buckets),
                registered_at = pg_catalog.now()"
    ))?;
    worker::wake_now_and_later();
    Ok(())
}

fn check(prefix: Option<&str>, buckets: Option<i32>) -> Result<(), Error> {
    if let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty()) {
        // Nor the beginning of it: a user's key could complete it.
        if prefix.starts_with(RESERVED_PREFIX) || RESERVED_PREFIX.starts_with(prefix) {
            return Err(Error::KeyReserved { prefix: RESERVED_PREFIX });
        }
        if prefix.len() > PREFIX_BYTES_MAX {
            return Err(Error::PrefixTooLong { bytes: prefix.len(), bytes_max: PREFIX_BYTES_MAX });
        }
    }
    match buckets {
        Some(given) if !(1..=BUCKETS_MAX).contains(&given) => {
            Err(Error::BucketsOutOfRange { given, most: BUCKETS_MAX })
        }
        _ => Ok(()),
    }
}
