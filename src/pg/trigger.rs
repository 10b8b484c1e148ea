//! A trigger as it fires: its event, its rows, its arguments.
//!
//! Owns the raw `TriggerData`. Invariant: what is handed out of it is used only during the call.

mod kept;

use std::ffi::{c_char, c_int};

use pg_cache_core::message::row::Version;
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use super::call::Call;
use super::error::Outcome;

pub use kept::{Kept, changes, watch};

unsafe extern "C-unwind" {
    // Not among pgrx's bindings. It raises only on values that are no values.
    fn datumIsEqual(one: pg_sys::Datum, two: pg_sys::Datum, by_value: bool, length: c_int) -> bool;
    // Nor these, guarded by hand where they are called.
    fn get_primary_key_attnos(
        table: pg_sys::Oid,
        deferrable_ok: bool,
        constraint: *mut pg_sys::Oid,
    ) -> *mut pg_sys::Bitmapset;
    // It fetches what is toasted.
    fn datum_image_eq(
        one: pg_sys::Datum,
        two: pg_sys::Datum,
        by_value: bool,
        length: c_int,
    ) -> bool;
}

/// A firing trigger. Valid for the duration of the call.
#[derive(Clone, Copy)]
pub struct Fired<'a> {
    data: &'a pg_sys::TriggerData,
}

/// A row of a firing trigger.
#[derive(Clone, Copy)]
pub struct Row {
    tuple: pg_sys::HeapTuple,
    description: pg_sys::TupleDesc,
}

impl<'a> Fired<'a> {
    /// The trigger that calls; `None` if the function is called in any other way.
    pub fn of(call: &'a Call) -> Option<Self> {
        let context = call.context();
        // SAFETY: NULL or a node that lives as long as the call.
        let tag = unsafe { context.as_ref() }?.type_;
        if tag != pg_sys::NodeTag::T_TriggerData {
            return None;
        }
        // SAFETY: the tag says what it is.
        Some(Self { data: unsafe { &*context.cast::<pg_sys::TriggerData>() } })
    }

    fn has(self, mask: u32, bits: u32) -> bool {
        self.data.tg_event & mask == bits
    }

    pub fn is_for_row(self) -> bool {
        self.has(pg_sys::TRIGGER_EVENT_ROW, pg_sys::TRIGGER_EVENT_ROW)
    }

    fn trigger(self) -> &'a pg_sys::Trigger {
        // SAFETY: lives as long as the call.
        unsafe { &*self.data.tg_trigger }
    }

    /// The trigger that fires, as it stands in its table.
    pub fn attached(self) -> Attached<'a> {
        Attached { trigger: self.trigger(), relation: self.relation() }
    }

    pub fn relation(self) -> Relation<'a> {
        // SAFETY: open while its trigger fires.
        Relation { relation: unsafe { &*self.data.tg_relation } }
    }

    /// The row as it was: of UPDATE and DELETE.
    pub fn row_before(self) -> Option<Row> {
        let is_insert = self.has(pg_sys::TRIGGER_EVENT_OPMASK, pg_sys::TRIGGER_EVENT_INSERT);
        (!is_insert).then(|| self.row(self.data.tg_trigtuple))
    }

    /// The row as it becomes: of INSERT and UPDATE.
    pub fn row_after(self) -> Option<Row> {
        match self.data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Some(self.row(self.data.tg_trigtuple)),
            pg_sys::TRIGGER_EVENT_UPDATE => Some(self.row(self.data.tg_newtuple)),
            _ => None,
        }
    }

    /// The version of a row of this firing; `None` if it has no place in a table of this server.
    pub fn version(self, row: Row) -> Option<Version> {
        // SAFETY: the tuple lives as long as the call.
        let place = unsafe { (*row.tuple).t_self };
        let block = u32::from(place.ip_blkid.bi_hi) << 16 | u32::from(place.ip_blkid.bi_lo);
        let Relation { relation } = self.relation();
        // SAFETY: its row of pg_class, kept while it is open.
        let file = unsafe { (*relation.rd_rel).relfilenode }.to_u32();
        let (table, offset) = (relation.rd_id.to_u32(), place.ip_posid);
        (offset != 0).then_some(Version { table, file, block, offset })
    }

    fn row(self, tuple: pg_sys::HeapTuple) -> Row {
        Row { tuple, description: self.relation().relation.rd_att }
    }

    /// What happened to the row, as PL/pgSQL's TG_OP has it.
    pub fn operation(self) -> &'static str {
        match self.data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => "INSERT",
            pg_sys::TRIGGER_EVENT_UPDATE => "UPDATE",
            pg_sys::TRIGGER_EVENT_DELETE => "DELETE",
            _ => "TRUNCATE",
        }
    }

    /// The arguments of CREATE TRIGGER.
    pub fn arguments(self) -> Vec<String> {
        self.attached().arguments()
    }
}

