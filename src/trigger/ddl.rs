//! The event triggers: DDL that could change a result notes the catalogue tag.
//!
//! Invariant: every command that could change what any query returns notes it, in the transaction
//! that does so. DETACH PARTITION CONCURRENTLY commits between the start and the end of the
//! command, so it notes twice. In doubt a command notes: that costs misses, the other way round
//! would cost exactness.

use pg_cache_core::error::{Error, Tracking};
use pg_cache_core::tag::Tag;
use serde::Deserialize;

use crate::pg::call::Call;
use crate::pg::error::{self, Outcome};
use crate::pg::event_trigger::{Alteration, Event, is_binary_upgrade};
use crate::pg::{Datum, Oid, utility};
use crate::{commit, tracking};

use super::check;

sql_function!(redis_ddl_start, pg_finfo_redis_ddl_start, start);
sql_function!(redis_ddl_end, pg_finfo_redis_ddl_end, end);
sql_function!(redis_sql_drop, pg_finfo_redis_sql_drop, dropped);

/// What these change, no query shows: how fast rows are found, what is said about objects, and who
/// may use them, which is checked at each call.
const WITHOUT_EFFECT: [&str; 13] = [
    "ALTER DEFAULT PRIVILEGES",
    "ALTER INDEX",
    "ALTER STATISTICS",
    "COMMENT",
    "CREATE INDEX",
    "CREATE STATISTICS",
    "DROP INDEX",
    "DROP STATISTICS",
    "GRANT",
    "LOGIN",
    "REINDEX",
    "REVOKE",
    "SECURITY LABEL",
];

/// What a command did to one object.
#[derive(Deserialize)]
struct Done {
    /// The relation, if it is one.
    relation: Option<u32>,
    command: String,
    temporary: bool,
    /// The trigger and its table, if it is one.
    trigger: Option<u32>,
    table: Option<u32>,
}

fn start(call: &Call) -> Outcome<Datum> {
    let Some(event) = relevant(call, "redis_ddl_start", "ddl_command_start")? else {
        return Ok(Datum::from(0usize));
    };
    for alteration in event.alterations() {
        match alteration {
            Alteration::Loss { concurrently: true, .. } => commit::note(Tag::CATALOGUE)?,
            Alteration::Gain { parent: Some(parent), partition: Some(partition) } => {
                tracking::make_way(parent, partition, &call.function_schema())?;
            }
            _ => {}
        }
    }
    Ok(Datum::from(0usize))
}

fn end(call: &Call) -> Outcome<Datum> {
    let Some(event) = relevant(call, "redis_ddl_end", "ddl_command_end")? else {
        if Event::of(call).is_some_and(|event| event.command() == "REVOKE") && !is_binary_upgrade()
        {
            tracking::stay_callable(&call.function_schema())?;
        }
        return Ok(Datum::from(0usize));
    };
    let done = commands()?;
    let command = event.command();
    if command == "REFRESH MATERIALIZED VIEW" {
        for view in done.iter().filter_map(|done| done.relation) {
            commit::note(Tag::any(view))?;
            commit::note(Tag::whole(view))?;
        }
        return Ok(Datum::from(0usize));
    }
    let matters = |done: &Done| !done.temporary && has_effect(&done.command);
    for Done { trigger, table, .. } in &done {
        if let (Some(trigger), Some(table)) = (trigger, table) {
            check::check_new(Oid::from(*table), Oid::from(*trigger))?;
        }
    }
    if event.takes_columns() {
        let tables = done.iter().filter_map(|done| done.relation);
        tables.map(Oid::from).try_for_each(check::check_lost)?;
    }
    // What DROP takes is told by sql_drop.
    let untold = done.is_empty() && !command.starts_with("DROP") && !event.alters_temporary_table();
    if untold || done.iter().any(matters) {
        commit::note(Tag::CATALOGUE)?;
    }
    follow(event, &command, &done, &call.function_schema())?;
    Ok(Datum::from(0usize))
}

/// Keeps the triggers of tracked trees complete.
fn follow(event: Event<'_>, command: &str, done: &[Done], our_schema: &str) -> Outcome<()> {
    let alterations = event.alterations();
    let creates = matches!(command, "CREATE TABLE" | "CREATE SCHEMA");
    let gains = |alteration: &Alteration| matches!(alteration, Alteration::Gain { .. });
    if creates || alterations.iter().any(gains) {
        let relations = done.iter().filter(|done| !done.temporary && is_table(&done.command));
        let touched: Vec<_> = relations.filter_map(|done| done.relation).collect();
        tracking::adopt(&touched, our_schema)?;
    }
    for alteration in alterations {
        if let Alteration::Loss { partition: Some(partition), .. } = alteration {
            tracking::let_go(partition, our_schema)?;
        }
    }
    Ok(())
}

fn is_table(command: &str) -> bool {
    matches!(command, "CREATE TABLE" | "ALTER TABLE")
}

fn dropped(call: &Call) -> Outcome<Datum> {
    if relevant(call, "redis_sql_drop", "sql_drop")?.is_some() && drops_something()? {
        commit::note(Tag::CATALOGUE)?;
    }
    Ok(Datum::from(0usize))
}

/// The event, unless it cannot matter.
fn relevant<'a>(
    call: &'a Call,
    function: &str,
    wanted: &'static str,
) -> Outcome<Option<Event<'a>>> {
    let event = Event::of(call).ok_or_else(|| {
        let function = function.to_owned();
        Error::from(Tracking::Protocol { function, wanted })
    })?;
    let idle =
        is_binary_upgrade() || event.is_our_coming_or_going() || event.makes_temporary_table();
    Ok((!idle && has_effect(&event.command())).then_some(event))
}

fn has_effect(command: &str) -> bool {
    !WITHOUT_EFFECT.contains(&command)
}

/// What is temporary goes unnoted only where it holds rows, or goes with what does: a function or a
/// type in pg_temp can stand behind others, and its session keeps entries too.
fn commands() -> Outcome<Vec<Done>> {
    let value = utility::look(
        "SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
                'relation', CASE WHEN classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                                 THEN objid::pg_catalog.int8 END,
                'command', command_tag,
                'trigger', t.oid::pg_catalog.int8,
                'table', t.tgrelid::pg_catalog.int8,
                'temporary', coalesce(schema_name = 'pg_temp', false)
                    AND classid IN ('pg_catalog.pg_class'::pg_catalog.regclass,
                                    'pg_catalog.pg_trigger'::pg_catalog.regclass,
                                    'pg_catalog.pg_rewrite'::pg_catalog.regclass,
                                    'pg_catalog.pg_policy'::pg_catalog.regclass))), '[]')
           FROM pg_catalog.pg_event_trigger_ddl_commands()
           LEFT JOIN pg_catalog.pg_trigger t
             ON classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass AND t.oid = objid",
    )?;
    serde_json::from_value(value).map_err(|error| error::defect_in(&error.to_string()))
}

/// Rules, triggers and policies are not said to be temporary with their table; where they go with
/// it, the table speaks for them.
fn drops_something() -> Outcome<bool> {
    let value = utility::look(
        "SELECT pg_catalog.to_json(coalesce(pg_catalog.bool_or(
                NOT is_temporary AND object_type NOT IN ('index', 'statistics object')
                AND (original OR object_type NOT IN ('rule', 'trigger', 'policy'))), false))
           FROM pg_catalog.pg_event_trigger_dropped_objects()",
    )?;
    Ok(value.as_bool().unwrap_or(true))
}
