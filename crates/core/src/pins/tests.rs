//! The argument of the module head, by brute force: random joins over tiny tables, with and without
//! a row outside the group.

use super::*;

const COLUMNS: usize = 2;
const VALUES: u64 = 3;

/// `entry.column`.
type Column = (usize, usize);

/// What ON and WHERE are made of.
#[derive(Clone, Debug)]
enum Qual {
    Equal(Column, Result<Column, u64>),
    IsNull(Column),
    NotEqual(Column, Column),
}

type Cell = Option<u64>;
/// A row for each entry; an entry that is NULL-extended or not below this join has none.
type Combination = Vec<Option<[Cell; COLUMNS]>>;
type Tables = Vec<Vec<[Cell; COLUMNS]>>;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    fn cell(&mut self) -> Cell {
        let value = self.below(VALUES as usize + 1) as u64;
        (value < VALUES).then_some(value)
    }

    fn row(&mut self) -> [Cell; COLUMNS] {
        [self.cell(), self.cell()]
    }

    fn qual(&mut self, entries: &[usize]) -> Qual {
        let mut column = || (entries[self.below(entries.len())], self.below(COLUMNS));
        let (a, b) = (column(), column());
        match self.below(8) {
            0 => Qual::IsNull(a),
            1 => Qual::NotEqual(a, b),
            2..5 => Qual::Equal(a, Err(self.below(VALUES as usize) as u64)),
            _ => Qual::Equal(a, Ok(b)),
        }
    }

    fn join(&mut self, entries: &[usize]) -> Join<Qual> {
        if let [entry] = entries {
            return Join::Entry(*entry);
        }
        let (left, right) = entries.split_at(1 + self.below(entries.len() - 1));
        let (left, right) = if self.below(2) == 0 { (left, right) } else { (right, left) };
        let filtered = [(true, true), (false, true), (true, false), (false, false)][self.below(4)];
        let on = (0..self.below(4)).map(|_| self.qual(entries)).collect();
        let inputs = vec![(self.join(left), filtered.0), (self.join(right), filtered.1)];
        Join::Node { inputs, on }
    }
}

fn cell(combination: &Combination, (entry, column): Column) -> Cell {
    combination[entry].and_then(|row| row[column])
}

fn passes(on: &[Qual], combination: &Combination) -> bool {
    on.iter().all(|qual| match *qual {
        Qual::IsNull(a) => cell(combination, a).is_none(),
        Qual::NotEqual(a, b) => {
            matches!((cell(combination, a), cell(combination, b)), (Some(a), Some(b)) if a != b)
        }
        Qual::Equal(a, other) => {
            let other = other.map_or_else(Some, |b| cell(combination, b));
            cell(combination, a).is_some_and(|a| Some(a) == other)
        }
    })
}

fn run(join: &Join<Qual>, tables: &Tables) -> Vec<Combination> {
    let (inputs, on) = match join {
        Join::Entry(entry) => {
            let one = |row: &[Cell; COLUMNS]| {
                let mut combination = vec![None; tables.len()];
                combination[*entry] = Some(*row);
                combination
            };
            return tables[*entry].iter().map(one).collect();
        }
        Join::Node { inputs, on } => (inputs, on),
    };
    let [(left, left_filtered), (right, right_filtered)] = &inputs[..] else {
        let [(only, _)] = &inputs[..] else { panic!("one or two inputs") };
        return run(only, tables).into_iter().filter(|found| passes(on, found)).collect();
    };
    let (left, right) = (run(left, tables), run(right, tables));
    let (mut out, mut matched) = (Vec::new(), vec![false; right.len()]);
    for a in &left {
        let mut alone = true;
        for (b, matched) in right.iter().zip(&mut matched) {
            let both: Combination = a.iter().zip(b).map(|(a, b)| a.or(*b)).collect();
            if passes(on, &both) {
                (alone, *matched) = (false, true);
                out.push(both);
            }
        }
        if alone && !left_filtered {
            out.push(a.clone());
        }
    }
    let lonely = right.into_iter().zip(matched).filter(|(_, matched)| !matched);
    out.extend(lonely.filter(|_| !right_filtered).map(|(b, _)| b));
    out.sort();
    out
}

fn pinned(join: &Join<Qual>, start: Column) -> Vec<u64> {
    let holding = join.holding(start.0).unwrap();
    let equalities: Vec<_> = holding
        .into_iter()
        .filter_map(|qual| match *qual {
            Qual::Equal(a, Ok(b)) => Some((Side::Column(a), Side::Column(b))),
            Qual::Equal(a, Err(value)) => Some((Side::Column(a), Side::Values(value))),
            _ => None,
        })
        .collect();
    carried(start, &equalities)
}

