//! Owns the judgement of what a look at Redis found: may this value be served, may it be filled?
//!
//! *Claim.* An entry that is served shows what the caller's snapshot S shows: it was filled with
//! version v of each of its buckets, each bucket still has version v, and every writer listed in
//! them, the base of the table included, is complete in S. A writer bumps before it commits, so one
//! that committed since would have made another version; one that S does not see yet is listed, or
//! was dropped from the list by a later writer that saw it complete and is listed itself.
//!
//! Invariant: nothing is served or filled unless generation, base and every list have been judged
//! first; and a hit is a value that our sidecar binds, of our fingerprint. Without this, somebody
//! would receive what another query, another role's row security or another program put under the
//! same key, or what a transaction wrote that they must not see yet.

use crate::reason::Reason;
use crate::sidecar::{Dep, Sidecar};
use crate::tag::Bucket;
use crate::tagtable::{self, Field};

/// What a look found: the entry, and the tag table beside it.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    pub value: Option<&'a [u8]>,
    pub sidecar: Option<&'a [u8]>,
    pub table: Table<'a>,
}

/// The tag table, with the buckets in the order in which they were wanted.
#[derive(Debug, Clone, Copy)]
pub enum Table<'a> {
    /// As Redis has it: whether it is ours and whole, its generation and base tell.
    Redis { generation: Option<&'a [u8]>, base: Option<&'a [u8]>, fields: &'a [Option<&'a [u8]>] },
    /// Of this run of the server: it is of every generation that was registered in it, and has no
    /// base, because no writer is missing in it.
    Memory(&'a [Field]),
}

impl<'a> Table<'a> {
    fn len(&self) -> usize {
        match self {
            Table::Redis { fields, .. } => fields.len(),
            Table::Memory(fields) => fields.len(),
        }
    }

    /// The version of the bucket at this place, after each of its writers was reported; None if it
    /// is malformed.
    fn scan(&self, place: usize, mut writer: impl FnMut(u64)) -> Option<u64> {
        match self {
            Table::Redis { fields, .. } => tagtable::scan(*fields.get(place)?, writer),
            Table::Memory(fields) => {
                let field = fields.get(place)?;
                field.xids.iter().for_each(|xid| writer(*xid));
                Some(field.version)
            }
        }
    }

    /// The version of the bucket at this place; None if it is malformed.
    pub fn version(&self, place: usize) -> Option<u64> {
        self.scan(place, |_| ())
    }

    /// The catalogue's present version; None if its field is malformed.
    pub fn catalogue_version(&self) -> Option<u64> {
        self.version(0)
    }

    /// The generation that the table names, if it does.
    pub fn generation(&self) -> Option<u128> {
        match self {
            Table::Redis { generation, .. } => generation.and_then(tagtable::parse_generation),
            Table::Memory(_) => None,
        }
    }

    /// Whether all writers of the bucket at this place are complete.
    fn is_settled(&self, place: usize, complete: &dyn Fn(u64) -> bool) -> bool {
        let mut all = true;
        self.scan(place, |xid| all = all && complete(xid)).is_some() && all
    }
}

/// What the caller knows under its snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The registered one.
    pub generation: u128,
    pub fingerprint: &'a [u8; 16],
    /// What the query depends on, the catalogue first.
    pub buckets: &'a [Bucket],
    /// The version of the catalogue up to which this backend knows every schema change.
    pub catalogue_seen: Option<u64>,
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement<'a> {
    Hit {
        sidecar: Sidecar,
        value: &'a [u8],
    },
    /// A fill may follow, and stores these versions.
    Miss {
        reason: Reason,
        deps: Vec<Dep>,
    },
    /// Neither serve nor fill nor wait: compute.
    Compute(Reason),
    /// The schema may have changed: look at it first, and use or fill nothing before these
    /// transactions have let go of their locks. Then judge anew, with this version as seen.
    Catalogue {
        version: u64,
        xids: Vec<u64>,
    },
}

