//! Owns the way from the model to the code under test: everything that the extension decides with
//! `fence`, `fill`, `pending` and `tagtable` is decided by them here, on the very bytes that they
//! would get from Redis.
//!
//! Invariant: no decision of theirs is made a second time in the model. A guard is taken away by
//! what they are told, never by another version of them.

use crate::redis::Bump;
use crate::state::{ABSENT, Cell, Data, FOREIGN, Reader, Table, Writer, Xid, Xids};
use crate::world::{CATALOGUE, FIELDS, Guard, KEYS, Op, World, key_field};
use pg_cache_core::fence::{self, Judgement, Look, Wanted, judge};
use pg_cache_core::fill::{Effect, Event, Fill};
use pg_cache_core::pending::{Owed, Pending};
use pg_cache_core::reason::Reason;
use pg_cache_core::sidecar::{Dep, Sidecar, value_hash};
use pg_cache_core::tag::{Bucket, Tag};
use pg_cache_core::tagtable::{self, Field};
use std::sync::LazyLock;

const FINGERPRINT: [u8; 16] = [7; 16];
const BUCKETS: u32 = 65_536;
const KEY_NAMES: [&[u8]; KEYS] = [b"first", b"second"];

static TAGS: LazyLock<[Tag; FIELDS]> = LazyLock::new(|| {
    let keys = KEY_NAMES.map(Tag::key);
    [Tag::CATALOGUE, Tag::any(1), Tag::any(2), keys[0], keys[1]]
});

/// What the fence says to a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Hit,
    Miss([u8; FIELDS]),
    Foreign,
    Compute,
    Catalogue { version: u8, xids: Xids },
}

/// The tag table as a look finds it.
struct Fetched {
    generation: Option<[u8; 32]>,
    base: Option<Vec<u8>>,
    fields: Vec<Option<Vec<u8>>>,
}

fn generation_number(generation: u8) -> u128 {
    0x5eed_0000_0000_0000 + u128::from(generation)
}

fn field(cell: &Cell) -> Field {
    Field { version: cell.version.into(), xids: cell.xids.iter().map(u64::from).collect() }
}

fn fetch(world: &World, table: Option<&Table>, wanted: &[u8]) -> Fetched {
    let Some(table) = table else {
        return Fetched { generation: None, base: None, fields: vec![None; wanted.len()] };
    };
    let base = if world.has(Guard::Base) { table.base } else { 1 };
    let cells = wanted.iter().map(|field| table.cells[*field as usize]);
    Fetched {
        generation: table
            .generation
            .map(|generation| tagtable::generation_text(generation_number(generation))),
        base: (table.base != 0).then(|| base.to_string().into_bytes()),
        fields: cells
            .map(|cell| (cell != Cell::default()).then(|| field(&cell).encode()))
            .collect(),
    }
}

/// A value's bytes.
fn value_bytes(value: u8) -> Vec<u8> {
    if value == FOREIGN { b"another program's".to_vec() } else { vec![value] }
}

fn sidecar_bytes(world: &World, reader: &Reader, look: &Fetched, wanted: &[u8]) -> Option<Vec<u8>> {
    let found = reader.entry.sidecar?;
    let mut bound = value_bytes(found.value);
    if !world.has(Guard::Binding) {
        bound = value_bytes(reader.entry.value);
    }
    let generation =
        if world.has(Guard::SidecarGeneration) { found.generation } else { reader.generation };
    let version = |place: usize| {
        let present = tagtable::version(look.fields[place].as_deref()).unwrap();
        let filled = found.versions[wanted[place] as usize].into();
        if world.has(Guard::Version) { filled } else { present }
    };
    let bucket = |place: usize| TAGS[wanted[place] as usize].bucket(BUCKETS).0;
    let dep = |place| Dep { bucket: bucket(place), version: version(place) };
    let sidecar = Sidecar {
        generation: generation_number(generation),
        fingerprint: FINGERPRINT,
        value_bytes: bound.len() as u64,
        value_hash: value_hash(&bound),
        filled_at_ms: 0,
        cost_us: 0,
        deps: (0..wanted.len()).map(dep).collect(),
    };
    Some(sidecar.encode())
}

