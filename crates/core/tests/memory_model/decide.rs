//! Owns the way from the model to the code under test: what a bucket lists is decided by the real
//! `memory::Slot`, and what a look comes to by `fence`, on the fields that the extension hands it.
//!
//! Invariant: no decision of theirs is made a second time in the model. A guard is taken away by
//! what they are told, never by another version of them.

use crate::state::{ABSENT, Cell, Entry, Snapshot, Xid, Xids};
use crate::world::{Guard, World};
use pg_cache_core::fence::{self, Judgement, Look, Table, Wanted};
use pg_cache_core::sidecar::{Dep, Sidecar, value_hash};
use pg_cache_core::tag::Bucket;
use pg_cache_core::tagtable::memory::{Known, Slot, View};
use pg_cache_core::tagtable::{self, Field};
use std::ops::RangeInclusive;

const FINGERPRINT: [u8; 16] = [7; 16];
const BUCKETS: [Bucket; 2] = [Bucket::CATALOGUE, Bucket(5)];

/// What the fence says to a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Hit,
    Miss,
    Compute,
}

fn generation_number(generation: u8) -> u128 {
    0x5eed_0000_0000_0000 + u128::from(generation)
}

fn known(cell: &Cell) -> Known {
    let xids = cell.xids.iter().map(u64::from).collect();
    let held = (cell.held.0.into(), cell.held.1.into());
    (Field { version: cell.version.into(), xids }, held)
}

fn cell<const N: usize>(slot: &Slot<N>) -> Cell {
    let (field, held) = slot.read();
    cell_of(&field, held)
}

fn cell_of(field: &Field, held: (u64, u64)) -> Cell {
    let mut xids = Xids::default();
    field.xids.iter().for_each(|xid| xids.add(*xid as Xid));
    let version = u8::try_from(field.version).unwrap();
    Cell { version, xids, held: (held.0 as Xid, held.1 as Xid) }
}

fn are_complete(snapshot: &Snapshot, mut range: RangeInclusive<u64>) -> bool {
    range.all(|xid| snapshot.is_complete(xid as Xid))
}

/// Lists a transaction under its snapshot.
pub fn bump(world: &World, found: &Cell, xid: Xid, p: &Snapshot) -> Cell {
    match world.narrow {
        true => bump_slot(world, Slot::<1>::from(&known(found)), xid, p),
        false => bump_slot(world, Slot::<5>::from(&known(found)), xid, p),
    }
}

fn bump_slot<const N: usize>(world: &World, slot: Slot<N>, xid: Xid, p: &Snapshot) -> Cell {
    let view = View {
        is_complete: &|other| p.is_complete(other as Xid) || !world.has(Guard::KeepList),
        are_complete: &|range| are_complete(p, range) || !world.has(Guard::KeepHeld),
    };
    assert!(slot.bump(xid.into(), &view, true));
    cell(&slot)
}

/// The same in a table in Redis.
pub fn bump_there(found: &Cell, xid: Xid, p: &Snapshot) -> Cell {
    let in_progress = |other| !p.is_complete(other as Xid);
    let (field, _) = known(found);
    let field = tagtable::bump(&field, field.version + 1, xid.into(), &in_progress);
    cell_of(&field, (0, 0))
}

/// The bucket in a table in Redis for a reader.
pub fn field_there(found: &Cell) -> Field {
    known(found).0
}

/// The bucket for a reader; `None` if it holds somebody.
pub fn field(world: &World, found: &Cell, s: &Snapshot) -> Option<Field> {
    let view = View {
        is_complete: &|xid| s.is_complete(xid as Xid),
        are_complete: &|range| are_complete(s, range) || !world.has(Guard::HeldRange),
    };
    match world.narrow {
        true => Slot::<1>::from(&known(found)).field(&view),
        false => Slot::<5>::from(&known(found)).field(&view),
    }
}

fn sidecar(world: &World, entry: &Entry, generation: u8, version: u64) -> Sidecar {
    let own = world.has(Guard::SidecarGeneration);
    let generation = if own { entry.generation } else { generation };
    let version = if world.has(Guard::Version) { entry.version.into() } else { version };
    let dep = |(bucket, version): (&Bucket, u64)| Dep { bucket: bucket.0, version };
    Sidecar {
        generation: generation_number(generation),
        fingerprint: FINGERPRINT,
        value_bytes: 1,
        value_hash: value_hash(&[entry.value]),
        filled_at_ms: 0,
        cost_us: 0,
        deps: BUCKETS.iter().zip([0, version]).map(dep).collect(),
    }
}

/// Judges an entry by a bucket, as of the moment when that was read.
pub fn judge(
    world: &World,
    field: &Field,
    entry: &Entry,
    generation: u8,
    s: &Snapshot,
    check: Guard,
) -> Verdict {
    let value = [entry.value];
    let is_there = entry.value != ABSENT;
    let sidecar = is_there.then(|| sidecar(world, entry, generation, field.version).encode());
    let fields = [Field::default(), field.clone()];
    let look = Look {
        value: is_there.then_some(&value[..]),
        sidecar: sidecar.as_deref(),
        table: Table::Memory(&fields),
    };
    let wanted = Wanted {
        generation: generation_number(generation),
        fingerprint: &FINGERPRINT,
        buckets: &BUCKETS,
        catalogue_seen: Some(0),
    };
    let complete = |xid| s.is_complete(xid as Xid) || !world.has(check);
    match fence::judge(&look, &wanted, &complete) {
        Judgement::Hit { .. } => Verdict::Hit,
        Judgement::Miss { deps, .. } => {
            assert_eq!(deps[1].version, field.version);
            Verdict::Miss
        }
        Judgement::Compute(_) => Verdict::Compute,
        Judgement::Catalogue { .. } => unreachable!("nobody changes the schema here"),
    }
}