/// A trigger as it stands in its table, firing or not.
#[derive(Clone, Copy)]
pub struct Attached<'a> {
    trigger: &'a pg_sys::Trigger,
    relation: Relation<'a>,
}

impl<'a> Attached<'a> {
    /// Hands over all triggers of a table, until one is refused. A command may have locked it; of
    /// its children it need not have locked all.
    pub fn each(
        table: pg_sys::Oid,
        mut look: impl FnMut(Attached<'_>) -> Outcome<()>,
    ) -> Outcome<()> {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        // SAFETY: NULL if the table is gone.
        let relation = unsafe { pg_sys::try_relation_open(table, lock) };
        // SAFETY: NULL or just opened.
        let Some(opened) = (unsafe { relation.as_ref() }) else { return Ok(()) };
        // Whoever looks reads catalogues, and at any of these PostgreSQL may hear of a change, even
        // of one that needs no lock on the table, and throw its own list away.
        // SAFETY: NULL or the relation's own list; the copy is of the caller's memory.
        let list = unsafe { pg_sys::CopyTriggerDesc(opened.trigdesc) };
        // SAFETY: NULL or just copied.
        let looked = unsafe { list.as_ref() }.map_or(Ok(()), |list| {
            let count = usize::try_from(list.numtriggers).unwrap_or(0);
            // SAFETY: the list has that many members.
            let all = unsafe { std::slice::from_raw_parts(list.triggers, count) };
            let relation = Relation { relation: opened };
            all.iter().try_for_each(|trigger| {
                super::host::fault_point("trigger.looking");
                look(Attached { trigger, relation })
            })
        });
        // SAFETY: as above; of an error the memory's owner hears.
        unsafe { pg_sys::FreeTriggerDesc(list) };
        // SAFETY: opened above; an error closes it by itself.
        unsafe { pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE) };
        looked
    }

    pub fn oid(self) -> pg_sys::Oid {
        self.trigger.tgoid
    }

    /// The trigger's own name.
    pub fn name(self) -> String {
        super::text::c_string(self.trigger.tgname)
    }

    pub fn function(self) -> pg_sys::Oid {
        self.trigger.tgfoid
    }

    pub fn relation(self) -> Relation<'a> {
        self.relation
    }

    fn has(self, bits: u32) -> bool {
        u32::from(self.trigger.tgtype.cast_unsigned()) & bits != 0
    }

    /// Whether it fires after the change, for each row or not.
    pub fn is_after(self) -> bool {
        !self.has(pg_sys::TRIGGER_TYPE_BEFORE | pg_sys::TRIGGER_TYPE_INSTEAD)
    }

    pub fn is_for_row(self) -> bool {
        self.has(pg_sys::TRIGGER_TYPE_ROW)
    }

    /// Whether it fires after what changes a row, for each row.
    pub fn is_after_row(self) -> bool {
        self.is_after() && self.is_for_row()
    }

    /// Whether TRUNCATE fires it, and nothing else.
    pub fn is_only_truncate(self) -> bool {
        let rows =
            pg_sys::TRIGGER_TYPE_INSERT | pg_sys::TRIGGER_TYPE_UPDATE | pg_sys::TRIGGER_TYPE_DELETE;
        self.has(pg_sys::TRIGGER_TYPE_TRUNCATE) && !self.has(rows)
    }

    /// The arguments of CREATE TRIGGER.
    pub fn arguments(self) -> Vec<String> {
        let count = usize::try_from(self.trigger.tgnargs).unwrap_or(0);
        if count == 0 {
            return Vec::new();
        }
        // SAFETY: the relcache entry has that many C strings.
        let texts = unsafe { std::slice::from_raw_parts(self.trigger.tgargs, count) };
        texts.iter().map(|text: &*mut c_char| super::text::c_string(*text)).collect()
    }
}

