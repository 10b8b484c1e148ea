//! What a trigger that sends is, read once: where it sends, what of a row, and when.
//!
//! Invariant: a column that is excepted is not read: it stands in no list that is made here. And
//! whatever is wrong is an error that names the trigger and its table.

use std::cell::RefCell;

use pg_cache_core::error::{AFTER_EACH_ROW, Flaw};
use pg_cache_core::event::{write_number, write_string};
use pg_cache_core::key;
use pg_cache_core::message::Fields;
use pg_cache_core::options::{Kind, Known, Options};
use pg_cache_core::template::Template;

use crate::pg::error::{Outcome, Raised};
use crate::pg::row_json::{self, Column};
use crate::pg::row_text::Writer;
use crate::pg::trigger::{Attached, Attribute, Fired, Row, Values};
use crate::pg::{guc, ttl, xact};

use super::flawed;

/// A larger text gives its room back.
const ROOM_BYTES_MAX: usize = 64 * 1024;

/// A trigger, ready to fire.
pub struct Sender {
    pub kind: Kind,
    pub durable: bool,
    pub length_max: Option<u64>,
    pub ttl_ms: Option<u64>,
    pub as_hash: bool,
    target: Target,
    /// What is sent of a row.
    sent: Vec<Column>,
    /// What tells a row from others, as far as it may be read.
    key: Vec<Column>,
    has_key: bool,
    watched: Vec<Attribute>,
    /// `,"schema":…,"table":…,"key":`
    origin: Vec<u8>,
}

/// The name of a channel, a stream, a key or a queue, made of a row.
struct Target {
    template: Template,
    columns: Vec<Writer>,
}

/// The rows of one firing, taken apart.
#[derive(Default)]
pub struct Rows {
    pub old: Option<Values>,
    pub new: Option<Values>,
}

impl Sender {
    pub fn new(kind: Kind, trigger: Attached<'_>) -> Outcome<Self> {
        let wrong = |flaw| flawed(trigger, flaw);
        if !trigger.is_after_row() {
            return Err(wrong(Flaw::Timing { wanted: AFTER_EACH_ROW }));
        }
        let options = Options::parse(kind, &trigger.arguments()).map_err(wrong)?;
        let table = trigger.relation();
        let columns = table.attributes();
        let known: Vec<Known<'_>> = columns.iter().map(known).collect();
        let chosen = options.choose(&known).map_err(wrong)?;
        let target = Target::new(&options, &columns).map_err(wrong)?;
        let column = |place: &usize| {
            let (name, attribute) = &columns[*place];
            Column::new(name.clone(), *attribute)
        };
        let numbers = table.key();
        let is_key = |(name, attribute): &&(String, Attribute)| {
            numbers.contains(&attribute.number) && !options.is_excepted(name)
        };
        let key = columns.iter().filter(is_key);
        let key = key.map(|(name, attribute)| Column::new(name.clone(), *attribute)).collect();
        let ttl_ms = match &options.ttl {
            Some(text) => Some(read_ttl(trigger, text)?),
            None => None,
        };
        let (schema, name) = table.root_names();
        let mut origin = b",\"schema\":".to_vec();
        write_string(&mut origin, schema.as_bytes());
        origin.extend_from_slice(b",\"table\":");
        write_string(&mut origin, name.as_bytes());
        origin.extend_from_slice(b",\"key\":");
        Ok(Self {
            kind,
            durable: options.durable,
            length_max: options.length_max,
            ttl_ms,
            as_hash: options.as_hash,
            target,
            sent: chosen.sent.iter().map(column).collect(),
            key,
            has_key: !numbers.is_empty(),
            watched: chosen.watched.iter().map(|place| columns[*place].1).collect(),
            origin,
        })
    }

    /// Whether an UPDATE changed nothing that counts. Of a row that is kept under a key, the key
    /// does: the one that it had would stay for ever.
    pub fn is_idle(&self, rows: &Rows) -> bool {
        let (Some(old), Some(new)) = (&rows.old, &rows.new) else { return false };
        let is_same = |column: &Attribute| column.is_same(old.get(*column), new.get(*column));
        self.watched.iter().all(is_same) && (self.kind != Kind::Store || self.keeps_name(old, new))
    }

    /// The name that it sends this row to.
    pub fn name(&self, fired: Fired<'_>, values: &Values) -> Outcome<Box<[u8]>> {
        let mut name = Vec::new();
        self.write_name(&mut name, fired, values)?;
        Ok(name.into())
    }

    fn write_name(&self, name: &mut Vec<u8>, fired: Fired<'_>, values: &Values) -> Outcome<()> {
        let rendered = self.target.template.render(name, |place| {
            let writer = &self.target.columns[place];
            let value = values.get(writer.attribute);
            value.map(|value| writer.write(value)).ok_or_else(|| self.target.null(place))
        });
        let checked = rendered.and_then(|()| match self.kind {
            Kind::Publish => Ok(()),
            _ => key::check(name).map_err(|error| Flaw::Target(Box::new(error))),
        });
        checked.map_err(|flaw| flawed(fired.attached(), flaw))
    }

    /// Whether an UPDATE left the columns of the name alone.
    pub fn keeps_name(&self, old: &Values, new: &Values) -> bool {
        let same = |column: &Writer| {
            column.attribute.is_same(old.get(column.attribute), new.get(column.attribute))
        };
        self.target.columns.iter().all(same)
    }

