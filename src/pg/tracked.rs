//! Is a relation tracked: does every change of its rows reach the tags?
//!
//! Owns that answer, read from the relation cache: our row trigger for INSERT, UPDATE and DELETE
//! and our TRUNCATE trigger, both ENABLE ALWAYS, on the table and on everything whose rows it
//! shows, and the event triggers that see what fires no row trigger. Invariant: *tracked* is said
//! only if all of that is in place. If it were said too early, a change would be noted nowhere and
//! an old entry would be served as exact.

use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use super::condition::{self, Condition};
use super::{classify, row_groups, surroundings, text};

/// The trigger functions that note changes.
const ROW_FUNCTION: &str = "redis_track_row";
const TRUNCATE_FUNCTION: &str = "redis_track_truncate";
/// The trigger function that names keys to delete.
const KEYS_FUNCTION: &str = "redis_invalidate";
/// What notes changes in the condition of the row trigger.
const NOTE_FUNCTION: &str = "redis_track_note";

/// What notes schema changes: its name, and the event at which it fires.
const EVENT_TRIGGERS: [(&CStr, &str); 3] = [
    (c"pg_cache_ddl_start", "ddl_command_start"),
    (c"pg_cache_ddl_end", "ddl_command_end"),
    (c"pg_cache_sql_drop", "sql_drop"),
];

/// A relation that has tags of its own: a table, an inheritance child, or the partition tree that a
/// partition belongs to.
pub struct Tracked {
    /// What the tags are made of: the root of the partition tree, else the relation itself.
    pub root: pg_sys::Oid,
    /// The columns by whose values changes are noted, in the order of tracking.
    pub by: Vec<String>,
    /// Why it is not tracked, a sentence.
    pub gap: Option<String>,
}

impl Tracked {
    fn gap(root: pg_sys::Oid, gap: String) -> Self {
        Self { root, by: Vec::new(), gap: Some(gap) }
    }
}

/// The relations on whose rows a scan of this one depends.
pub fn scanned(relation: pg_sys::Oid, with_children: bool) -> Vec<Tracked> {
    let children = if with_children { classify::children(relation) } else { Vec::new() };
    let others = |child: &pg_sys::Oid| !is_anothers_temporary(*child);
    let children: Vec<_> = children.into_iter().filter(others).collect();
    // A change of a child's triggers does not reach the plan by itself.
    children.iter().for_each(|child| surroundings::watch_relation(*child));
    if classify::is_partitioned(relation) {
        return vec![partition_tree(relation, &children)];
    }
    let mut scanned = vec![one(relation)];
    scanned.extend(children.into_iter().map(one));
    scanned
}

/// Other sessions' temporary children hold rows that only those sessions see.
fn is_anothers_temporary(relation: pg_sys::Oid) -> bool {
    classify::is_temporary(relation) && !classify::is_own_temporary(relation)
}

/// Changes are noted by the triggers of the leaves; those of the levels between only get cloned.
fn partition_tree(relation: pg_sys::Oid, children: &[pg_sys::Oid]) -> Tracked {
    surroundings::watch_partitions(relation);
    let partitioned = children.iter().filter(|child| classify::is_partitioned(**child));
    partitioned.for_each(|child| surroundings::watch_partitions(*child));
    let own = one(relation);
    let mut leaves = children
        .iter()
        .filter(|child| !classify::is_partitioned(**child))
        .map(|child| one(*child))
        .peekable();
    let mut tree =
        Tracked { by: leaves.peek().map_or_else(|| own.by.clone(), |leaf| leaf.by.clone()), ..own };
    for leaf in leaves {
        // A leaf that notes other groups than its sisters: only what all note can be relied on.
        if leaf.by != tree.by {
            tree.by = Vec::new();
        }
        tree.gap = tree.gap.or(leaf.gap);
    }
    tree
}

fn one(relation: pg_sys::Oid) -> Tracked {
    let name = || classify::relation_name(relation);
    match classify::kind_name(relation) {
        "foreign table" => Tracked::gap(relation, format!("{} is a foreign table.", name())),
        "sequence" => Tracked::gap(relation, format!("{} is a sequence.", name())),
        // Only REFRESH changes it, which the event trigger notes.
        "materialized view" => Tracked { root: relation, by: Vec::new(), gap: None },
        _ => by_triggers(relation),
    }
}

