//! What a query's result hangs on: the tags of what it reads, and whether they say it all.
//!
//! Made once for an analysed plan; the tags that arguments take part in are found on every call.
//! Invariant: the tags cover every change that can change the result, or `exact` is false. A query
//! depends on `whole` of each relation, and on `any` or on the row groups that its conditions pin.
//! If one were left out, the entry would outlive a change of what it shows.

use pg_cache_core::pins::group_tags;
use pg_cache_core::tag::{Tag, Tags};
use pgrx::pg_sys::{self, NodeTag};

use super::analysis::{Analysis, Name};
use super::arguments::Bound;
use super::error::Outcome;
use super::pins::{self, Level, Pin};
use super::stable::{self, Stable};
use super::tracked::{self, Tracked};
use super::tree::{self, Met};
use super::{classify, text};

/// What a plan's results hang on.
#[derive(Default)]
pub struct Dependencies {
    /// Why they are not exact, in sentences.
    gaps: Vec<String>,
    reads: Vec<Reads>,
    /// Those that no argument takes part in.
    settled: Tags,
    grouped: Vec<Grouped>,
    /// Arguments that name a tag of the user's own.
    names: Vec<usize>,
    /// The relations whose tags these are, each once.
    roots: Vec<u32>,
    /// The tags of the user's own that the query itself names.
    own: Vec<String>,
}

/// A relation that the query names, for a person.
pub struct Reads {
    pub relation: pg_sys::Oid,
    /// Why it is not tracked.
    pub gap: Option<String>,
    /// The conditions that pin row groups, one for each place where it is read; none if one of them
    /// reads the whole table.
    pub groups: Vec<String>,
    unpinned: bool,
}

/// One place where a tracked relation is read, by its pinned columns.
struct Grouped {
    root: u32,
    by: usize,
    pins: Vec<Pin>,
}

impl Grouped {
    fn tags(&self, bound: &[Bound], out: &mut Tags) {
        let pinned: Vec<_> = self.pins.iter().map(|pin| pin.resolve(bound)).collect();
        group_tags(self.root, self.by, &pinned, out);
    }
}

impl Dependencies {
    pub fn of(query: *mut pg_sys::Query, analysis: &Analysis) -> Outcome<Self> {
        let met = tree::collect(query.cast(), false)?;
        let mut found = Self::default();
        found.gaps.extend(tracked::schema_gap().map(str::to_owned));
        found.functions(analysis);
        for Met { node, tag, .. } in &met {
            match tag {
                // SAFETY: the tag says what it is.
                NodeTag::T_Query => found.level(unsafe { &*node.cast() }),
                // SAFETY: as above.
                NodeTag::T_Var => found.column(unsafe { &*node.cast() }),
                NodeTag::T_TableFunc => {
                    // SAFETY: as above.
                    let columns = unsafe { &*node.cast::<pg_sys::TableFunc>() };
                    tree::oids(columns.coltypes).into_iter().for_each(|kind| found.read(kind));
                }
                #[cfg(any(feature = "pg17", feature = "pg18"))]
                NodeTag::T_JsonExpr => {
                    // SAFETY: as above.
                    let returning = unsafe { (*node.cast::<pg_sys::JsonExpr>()).returning };
                    // SAFETY: NULL or a valid node.
                    let returning = unsafe { returning.as_ref() };
                    returning.iter().for_each(|returning| found.read(returning.typid));
                }
                NodeTag::T_TableSampleClause => {
                    found.gap("A sample hangs on where rows stand.".to_owned());
                }
                _ => {}
            }
        }
        found.names(&analysis.names);
        found.settle();
        Ok(found)
    }

    /// Whether a hit gives what the query gives: all that it hangs on is noted when it changes.
    pub fn exact(&self) -> bool {
        self.gaps.is_empty() && tracked::event_triggers_run()
    }

    /// Why not, in sentences.
    pub fn gaps(&self) -> Vec<&str> {
        let off = (!tracked::event_triggers_run()).then_some("The setting event_triggers is off.");
        off.into_iter().chain(self.gaps.iter().map(String::as_str)).collect()
    }

    pub fn relations(&self) -> &[Reads] {
        &self.reads
    }

    /// What a tag stands for, in words; it is one of those that `tags` gives.
    pub fn meaning(&self, tag: Tag) -> String {
        let name = |root: &u32| classify::relation_name(pg_sys::Oid::from(*root));
        for root in &self.roots {
            if tag == Tag::any(*root) {
                return format!("table {}", name(root));
            }
            if tag == Tag::whole(*root) {
                return format!("table {} as a whole, as by TRUNCATE", name(root));
            }
        }
        match self.own.iter().find(|own| Tag::named(own) == tag) {
            Some(own) => format!("tag {own}"),
            None if self.roots.len() == 1 => {
                let table = self.roots.first().map(name).unwrap_or_default();
                format!("a row group of table {table}")
            }
            None => "a row group, or a tag that an argument names".to_owned(),
        }
    }