/// Judges a look by the snapshot of which `complete` tells who is complete in it.
pub fn judge<'a>(
    look: &Look<'a>,
    wanted: &Wanted<'_>,
    complete: &dyn Fn(u64) -> bool,
) -> Judgement<'a> {
    if let Some(judgement) = forbidden(&look.table, wanted, complete) {
        return judgement;
    }
    let found = entry(look.value, look.sidecar, wanted.generation, wanted.fingerprint);
    match found {
        Ok((sidecar, value))
            if present(&look.table, wanted).eq(sidecar.deps.iter().copied().map(Some)) =>
        {
            Judgement::Hit { sidecar, value }
        }
        Ok(_) => miss(Reason::Changed, look, wanted),
        Err(reason) => miss(reason, look, wanted),
    }
}

/// What the tag table alone says, if it forbids that anything is served or filled.
pub fn forbidden<'a>(
    table: &Table<'_>,
    wanted: &Wanted<'_>,
    complete: &dyn Fn(u64) -> bool,
) -> Option<Judgement<'a>> {
    if let Some(reason) = obstacle(table, wanted, complete) {
        return Some(Judgement::Compute(reason));
    }
    if table.catalogue_version() == wanted.catalogue_seen {
        return None;
    }
    let mut xids = Vec::new();
    let version = table.scan(0, |xid| xids.push(xid)).unwrap_or_default();
    Some(Judgement::Catalogue { version, xids })
}

/// Which of the wanted buckets keep the entry from being served, by their places: those that a
/// writer who is not complete is listed for, or else those whose version is not the entry's.
pub fn blamed(look: &Look<'_>, wanted: &Wanted<'_>, complete: &dyn Fn(u64) -> bool) -> Vec<usize> {
    let running = |place: &usize| !look.table.is_settled(*place, complete);
    let places = 0..wanted.buckets.len();
    let listed: Vec<usize> = places.clone().filter(running).collect();
    if !listed.is_empty() {
        return listed;
    }
    let sidecar = look.sidecar.and_then(|bytes| Sidecar::decode(bytes).ok());
    let deps = sidecar.map(|sidecar| sidecar.deps).unwrap_or_default();
    let present: Vec<_> = present(&look.table, wanted).collect();
    let changed = |place: &usize| match (present.get(*place), deps.get(*place)) {
        (Some(Some(present)), Some(dep)) => present != dep,
        _ => false,
    };
    places.filter(changed).collect()
}

/// Why the tag table cannot tell what this snapshot may see.
fn obstacle(
    table: &Table<'_>,
    wanted: &Wanted<'_>,
    complete: &dyn Fn(u64) -> bool,
) -> Option<Reason> {
    if table.len() != wanted.buckets.len() || wanted.buckets.first() != Some(&Bucket::CATALOGUE) {
        return Some(Reason::Protocol);
    }
    if let Table::Redis { base, .. } = table {
        if table.generation() != Some(wanted.generation) {
            return Some(Reason::Generation);
        }
        if !base.and_then(tagtable::parse_xid).is_some_and(complete) {
            return Some(Reason::RunningWriter);
        }
    }
    let are_settled = (0..table.len()).all(|place| table.is_settled(place, complete));
    (!are_settled).then_some(Reason::RunningWriter)
}

/// The entry that stands under the key, if it is ours: whether it is still true, the tag table
/// knows.
fn entry<'a>(
    value: Option<&'a [u8]>,
    sidecar: Option<&[u8]>,
    generation: u128,
    fingerprint: &[u8; 16],
) -> Result<(Sidecar, &'a [u8]), Reason> {
    let (value, sidecar) = match (value, sidecar) {
        (Some(value), Some(sidecar)) => (value, sidecar),
        // Somebody else's value: an entry of ours never stands without its sidecar for longer
        // than their common expiry takes.
        (Some(_), None) => return Err(Reason::Foreign),
        (None, _) => return Err(Reason::Cold),
    };
    let Ok(sidecar) = Sidecar::decode(sidecar) else { return Err(Reason::Format) };
    // First whose it is, then which: what another program put there must not be replaced.
    if !sidecar.binds(value) {
        return Err(Reason::Foreign);
    }
    if sidecar.generation != generation || sidecar.fingerprint != *fingerprint {
        return Err(Reason::Fingerprint);
    }
    Ok((sidecar, value))
}