/// The table of a firing trigger.
#[derive(Clone, Copy)]
pub struct Relation<'a> {
    relation: &'a pg_sys::RelationData,
}

/// A column as the rows of one table have it.
#[derive(Clone, Copy)]
pub struct Attribute {
    pub number: i16,
    pub type_oid: pg_sys::Oid,
    pub collation: pg_sys::Oid,
    by_value: bool,
    length: i16,
    /// Computed when it is read: the rows that a trigger sees have no value for it.
    pub is_virtual: bool,
}

impl Attribute {
    fn of(attribute: &pg_sys::FormData_pg_attribute) -> Self {
        Self {
            number: attribute.attnum,
            type_oid: attribute.atttypid,
            collation: attribute.attcollation,
            by_value: attribute.attbyval,
            length: attribute.attlen,
            is_virtual: attribute.attgenerated as u8 == b'v',
        }
    }

    /// Whether two values are the same, wherever and however they are stored.
    pub fn is_same(self, one: Option<pg_sys::Datum>, other: Option<pg_sys::Datum>) -> bool {
        match (one, other) {
            (None, None) => true,
            (Some(one), Some(other)) => {
                same_bytes(self, one, other) || (self.length == -1 && same_image(one, other))
            }
            _ => false,
        }
    }
}

fn same_bytes(attribute: Attribute, one: pg_sys::Datum, other: pg_sys::Datum) -> bool {
    if attribute.by_value {
        return one.value() == other.value();
    }
    // SAFETY: two values of the attribute's type.
    unsafe { datumIsEqual(one, other, false, i32::from(attribute.length)) }
}

fn same_image(one: pg_sys::Datum, other: pg_sys::Datum) -> bool {
    // SAFETY: two varlenas.
    let compare = || unsafe { datum_image_eq(one, other, false, -1) };
    // SAFETY: on the backend's one thread.
    unsafe { pg_guard_ffi_boundary(compare) }
}

impl Relation<'_> {
    pub fn oid(self) -> pg_sys::Oid {
        self.relation.rd_id
    }

    /// What a change of this table is noted for: the root of its partition tree, or itself.
    pub fn tag_relation(self) -> u32 {
        super::tracked::root_of(self.oid()).to_u32()
    }

    /// Schema and name of the root of its partition tree, or its own.
    pub fn root_names(self) -> (String, String) {
        let root = super::tracked::root_of(self.oid());
        // SAFETY: a catalogue look-up.
        let schema = unsafe { pg_sys::get_rel_namespace(root) };
        // SAFETY: a palloc'ed name, or NULL.
        let schema = super::text::c_string(unsafe { pg_sys::get_namespace_name(schema) });
        // SAFETY: as above.
        (schema, super::text::c_string(unsafe { pg_sys::get_rel_name(root) }))
    }

    /// The column of that name; none of the system's.
    pub fn attribute(self, name: &str) -> Option<Attribute> {
        // SAFETY: the relation's own description, kept while it is open.
        let description = unsafe { pgrx::PgTupleDesc::from_pg_unchecked(self.relation.rd_att) };
        let mut attributes = description.iter().filter(|attribute| !attribute.attisdropped);
        let found = attributes.find(|attribute| super::text::name(&attribute.attname) == name)?;
        Some(Attribute::of(found))
    }

    /// All columns with their names, in their order; none of the system's.
    pub fn attributes(self) -> Vec<(String, Attribute)> {
        // SAFETY: the relation's own description, kept while it is open.
        let description = unsafe { pgrx::PgTupleDesc::from_pg_unchecked(self.relation.rd_att) };
        let attributes = description.iter().filter(|attribute| !attribute.attisdropped);
        let named = attributes
            .map(|attribute| (super::text::name(&attribute.attname), Attribute::of(attribute)));
        named.collect()
    }

    /// The columns by which a row is known: of the primary key, or of the replica identity. Their
    /// numbers, in rising order; none if there is neither.
    pub fn key(self) -> Vec<i16> {
        let table = self.oid();
        // The index's own list leaves out those whose check may be deferred.
        let mut constraint = pg_sys::InvalidOid;
        // SAFETY: reads pg_constraint.
        let find = || unsafe { get_primary_key_attnos(table, true, &raw mut constraint) };
        // SAFETY: on the backend's one thread.
        let numbers = members(unsafe { pg_guard_ffi_boundary(find) });
        if !numbers.is_empty() {
            return numbers;
        }
        let relation = std::ptr::from_ref(self.relation).cast_mut();
        let identity = pg_sys::IndexAttrBitmapKind::INDEX_ATTR_BITMAP_IDENTITY_KEY;
        // SAFETY: an open relation.
        members(unsafe { pg_sys::RelationGetIndexAttrBitmap(relation, identity) })
    }
}