    /// Adds the tags, each once, but for the catalogue and the key's own.
    pub fn tags(&self, bound: &[Bound], out: &mut Tags) {
        let start = out.len();
        out.extend_from_slice(&self.settled);
        if self.grouped.is_empty() && self.names.is_empty() {
            return;
        }
        self.grouped.iter().for_each(|place| place.tags(bound, out));
        for index in &self.names {
            let name = bound.get(*index).and_then(|argument| argument.value);
            out.extend(name.map(|name| Tag::named(&text::owned(name))));
        }
        let mut found: Tags = out.drain(start..).collect();
        found.sort_unstable();
        found.dedup();
        out.append(&mut found);
    }

    fn gap(&mut self, gap: String) {
        if !self.gaps.contains(&gap) {
            self.gaps.push(gap);
        }
    }

    fn functions(&mut self, analysis: &Analysis) {
        for (kind, function) in &analysis.stable {
            let name = || classify::function_signature(*function);
            match kind {
                Stable::Opaque => {
                    self.gap(format!("{} is STABLE and may read anything.", name()));
                }
                Stable::Time => self.gap(format!("{} tells the time.", name())),
                _ => {
                    let why = stable::inexact(&classify::function_name(*function));
                    if let Some(why) = why {
                        self.gap(format!("{} {why}.", name()));
                    }
                }
            }
        }
        for (kind, name) in &analysis.value_functions {
            if *kind == Stable::Time {
                self.gap(format!("{name} tells the time."));
            }
        }
    }

    /// XMLTABLE and the like make values of text when they run, and text may say 'now'.
    fn read(&mut self, type_oid: pg_sys::Oid) {
        let is_time = matches!(
            type_oid,
            pg_sys::DATEOID
                | pg_sys::TIMEOID
                | pg_sys::TIMETZOID
                | pg_sys::TIMESTAMPOID
                | pg_sys::TIMESTAMPTZOID
        );
        if is_time || !classify::parts_of_type(type_oid).is_empty() {
            self.gap("A function reads times from text, which may say 'now'.".to_owned());
        }
    }

    /// VACUUM FULL moves rows, and VACUUM freezes them, without a trigger.
    fn column(&mut self, var: &pg_sys::Var) {
        let attribute = i32::from(var.varattno);
        if attribute < 0 && attribute != pg_sys::TableOidAttributeNumber {
            self.gap("A system column tells where a row stands or who wrote it.".to_owned());
        }
    }

    fn level(&mut self, query: &pg_sys::Query) {
        let level = Level::of(query);
        let entries = tree::nodes::<pg_sys::RangeTblEntry>(query.rtable);
        for (index, entry) in entries.into_iter().enumerate() {
            // SAFETY: members of a range table are entries.
            let entry = unsafe { &*entry };
            let Some(relation) = pins::relation_of(entry) else { continue };
            for scanned in tracked::scanned(relation, entry.inh) {
                self.scanned(index + 1, relation, level.as_ref(), scanned);
            }
        }
    }

    fn scanned(
        &mut self,
        entry: usize,
        relation: pg_sys::Oid,
        level: Option<&Level>,
        scanned: Tracked,
    ) {
        if let Some(gap) = &scanned.gap {
            self.gap(gap.clone());
        }
        let root = scanned.root.to_u32();
        let pins: Vec<_> = match level {
            Some(level) if scanned.gap.is_none() => {
                let pin = |column: &String| level.pin(entry, relation, column);
                scanned.by.iter().filter_map(pin).collect()
            }
            _ => Vec::new(),
        };
        self.describe(relation, scanned.gap, &pins);
        self.settled.push(Tag::whole(root));
        if !self.roots.contains(&root) {
            self.roots.push(root);
        }
        if pins.is_empty() {
            self.settled.push(Tag::any(root));
        } else {
            self.grouped.push(Grouped { root, by: scanned.by.len(), pins });
        }
    }

    fn describe(&mut self, relation: pg_sys::Oid, gap: Option<String>, pins: &[Pin]) {
        let at = self.reads.iter().position(|reads| reads.relation == relation);
        let at = at.unwrap_or_else(|| {
            let groups = Vec::new();
            self.reads.push(Reads { relation, gap: None, groups, unpinned: false });
            self.reads.len() - 1
        });
        let Some(reads) = self.reads.get_mut(at) else { return };
        reads.gap = reads.gap.take().or(gap);
        reads.unpinned |= pins.is_empty();
        let conditions: Vec<_> = pins.iter().map(|pin| pin.condition.as_str()).collect();
        let group = conditions.join(" AND ");
        if reads.unpinned {
            reads.groups.clear();
        } else if !reads.groups.contains(&group) {
            reads.groups.push(group);
        }
    }

    fn names(&mut self, names: &[Name]) {
        for name in names {
            match name {
                Name::Constant(name) => {
                    self.settled.push(Tag::named(name));
                    self.own.push(name.clone());
                }
                Name::Argument(index) => self.names.push(*index),
            }
        }
    }

    /// What arguments take no part in is found once; what `any` covers needs no groups.
    fn settle(&mut self) {
        let settled = &mut self.settled;
        let mut open = Vec::new();
        for place in std::mem::take(&mut self.grouped) {
            if settled.contains(&Tag::any(place.root)) {
                continue;
            }
            match place.pins.iter().all(Pin::is_settled) {
                true => place.tags(&[], settled),
                false => open.push(place),
            }
        }
        self.grouped = open;
        settled.sort_unstable();
        settled.dedup();
    }
}