fn by_triggers(relation: pg_sys::Oid) -> Tracked {
    let root = root_of(relation);
    if is_partition(root) {
        let gap = format!("{} is being detached.", classify::relation_name(root));
        return Tracked::gap(root, gap);
    }
    let triggers: Vec<_> = triggers_of(relation)
        .into_iter()
        .filter_map(|trigger| Some((function_of_ours(trigger.function)?, trigger)))
        .collect();
    let of = |function: &str| triggers.iter().filter(|(name, _)| name == function).count();
    let row = triggers.iter().find(|(name, trigger)| {
        name == ROW_FUNCTION && trigger.always && trigger.tells_all(relation)
    });
    let truncate = triggers.iter().any(|(name, trigger)| {
        name == TRUNCATE_FUNCTION
            && trigger.always
            && trigger.sees_all(pg_sys::TRIGGER_TYPE_TRUNCATE, false)
    });
    match row {
        Some((_, row)) if truncate => {
            // Two triggers that note other groups: both notes are made, so either will do. More
            // columns than redis_track takes are a trigger made by hand: who knows what it notes.
            let known = row.arguments.len() <= row_groups::COLUMNS_MAX;
            let by = if known { row.arguments.clone() } else { Vec::new() };
            Tracked { root, by, gap: None }
        }
        _ if of(ROW_FUNCTION) == 0 && of(TRUNCATE_FUNCTION) == 0 => {
            Tracked::gap(root, format!("{} is not tracked.", classify::relation_name(relation)))
        }
        _ => {
            let name = classify::relation_name(relation);
            let gap = format!("A tracking trigger of {name} is missing or not ENABLE ALWAYS.");
            Tracked::gap(root, gap)
        }
    }
}

/// The templates of keys that every change of a row deletes.
pub fn key_templates(relation: pg_sys::Oid) -> Vec<String> {
    let triggers = triggers_of(relation).into_iter().filter(|trigger| {
        trigger.fires
            && trigger.sees_all(ROW_EVENTS, true)
            && function_of_ours(trigger.function).as_deref() == Some(KEYS_FUNCTION)
    });
    triggers.flat_map(|trigger| trigger.arguments).collect()
}

const ROW_EVENTS: u32 =
    pg_sys::TRIGGER_TYPE_INSERT | pg_sys::TRIGGER_TYPE_UPDATE | pg_sys::TRIGGER_TYPE_DELETE;

/// A trigger, copied out of the relation cache.
struct Trigger {
    function: pg_sys::Oid,
    kind: u32,
    /// In an ordinary session.
    fires: bool,
    always: bool,
    /// UPDATE OF some columns: it does not see all changes.
    partial: bool,
    condition: Condition,
    arguments: Vec<String>,
}

impl Trigger {
    /// Whether our row trigger notes every change of a table, in its function or its condition.
    fn tells_all(&self, relation: pg_sys::Oid) -> bool {
        let tells = match self.condition {
            Condition::None => true,
            Condition::Other => false,
            Condition::Call { function, table } => {
                // With arguments there are groups to note, which needs the function.
                self.arguments.is_empty()
                    && function_of_ours(function).as_deref() == Some(NOTE_FUNCTION)
                    && (table == relation || ancestors(relation).contains(&table))
            }
        };
        tells && self.fires_at_all(ROW_EVENTS, true)
    }

    fn sees_all(&self, events: u32, for_each_row: bool) -> bool {
        self.condition == Condition::None && self.fires_at_all(events, for_each_row)
    }

    /// Whatever its condition says.
    fn fires_at_all(&self, events: u32, for_each_row: bool) -> bool {
        let before = pg_sys::TRIGGER_TYPE_BEFORE | pg_sys::TRIGGER_TYPE_INSTEAD;
        let row = self.kind & pg_sys::TRIGGER_TYPE_ROW != 0;
        !self.partial
            && row == for_each_row
            // What a BEFORE trigger sees may still be changed by another.
            && self.kind & before == 0
            && self.kind & events == events
    }
}

fn triggers_of(relation: pg_sys::Oid) -> Vec<Trigger> {
    // SAFETY: pins the relation cache's entry until it is closed below.
    let pinned = unsafe { pg_sys::RelationIdGetRelation(relation) };
    if pinned.is_null() {
        return Vec::new();
    }
    // SAFETY: pinned.
    let description = unsafe { (*pinned).trigdesc };
    // SAFETY: NULL or valid while pinned; nothing is looked up before all of it is copied.
    let found = match unsafe { description.as_ref() } {
        None => Vec::new(),
        Some(description) => copied(description),
    };
    // SAFETY: pinned above.
    unsafe { pg_sys::RelationClose(pinned) };
    found
}