/// The columns of a set of PostgreSQL's own, or of NULL for the empty one.
fn members(set: *const pg_sys::Bitmapset) -> Vec<i16> {
    let mut numbers = Vec::new();
    let mut member = -1;
    loop {
        // SAFETY: such a set.
        member = unsafe { pg_sys::bms_next_member(set, member) };
        if member < 0 {
            return numbers;
        }
        let number = member + pg_sys::FirstLowInvalidHeapAttributeNumber;
        numbers.extend(i16::try_from(number).ok().filter(|number| *number > 0));
    }
}

/// A row taken apart: the value of each column by its number, from 1 on.
#[derive(Default)]
pub struct Values {
    datums: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Values {
    /// Takes a row apart. Valid as long as the row is; nothing is fetched from where it is toasted.
    pub fn read(&mut self, row: Row) {
        // SAFETY: the description of the trigger's table.
        let columns = usize::try_from(unsafe { (*row.description).natts }).unwrap_or(0);
        self.datums.resize(columns, pg_sys::Datum::from(0usize));
        self.nulls.resize(columns, true);
        // SAFETY: room for every column.
        unsafe {
            pg_sys::heap_deform_tuple(
                row.tuple,
                row.description,
                self.datums.as_mut_ptr(),
                self.nulls.as_mut_ptr(),
            );
        }
    }

    /// A column's value; `None` for NULL.
    pub fn get(&self, attribute: Attribute) -> Option<pg_sys::Datum> {
        let place = usize::try_from(attribute.number).ok()?.checked_sub(1)?;
        let is_null = *self.nulls.get(place)?;
        self.datums.get(place).copied().filter(|_| !is_null)
    }
}

impl Row {
    /// Whether the transaction at hand made this version of the row.
    pub fn is_made_here(self) -> bool {
        // SAFETY: the tuple lives as long as the call.
        let header = unsafe { (*self.tuple).t_data };
        // SAFETY: its header, which lives as long.
        let fields = unsafe { (*header).t_choice };
        // SAFETY: in a row of a table, these are the fields that stand there.
        let xid = unsafe { fields.t_heap.t_xmin };
        // SAFETY: looks at the state of this backend's transaction.
        unsafe { pg_sys::TransactionIdIsCurrentTransactionId(xid) }
    }

    /// A column's value; `None` for NULL.
    pub fn value(self, attribute: Attribute) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        let number = i32::from(attribute.number);
        // SAFETY: the number comes from this description, and the tuple lives as long as the call.
        let value =
            unsafe { pg_sys::heap_getattr(self.tuple, number, self.description, &mut is_null) };
        (!is_null).then_some(value)
    }

    /// Whether a column has the same bytes in another row of the same table. Equal values may still
    /// be stored in different ways.
    pub fn same(self, other: Row, attribute: Attribute) -> bool {
        match (self.value(attribute), other.value(attribute)) {
            (None, None) => true,
            (Some(one), Some(two)) => same_bytes(attribute, one, two),
            _ => false,
        }
    }
}