    /// Makes the event and the name that it is sent to.
    pub fn with_event(
        &self,
        fired: Fired<'_>,
        rows: &Rows,
        work: impl FnOnce(&[u8], &[u8]) -> Outcome<()>,
    ) -> Outcome<()> {
        let Some(row) = rows.new.as_ref().or(rows.old.as_ref()) else { return Ok(()) };
        let mut room = ROOM.take();
        room.clear();
        self.write_name(&mut room, fired, row)?;
        let name_bytes = room.len();
        self.write_event(&mut room, fired, rows);
        check_size(fired, room.len() - name_bytes)?;
        let (name, payload) = room.split_at(name_bytes);
        work(name, payload)?;
        if room.capacity() <= ROOM_BYTES_MAX {
            ROOM.set(room);
        }
        Ok(())
    }

    fn write_event(&self, out: &mut Vec<u8>, fired: Fired<'_>, rows: &Rows) {
        out.extend_from_slice(b"{\"op\":\"");
        out.extend_from_slice(fired.operation().as_bytes());
        out.push(b'"');
        out.extend_from_slice(&self.origin);
        match rows.new.as_ref().or(rows.old.as_ref()).filter(|_| self.has_key) {
            Some(row) => row_json::write_object(out, self.key.iter(), row),
            None => out.extend_from_slice(b"null"),
        }
        for (label, row) in [(&b",\"new\":"[..], &rows.new), (b",\"old\":", &rows.old)] {
            out.extend_from_slice(label);
            match row {
                Some(row) => row_json::write_object(out, self.sent.iter(), row),
                None => out.extend_from_slice(b"null"),
            }
        }
        out.extend_from_slice(b",\"changed\":");
        match (&rows.old, &rows.new) {
            (Some(old), Some(new)) => {
                let changed = |column: &&Column| {
                    let attribute = column.attribute;
                    !attribute.is_same(old.get(attribute), new.get(attribute))
                };
                row_json::write_names(out, self.sent.iter().filter(changed));
            }
            _ => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"xid\":");
        write_number(out, i64::try_from(xact::xid().unwrap_or_default()).unwrap_or(0));
        out.extend_from_slice(b",\"at\":");
        row_json::write_transaction_time(out);
        out.push(b'}');
    }

    /// The row as JSON.
    pub fn image(&self, fired: Fired<'_>, row: &Values) -> Outcome<Box<[u8]>> {
        let mut out = Vec::new();
        row_json::write_object(&mut out, self.sent.iter(), row);
        check_size(fired, out.len())?;
        Ok(out.into())
    }

    /// The row as fields and their texts, without those that are NULL.
    pub fn fields(&self, fired: Fired<'_>, row: &Values) -> Outcome<Fields> {
        let field = |column: &Column| {
            let value = column.plain(row.get(column.attribute)?);
            Some((column.name.as_bytes().into(), value.into()))
        };
        let fields: Fields = self.sent.iter().filter_map(field).collect();
        check_size(fired, fields.iter().map(|(name, value)| name.len() + value.len()).sum())?;
        Ok(fields)
    }
}

fn known((name, attribute): &(String, Attribute)) -> Known<'_> {
    Known { name, is_virtual: attribute.is_virtual }
}

impl Target {
    fn new(options: &Options, columns: &[(String, Attribute)]) -> Result<Self, Flaw> {
        let template =
            Template::parse(&options.target).map_err(|error| Flaw::Target(Box::new(error)))?;
        let writer = |name: &str| match columns.iter().find(|(column, _)| column == name) {
            None => Err(Flaw::NoColumn { column: name.to_owned() }),
            Some(_) if options.is_excepted(name) => Err(Flaw::Excepted { column: name.to_owned() }),
            Some(column) => known(column).with_value().map(|()| Writer::new(column.1)),
        };
        let columns = template.columns().map(writer).collect::<Result<_, Flaw>>()?;
        Ok(Self { template, columns })
    }

    fn null(&self, place: usize) -> Flaw {
        let column = self.template.columns().nth(place).unwrap_or_default().to_owned();
        Flaw::NullColumn { column }
    }
}

thread_local! {
    /// Reused from row to row.
    static SPARE: RefCell<(Values, Values)> = RefCell::default();
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Rows {
    /// Takes the rows of a firing apart.
    pub fn of(fired: Fired<'_>) -> Self {
        let (old, new) = SPARE.take();
        let read = |mut values: Values, row: Row| {
            values.read(row);
            values
        };
        Self {
            old: fired.row_before().map(|row| read(old, row)),
            new: fired.row_after().map(|row| read(new, row)),
        }
    }

    /// Keeps their room for the next.
    pub fn put_back(self) {
        SPARE.set((self.old.unwrap_or_default(), self.new.unwrap_or_default()));
    }
}

fn read_ttl(trigger: Attached<'_>, text: &str) -> Outcome<u64> {
    ttl::from_text(text, guc::ttl_max_seconds()).map_err(|raised| match raised {
        Raised::Refused(error) => flawed(trigger, Flaw::Target(Box::new(error))),
        raised => raised,
    })
}

fn check_size(fired: Fired<'_>, bytes: usize) -> Outcome<()> {
    let bytes_max = guc::value_bytes_max();
    if bytes > bytes_max {
        return Err(flawed(fired.attached(), Flaw::TooLarge { bytes, bytes_max }));
    }
    Ok(())
}