/// Judges the value and sidecar that the reader has fetched, and the tag table as it is now.
pub fn look(world: &World, reader: &Reader, key: u8, data: &Data, check: Guard) -> Verdict {
    let wanted = world.wanted(key);
    let fetched = fetch(world, data.table.as_ref(), &wanted);
    let value = (reader.entry.value != ABSENT).then(|| value_bytes(reader.entry.value));
    let sidecar = sidecar_bytes(world, reader, &fetched, &wanted);
    let fields: Vec<Option<&[u8]>> = fetched.fields.iter().map(Option::as_deref).collect();
    let buckets: Vec<Bucket> =
        wanted.iter().map(|field| TAGS[*field as usize].bucket(BUCKETS)).collect();
    let generation =
        match fetched.generation.as_ref().and_then(|text| tagtable::parse_generation(text)) {
            Some(found) if !world.has(Guard::Generation) => found,
            _ => generation_number(reader.generation),
        };
    let seen = reader.seen.filter(|(generation, _)| {
        *generation == reader.generation || !world.has(Guard::CatalogueGeneration)
    });
    let seen = match seen {
        Some((_, version)) => Some(u64::from(version)),
        None if world.has(Guard::Catalogue) => None,
        None => tagtable::version(fields[0]),
    };
    let table = fence::Table::Redis {
        generation: fetched.generation.as_ref().map(|text| &text[..]),
        base: fetched.base.as_deref(),
        fields: &fields,
    };
    let look = Look { value: value.as_deref(), sidecar: sidecar.as_deref(), table };
    let fingerprint = &FINGERPRINT;
    let wanted_now = Wanted { generation, fingerprint, buckets: &buckets, catalogue_seen: seen };
    let judgement = if world.has(check) {
        judge(&look, &wanted_now, &|xid| reader.snapshot.is_complete(xid as Xid))
    } else {
        judge(&look, &wanted_now, &|_| true)
    };
    verdict(judgement, &wanted)
}

fn verdict(judgement: Judgement<'_>, wanted: &[u8]) -> Verdict {
    match judgement {
        Judgement::Hit { .. } => Verdict::Hit,
        Judgement::Miss { reason: Reason::Foreign, .. } => Verdict::Foreign,
        Judgement::Miss { deps, .. } => {
            let mut versions = [0; FIELDS];
            for (field, dep) in wanted.iter().zip(&deps) {
                versions[*field as usize] = u8::try_from(dep.version).unwrap();
            }
            assert_eq!(deps.len(), wanted.len());
            Verdict::Miss(versions)
        }
        Judgement::Compute(_) => Verdict::Compute,
        Judgement::Catalogue { version, xids } => {
            let mut listed = Xids::default();
            xids.iter().for_each(|xid| listed.add(*xid as Xid));
            Verdict::Catalogue { version: u8::try_from(version).unwrap(), xids: listed }
        }
    }
}

/// What a reader does next that has paused so often already. A pause takes a millisecond or two of
/// a time that stands still: only the budget ends the waiting.
pub fn fill_step(world: &World, pauses: u8, event: Event) -> Effect {
    let mut fill = Fill::new(0, world.waits.into());
    for _ in 0..pauses {
        fill.step(Event::Taken { hit: false }, 0, 0);
        fill.step(Event::Waited, 0, 0);
    }
    fill.step(event, 0, 0)
}

/// What BUMP leaves in a field, where it may drop writers or may not.
pub fn bump(world: &World, cell: &Cell, version: u8, order: &Bump, drops: bool) -> Cell {
    let in_progress = |other: u64| {
        let is_running = !order.snapshot.is_complete(other as Xid);
        world.has(Guard::KeepList) && (is_running || !drops)
    };
    let field = tagtable::bump(&field(cell), version.into(), order.xid.into(), &in_progress);
    let bytes = field.encode();
    let field = Field::parse(Some(&bytes)).unwrap();
    let mut xids = Xids::default();
    field.xids.iter().for_each(|xid| xids.add(*xid as Xid));
    Cell { version: u8::try_from(field.version).unwrap(), xids }
}

/// What a transaction has noted before its operation `op`.
fn pending(world: &World, program: &[Op], op: u8) -> Pending {
    let mut pending = Pending::new();
    let mut level = 1;
    for op in &program[..op as usize] {
        match op {
            Op::Write(field) => pending.note(level, TAGS[*field as usize]),
            Op::Name(key) => pending.note_key(level, KEY_NAMES[*key as usize]),
            Op::Schema => pending.note(level, TAGS[CATALOGUE as usize]),
            Op::Savepoint => level += 1,
            Op::Release => {
                pending.release(level);
                level -= 1;
            }
            Op::RollBack => {
                pending.roll_back(if world.has(Guard::RollBackLevel) { level } else { 1 });
                level -= 1;
            }
            Op::Settle => {
                pending.take_keys();
            }
            Op::Read(_) | Op::Ahead | Op::Prepare => {}
        }
    }
    pending
}

/// The fields to bump and the keys to delete, as bits.
pub fn owed(world: &World, program: &[Op], writer: &Writer) -> (u8, u8) {
    let mut pending = pending(world, program, writer.op);
    let owed = if writer.settles {
        Owed { tags: Vec::new(), keys: pending.take_keys() }
    } else {
        pending.take()
    };
    let place = |tag: &Tag| TAGS.iter().position(|other| other == tag).unwrap();
    let number = |key: &[u8]| KEY_NAMES.iter().position(|other| *other == key).unwrap() as u8;
    let tags = owed.tags.iter().fold(0, |bits, tag| bits | 1 << place(tag));
    let keys = owed.keys.iter().map(|(_, key)| number(key)).collect::<Vec<u8>>();
    let key_tags = keys.iter().fold(0, |bits, key| bits | 1 << key_field(*key));
    (tags | key_tags, keys.iter().fold(0, |bits, key| bits | 1 << key))
}