/// Returns how often a pin was tried, and whether a row outside the group changed the result.
fn try_level(seed: u64, counted_wrongly: bool) -> (usize, bool) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let entries = 1 + random.below(4);
    let all: Vec<usize> = (0..entries).collect();
    let mut join = random.join(&all);
    let conditions = (0..random.below(3)).map(|_| random.qual(&all)).collect();
    join = Join::Node { inputs: vec![(join, true)], on: conditions };
    let mut tables: Tables = Vec::new();
    for _ in &all {
        tables.push((0..random.below(4)).map(|_| random.row()).collect());
    }
    let judged = if counted_wrongly { all_filtered(&join) } else { join.clone() };
    let (mut tried, mut changed) = (0, false);
    for entry in all {
        for column in 0..COLUMNS {
            for value in pinned(&judged, (entry, column)) {
                let before = run(&join, &tables);
                let mut others = tables.clone();
                let row = random.row();
                if row[column] == Some(value) {
                    continue;
                }
                tried += 1;
                others[entry].push(row);
                changed |= run(&join, &others) != before;
            }
        }
    }
    (tried, changed)
}

/// The mistake: every ON is taken to filter both sides.
fn all_filtered(join: &Join<Qual>) -> Join<Qual> {
    match join {
        Join::Entry(entry) => Join::Entry(*entry),
        Join::Node { inputs, on } => {
            let inputs = inputs.iter().map(|(input, _)| (all_filtered(input), true)).collect();
            Join::Node { inputs, on: on.clone() }
        }
    }
}

#[test]
fn a_row_outside_the_group_changes_no_result() {
    // Danger: an outer join shows by a NULL that a row of another group is there or is not.
    let mut tried = 0;
    for seed in 1..300_000 {
        let (count, changed) = try_level(seed, false);
        assert!(!changed, "seed {seed}");
        tried += count;
    }
    assert!(tried > 100_000, "{tried}");
}

#[test]
fn the_brute_force_sees_a_wrong_rule() {
    // Danger: a test that cannot fail. With ON taken to filter both sides, it must.
    assert!((1..20_000).any(|seed| try_level(seed, true).1));
}

#[test]
fn where_pins_an_outer_side_and_on_does_not() {
    // Danger: the preserved side's rows show whether ON holds for them or not.
    let left = |on| Join::Node {
        inputs: vec![(Join::Entry(0), false), (Join::Entry(1), true)],
        on: vec![on],
    };
    let pin = |entry| Qual::Equal((entry, 0), Err(1));
    assert!(pinned(&left(pin(0)), (0, 0)).is_empty());
    assert_eq!(pinned(&left(pin(1)), (1, 0)), [1]);
    let filtered = Join::Node { inputs: vec![(left(pin(1)), true)], on: vec![pin(0)] };
    assert_eq!(pinned(&filtered, (0, 0)), [1]);
    assert_eq!(filtered.holding(7).map(|found| found.len()), None);
}

#[test]
fn equality_carries_through_other_columns() {
    // Danger: a join through a third table loses the group, or an unlinked column gains one.
    let equal = |a, b| (Side::Column(a), Side::Column(b));
    let links = [equal("o", "c"), equal("d", "c"), (Side::Values(5), Side::Column("d"))];
    assert_eq!(carried("o", &links), [5]);
    assert!(carried("other", &links).is_empty());
    assert_eq!(carried("o", &links[..2]), [] as [i32; 0]);
}

fn tags(by: usize, pinned: &[(&'static str, Option<Vec<u64>>)]) -> Vec<Tag> {
    let pinned: Vec<_> =
        pinned.iter().map(|(column, hashes)| Pinned { column, hashes: hashes.clone() }).collect();
    let mut out = Tags::new();
    group_tags(1, by, &pinned, &mut out);
    out.into_vec()
}

fn group(columns: &[(&'static str, u64)]) -> Tag {
    let column = |(name, hash): &(&'static str, u64)| GroupColumn { name, value_hash: *hash };
    Tag::group(1, &columns.iter().map(column).collect::<Vec<_>>())
}

#[test]
fn groups_are_those_that_a_change_notes() {
    // Danger: the query depends on a group that no writer ever bumps: two columns of three.
    let one = || ("a", Some(vec![7]));
    let two = || ("b", Some(vec![8, 9]));
    assert_eq!(tags(1, &[one()]), [group(&[("a", 7)])]);
    assert_eq!(
        tags(2, &[one(), two()]),
        [group(&[("a", 7), ("b", 8)]), group(&[("a", 7), ("b", 9)])]
    );
    assert_eq!(tags(3, &[two(), one()]), [group(&[("a", 7)])], "the one with fewer values");
    assert_eq!(tags(1, &[]), [Tag::any(1)]);
    assert_eq!(tags(2, &[one(), ("b", Some(vec![]))]), [], "NULL equals nothing");
}

#[test]
fn too_many_groups_are_the_whole_table() {
    // Danger: an array of a million ids makes a million dependencies.
    let many = |count| Some((0..count).collect::<Vec<u64>>());
    let limit = GROUPS_MAX as u64;
    assert_eq!(tags(1, &[("a", many(limit))]).len(), GROUPS_MAX);
    assert_eq!(tags(1, &[("a", many(limit + 1))]), [Tag::any(1)]);
    assert_eq!(tags(1, &[("a", None)]), [Tag::any(1)]);
    assert_eq!(tags(2, &[("a", many(9)), ("b", many(8))]).len(), 8, "one column alone");
    assert_eq!(tags(2, &[("a", None), ("b", many(8))]).len(), 8);
}