/// The wanted buckets and their versions; None where a field is malformed.
fn present<'l>(
    table: &'l Table<'_>,
    wanted: &'l Wanted<'_>,
) -> impl Iterator<Item = Option<Dep>> + 'l {
    wanted.buckets.iter().enumerate().map(|(place, bucket)| {
        table.version(place).map(|version| Dep { bucket: bucket.0, version })
    })
}

fn miss<'a>(reason: Reason, look: &Look<'_>, wanted: &Wanted<'_>) -> Judgement<'a> {
    Judgement::Miss { reason, deps: present(&look.table, wanted).flatten().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::value_hash;
    use proptest::prelude::*;

    const VALUE: &[u8] = b"[{\"answer\":42}]";
    const GENERATION: u128 = 7;
    const FINGERPRINT: [u8; 16] = [1; 16];
    const BUCKETS: [Bucket; 3] = [Bucket::CATALOGUE, Bucket(5), Bucket(9)];
    /// The snapshot: everything below is complete.
    const XMAX: u64 = 100;

    /// What stands in Redis, owned; its look is borrowed from it.
    #[derive(Clone)]
    struct State {
        value: Option<Vec<u8>>,
        sidecar: Option<Vec<u8>>,
        generation: Option<Vec<u8>>,
        base: Option<Vec<u8>>,
        fields: Vec<Option<Vec<u8>>>,
    }

    fn sidecar_of(value: &[u8], versions: [u64; 3]) -> Sidecar {
        let deps = BUCKETS.iter().zip(versions);
        Sidecar {
            generation: GENERATION,
            fingerprint: FINGERPRINT,
            value_bytes: value.len() as u64,
            value_hash: value_hash(value),
            filled_at_ms: 1,
            cost_us: 2,
            deps: deps.map(|(bucket, version)| Dep { bucket: bucket.0, version }).collect(),
        }
    }

    fn settled() -> State {
        State {
            value: Some(VALUE.to_vec()),
            sidecar: Some(sidecar_of(VALUE, [3, 0, 4]).encode()),
            generation: Some(tagtable::generation_text(GENERATION).to_vec()),
            base: Some(b"10".to_vec()),
            fields: vec![Some(b"3:11".to_vec()), None, Some(b"4:12,99".to_vec())],
        }
    }

    /// Judges as a backend that knows the catalogue's version 3, and gives the judgement a name.
    fn judged(state: &State) -> (&'static str, Vec<u64>) {
        judged_by(state, Some(3))
    }

    fn judged_by(state: &State, catalogue_seen: Option<u64>) -> (&'static str, Vec<u64>) {
        let fields: Vec<Option<&[u8]>> = state.fields.iter().map(Option::as_deref).collect();
        let table = Table::Redis {
            generation: state.generation.as_deref(),
            base: state.base.as_deref(),
            fields: &fields,
        };
        judged_beside(state, table, catalogue_seen)
    }

    fn judged_beside(
        state: &State,
        table: Table<'_>,
        catalogue_seen: Option<u64>,
    ) -> (&'static str, Vec<u64>) {
        let (value, sidecar) = (state.value.as_deref(), state.sidecar.as_deref());
        let look = Look { value, sidecar, table };
        let wanted = Wanted {
            generation: GENERATION,
            fingerprint: &FINGERPRINT,
            buckets: &BUCKETS,
            catalogue_seen,
        };
        match judge(&look, &wanted, &|xid| xid < XMAX) {
            Judgement::Hit { sidecar, value } => {
                assert_eq!(Some(value), state.value.as_deref());
                assert_eq!(Some(sidecar.encode()), state.sidecar);
                ("hit", Vec::new())
            }
            Judgement::Miss { reason, deps } => {
                assert!(deps.iter().map(|dep| dep.bucket).eq(BUCKETS.map(|bucket| bucket.0)));
                (reason.as_str(), deps.iter().map(|dep| dep.version).collect())
            }
            Judgement::Compute(reason) => (reason.as_str(), Vec::new()),
            Judgement::Catalogue { version, xids } => {
                ("new catalogue", [vec![version], xids].concat())
            }
        }
    }

    fn name_of(change: impl FnOnce(&mut State)) -> &'static str {
        let mut state = settled();
        change(&mut state);
        judged(&state).0
    }

    #[test]
    fn our_settled_entry_is_a_hit() {
        // Danger: a cache that never hits is still exact, and useless.
        assert_eq!(judged(&settled()).0, "hit");
        let mut empty = settled();
        (empty.value, empty.sidecar) = (Some(vec![]), Some(sidecar_of(b"", [3, 0, 4]).encode()));
        assert_eq!(judged(&empty).0, "hit");
    }

    #[test]
    fn another_table_or_a_running_writer_means_to_compute() {
        // Danger: lists that say nothing about this database's writers are believed.
        let other = tagtable::generation_text(8).to_vec();
        assert_eq!(name_of(|state| state.generation = None), "generation");
        assert_eq!(name_of(|state| state.generation = Some(other)), "generation");
        assert_eq!(name_of(|state| state.generation = Some(b"7".to_vec())), "generation");
        assert_eq!(name_of(|state| state.base = None), "running_writer");
        assert_eq!(name_of(|state| state.base = Some(b"".to_vec())), "running_writer");
        assert_eq!(name_of(|state| state.base = Some(b"100".to_vec())), "running_writer");
        for place in 0..BUCKETS.len() {
            for bytes in ["3:11,100", "3:100,11", "3", "3:11,x"] {
                let damage = |state: &mut State| state.fields[place] = Some(bytes.into());
                assert_eq!(name_of(damage), "running_writer", "{bytes} in {place}");
            }
        }
    }

    #[test]
    fn a_look_that_is_not_what_was_wanted_is_not_judged() {
        // Danger: the list of one bucket is taken for that of another, or one is left out.
        assert_eq!(name_of(|state| state.fields.truncate(2)), "protocol");
        assert_eq!(name_of(|state| state.fields.clear()), "protocol");
        assert_eq!(name_of(|state| state.fields.push(None)), "protocol");
        let wanted = Wanted {
            generation: GENERATION,
            fingerprint: &FINGERPRINT,
            buckets: &BUCKETS[1..2],
            catalogue_seen: Some(0),
        };
        let generation = tagtable::generation_text(GENERATION);
        let redis =
            Table::Redis { generation: Some(&generation), base: Some(b"1"), fields: &[None] };
        for table in [redis, Table::Memory(&[Field { version: 0, xids: Vec::new() }])] {
            let look = Look { value: None, sidecar: None, table };
            assert_eq!(judge(&look, &wanted, &|_| true), Judgement::Compute(Reason::Protocol));
        }
    }

    #[test]
    fn a_new_catalogue_comes_before_everything_but_running_writers() {
        // Danger: rows in the shape of a view or by the rules of a policy that is no more.
        let state = settled();
        assert_eq!(judged_by(&state, Some(2)), ("new catalogue", vec![3, 11]));
        assert_eq!(judged_by(&state, Some(4)), ("new catalogue", vec![3, 11]));
        assert_eq!(judged_by(&state, None), ("new catalogue", vec![3, 11]));
        let mut running = state.clone();
        running.fields[2] = Some(b"4:100".to_vec());
        assert_eq!(judged_by(&running, Some(2)).0, "running_writer");
        let mut never = state;
        never.fields[0] = None;
        assert_eq!(judged_by(&never, None), ("new catalogue", vec![0]));
        assert_eq!(judged_by(&never, Some(0)).0, "changed");
    }

    #[test]
    fn everything_else_is_a_miss_with_its_reason_and_the_versions_to_store() {
        // Danger: another query's rows served as ours, or a reason that sends people astray.
        let mut cold = settled();
        cold.value = None;
        assert_eq!(judged(&cold), ("cold", vec![3, 0, 4]));
        cold.sidecar = None;
        assert_eq!(judged(&cold), ("cold", vec![3, 0, 4]));
        assert_eq!(name_of(|state| state.sidecar = None), "foreign");
        assert_eq!(name_of(|state| state.sidecar = Some(vec![])), "format");
        assert_eq!(name_of(|state| state.value = Some(b"[]".to_vec())), "foreign");
        let with = |sidecar: Sidecar| name_of(|state| state.sidecar = Some(sidecar.encode()));
        let ours = sidecar_of(VALUE, [3, 0, 4]);
        assert_eq!(with(Sidecar { generation: 8, ..ours.clone() }), "fingerprint");
        assert_eq!(with(Sidecar { fingerprint: [2; 16], ..ours.clone() }), "fingerprint");
        for versions in [[2, 0, 4], [3, 1, 4], [3, 0, 3], [3, 0, 5]] {
            assert_eq!(with(sidecar_of(VALUE, versions)), "changed");
        }
        let fewer = Sidecar { deps: ours.deps[..2].to_vec(), ..ours.clone() };
        assert_eq!(with(fewer), "changed");
        assert_eq!(with(Sidecar { deps: Vec::new(), ..ours.clone() }), "changed");
        let more = [ours.deps.clone(), ours.deps[..1].to_vec()].concat();
        assert_eq!(with(Sidecar { deps: more, ..ours.clone() }), "changed");
        let swapped = vec![ours.deps[0], ours.deps[2], ours.deps[1]];
        assert_eq!(with(Sidecar { deps: swapped, ..ours.clone() }), "changed");
        let elsewhere = [ours.deps[0], Dep { bucket: 6, version: 0 }, ours.deps[2]].to_vec();
        assert_eq!(with(Sidecar { deps: elsewhere, ..ours }), "changed");
    }

    proptest! {
        #[test]
        fn a_hit_needs_every_one_of_its_conditions(
            filled in (0u128..2, 0u8..2, 0u8..2, [0u64..2, 0u64..2, 0u64..2]),
            present in [0u64..2, 0u64..2, 0u64..2], writers in [98u64..102, 98u64..102, 98u64..102],
            base in 98u64..102, generation in 0u128..2, found in 0u8..2, seen in 0u64..2,
        ) {
            // Danger: one of the conditions forgotten, or judged only together with another.
            let (of, fingerprint, value) = (GENERATION + filled.0, [1 + filled.1; 16], [filled.2]);
            let sidecar = sidecar_of(&value, filled.3);
            let sidecar = Sidecar { generation: of, fingerprint, ..sidecar }.encode();
            let fields = present.iter().zip(writers);
            let field = |(version, xid): (&u64, u64)| {
                Some(Field { version: *version, xids: vec![11, xid] }.encode())
            };
            let state = State {
                value: Some(vec![found]),
                sidecar: Some(sidecar),
                generation: Some(tagtable::generation_text(GENERATION + generation).to_vec()),
                base: Some(base.to_string().into_bytes()),
                fields: fields.map(field).collect(),
            };
            let judged = judged_by(&state, Some(seen)).0;
            let fields = state.fields.iter().map(|field| Field::parse(field.as_deref()).unwrap());
            let memory: Vec<Field> = fields.collect();
            let ours = State { generation: settled().generation, base: settled().base, ..state };
            let in_memory = judged_beside(&ours, Table::Memory(&memory), Some(seen));
            prop_assert_eq!(in_memory, judged_by(&ours, Some(seen)));
            let readable = generation == 0
                && writers.iter().chain([&base]).all(|xid| *xid < XMAX);
            let hit = readable && seen == present[0] && present == filled.3
                && filled.0 == 0 && filled.1 == 0 && found == filled.2;
            prop_assert_eq!(judged == "hit", hit);
            let computes = judged == "generation" || judged == "running_writer";
            prop_assert_eq!(computes, !readable);
        }
    }
}