fn copied(description: &pg_sys::TriggerDesc) -> Vec<Trigger> {
    let count = usize::try_from(description.numtriggers).unwrap_or(0);
    if count == 0 {
        return Vec::new();
    }
    // SAFETY: an array of that many triggers.
    let triggers = unsafe { std::slice::from_raw_parts(description.triggers, count) };
    triggers
        .iter()
        .map(|trigger| Trigger {
            function: trigger.tgfoid,
            kind: trigger.tgtype as u32,
            fires: [pg_sys::TRIGGER_FIRES_ON_ORIGIN, pg_sys::TRIGGER_FIRES_ALWAYS]
                .contains(&(trigger.tgenabled as u8)),
            always: trigger.tgenabled as u8 == pg_sys::TRIGGER_FIRES_ALWAYS,
            partial: trigger.tgnattr > 0,
            condition: condition::of(trigger),
            arguments: arguments(trigger),
        })
        .collect()
}

fn arguments(trigger: &pg_sys::Trigger) -> Vec<String> {
    let count = usize::try_from(trigger.tgnargs).unwrap_or(0);
    if count == 0 {
        return Vec::new();
    }
    // SAFETY: an array of that many C strings.
    let arguments = unsafe { std::slice::from_raw_parts(trigger.tgargs, count) };
    arguments.iter().map(|argument| text::c_string(*argument)).collect()
}

/// The name of a function, if it is of this extension.
fn function_of_ours(function: pg_sys::Oid) -> Option<String> {
    let name = classify::function_name(function);
    let known =
        [ROW_FUNCTION, TRUNCATE_FUNCTION, KEYS_FUNCTION, NOTE_FUNCTION].contains(&name.as_str());
    (known && classify::is_ours(function)).then_some(name)
}

unsafe extern "C-unwind" {
    // Not among pgrx's bindings, so guarded by hand where it is called.
    fn get_partition_ancestors(relation: pg_sys::Oid) -> *mut pg_sys::List;
}

fn is_partition(relation: pg_sys::Oid) -> bool {
    // SAFETY: a catalogue look-up.
    unsafe { pg_sys::get_rel_relispartition(relation) }
}

/// The root of the partition tree that a partition belongs to; another relation is its own.
///
/// While DETACH CONCURRENTLY is under way, that is the partition which leaves: who wrote to it
/// before, and has not ended, noted the tags of the root that it had.
pub fn root_of(relation: pg_sys::Oid) -> pg_sys::Oid {
    ancestors(relation).last().copied().unwrap_or(relation)
}

/// Whose partition a relation is, nearest first.
fn ancestors(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    if !is_partition(relation) {
        return Vec::new();
    }
    // SAFETY: a palloc'ed list of oids, nearest first.
    let look = || unsafe { get_partition_ancestors(relation) };
    // SAFETY: on the backend's one thread.
    super::tree::oids(unsafe { pg_guard_ffi_boundary(look) })
}

/// Whether schema changes are noted, or the sentence that says why not.
pub fn schema_gap() -> Option<&'static str> {
    let missing = !missing_event_triggers().is_empty();
    missing.then_some("An event trigger of pg_cache is missing or not ENABLE ALWAYS.")
}

/// The event triggers that are not there as they must be, by their names.
pub fn missing_event_triggers() -> Vec<String> {
    let missing = EVENT_TRIGGERS.iter().filter(|(name, event)| !is_watched(name, event));
    missing.map(|(name, _)| name.to_string_lossy().into_owned()).collect()
}

/// Whether the setting `event_triggers` is on, here and now. In other sessions it may be off all
/// the same: who may set it, a superuser, is trusted.
#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
pub fn event_triggers_run() -> bool {
    true
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
pub fn event_triggers_run() -> bool {
    // SAFETY: a setting.
    unsafe { pg_sys::event_triggers }
}

fn is_watched(name: &CStr, event: &str) -> bool {
    let cache = pg_sys::SysCacheIdentifier::EVENTTRIGGERNAME as i32;
    // SAFETY: pins the catalogue tuple until it is released below.
    let tuple = unsafe { pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(name.as_ptr())) };
    if tuple.is_null() {
        return false;
    }
    // SAFETY: a pinned pg_event_trigger tuple.
    let row = unsafe { pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_event_trigger>(tuple) };
    // SAFETY: as above.
    let row = unsafe { &*row };
    let mut no_filter = false;
    let tags = pg_sys::Anum_pg_event_trigger_evttags as pg_sys::AttrNumber;
    // SAFETY: a column of the pinned tuple.
    unsafe { pg_sys::SysCacheGetAttr(cache, tuple, tags, &raw mut no_filter) };
    let in_place = no_filter
        && row.evtenabled as u8 == pg_sys::TRIGGER_FIRES_ALWAYS
        && text::name(&row.evtevent) == event;
    let function = row.evtfoid;
    // SAFETY: pinned by the look-up above.
    unsafe { pg_sys::ReleaseSysCache(tuple) };
    in_place && classify::is_ours(function)
}
