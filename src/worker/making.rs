//! The making of a generation: register, claim, wait for writers, base, make.
//!
//! In this order, each step finished before the next begins. Whoever bumps without holding the lock
//! when we look for holders reads the new generation, and then either its bump comes after the
//! claim, so that it is in the table, or it owes; whoever holds it ends before the base begins.

use crate::client::failure::Failure;
use crate::client::making::{Prune, claim, make, prune, remember};
use crate::client::server::Server;
use crate::connection;
use crate::pg::error::{self, Outcome};
use crate::pg::transaction::{self, End};
use crate::pg::{Oid, activity, host, identity, quote, snapshot, table, utility, wal};
use crate::registry::{self, Home};
use pg_cache_core::tagtable;

use super::sweep;
use super::waiting::outwait_writers;
use super::{Pass, Step};

/// How often lists may be bumped while they are pruned.
const ATTEMPTS_MAX: u32 = 5;

/// Registers a new generation and makes its table.
///
/// A failure after the registration, a lost claim too, leaves a generation that nobody can use; the
/// next pass starts with another. It must: a request to make whose answer was lost, or that was
/// sent again over another connection, may have been carried out and the table been lost since.
/// Made a second time, it would give out versions that entries of that generation already hold.
pub fn register_and_make(
    server: &Server,
    meanwhile: &mut dyn FnMut() -> Outcome<()>,
) -> Step<Pass> {
    activity::show("registering");
    let home = Home::wanted();
    let Some((relation, generation)) = register(&server.identity(), home)?? else {
        return Ok(Pass::Blocked);
    };
    let made = match home {
        Home::Redis => make_table(&table_key(), relation, &generation, meanwhile)?,
        // All who write are listed there, whatever is registered.
        Home::Memory => true,
    };
    if !made {
        return Ok(Pass::Blocked);
    }
    let run = &server.run_id;
    error::log(&format!("pg_cache registered generation {generation} of redis {run}"));
    Ok(Pass::Worked)
}

fn table_key() -> Vec<u8> {
    let (system, database) = identity::origin();
    tagtable::key(system, database, 0)
}

/// Claims the table in Redis and makes it the generation's; false if the claim was lost.
fn make_table(
    table: &[u8],
    relation: Oid,
    generation: &str,
    meanwhile: &mut dyn FnMut() -> Outcome<()>,
) -> Step<bool> {
    let Some(nonce) = claim_and_prune(table)? else { return Ok(false) };
    if !host::skips("guard.lockers") {
        outwait_writers(relation, meanwhile)?;
    }
    host::fault_point("worker.claimed");
    activity::show("making the tag table");
    let base = transaction::empty();
    let forgets = host::skips("guard.keeplists");
    if forgets {
        connection::ask(|session| Ok(redis::cmd("DEL").arg(table).exec(session)?))?;
    }
    if forgets || host::skips("guard.claim") {
        connection::ask(|session| Ok(claim(session, table, &nonce)?))?;
    }
    Ok(connection::ask(|session| Ok(make(session, table, &nonce, generation, base)?))?)
}

/// The nonce of a claim under which no list holds ids from the future, or as few as can be; `None`
/// if the claim was lost.
fn claim_and_prune(table: &[u8]) -> Result<Option<String>, Failure> {
    let mut nonce = String::new();
    for _ in 0..ATTEMPTS_MAX {
        nonce = format!("{:016x}{:016x}", host::random(), host::random());
        let claimed = connection::ask(|session| Ok(claim(session, table, &nonce)?))?;
        // Read after the claim: who bumped before it had its id by then.
        let next_xid = snapshot::next_xid();
        let (mut cursor, mut stay) = (0, 0);
        loop {
            let step = Prune { table, nonce: &nonce, claimed, next_xid, cursor };
            let Some((next, stayed)) = connection::ask(|session| Ok(prune(session, &step)?))?
            else {
                return Ok(None);
            };
            (cursor, stay) = (next, stay + stayed);
            if cursor == 0 {
                break;
            }
            host::check_interrupts();
        }
        if stay == 0 {
            break;
        }
    }
    Ok(Some(nonce))
}

/// Writes and commits the registration of a new generation; `None` if somebody is in the way.
fn register(servers: &str, home: Home) -> Outcome<Result<Option<(Oid, String)>, Failure>> {
    transaction::run(|| {
        let (Some(relation), Some(schema)) = (registry::lock_all(), table::extension_schema_name())
        else {
            return Ok(End::Abort(Ok(None)));
        };
        // Nobody's redis_register may be under way: its commit would come after ours.
        let free = format!(
            "SELECT (SELECT pg_catalog.count(*) FROM {schema}.redis_server)
                  = (SELECT pg_catalog.count(*) FROM (
                       SELECT FROM {schema}.redis_server FOR UPDATE SKIP LOCKED) AS unlocked)"
        );
        if utility::ask(&free)?.as_deref() != Some("t") {
            return Ok(End::Abort(Ok(None)));
        }
        let (system, database) = identity::origin();
        let system = system.cast_signed();
        // In a copy of another database the row is that one's.
        let former = utility::ask(&format!(
            "SELECT pg_catalog.replace(generation::text, '-', '') FROM {schema}.redis_server
              WHERE system_identifier = {system} AND database = {database}"
        ))?;
        let generation = utility::ask(&registering(&schema, servers, home))?;
        if let Err(failure) = prepare(former.iter().chain(&generation), home) {
            return Ok(End::Abort(Err(failure)));
        }
        Ok(End::Commit(Ok(generation.map(|generation| (relation, generation)))))
    })
}

/// Writes the row and gives the generation.
fn registering(schema: &str, servers: &str, home: Home) -> String {
    let (system, database) = identity::origin();
    let (system, timeline) = (system.cast_signed(), wal::timeline());
    let (servers, home) = (quote::literal(servers), quote::literal(home.as_str()));
    format!(
        "WITH registered AS (
             INSERT INTO {schema}.redis_server
                    (system_identifier, database, generation, servers, timeline, tag_table)
             VALUES ({system}, {database}, pg_catalog.gen_random_uuid(), {servers}, {timeline},
                     {home})
             ON CONFLICT (one) DO UPDATE
                SET system_identifier = excluded.system_identifier,
                    database = excluded.database, generation = excluded.generation,
                    servers = excluded.servers, timeline = excluded.timeline,
                    tag_table = excluded.tag_table,
                    registered_at = pg_catalog.now()
             RETURNING generation),
         alive AS (
             INSERT INTO {schema}.redis_alive (generation, started_at)
             SELECT generation, pg_catalog.pg_postmaster_start_time() FROM registered
             ON CONFLICT (one) DO UPDATE
                SET generation = excluded.generation, started_at = excluded.started_at)
         SELECT pg_catalog.replace(generation::text, '-', '') FROM registered"
    )
}

/// What Redis has to know before anybody can fill an entry of a generation: its name, so that a
/// sweep finds what it leaves; that of the former one once more, which Redis may have lost with all
/// it had; and that a table there is nobody's any more if writers will not tell it. Whoever still
/// sees the former registration, by a snapshot that it keeps, would find nobody listed there and
/// fill what is old.
fn prepare<'a>(generations: impl Iterator<Item = &'a String>, home: Home) -> Result<(), Failure> {
    let at = sweep::generations();
    for generation in generations {
        connection::ask(|session| Ok(remember(session, &at, generation.as_bytes())?))?;
    }
    if home == Home::Memory && !host::skips("guard.endtable") {
        let table = table_key();
        connection::ask(|session| Ok(redis::cmd("UNLINK").arg(&table[..]).exec(session)?))?;
    }
    Ok(())
}
