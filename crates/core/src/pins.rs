//! Owns the argument for row groups: which rows of a table one level of a query can depend on.
//!
//! A level joins its range table entries, filters, and computes everything else from the
//! combinations that survive. An entry is *pinned* to a column's value if the equalities that hold
//! for every surviving combination with a row of it in it carry the value to the column. Invariant:
//! then no row of that entry with another value changes which combinations survive.
//!
//! *Why.* Let r be such a row, with and without which the level is computed. Going up from the
//! entry, each combination that is there in one case only has a witness: rows for the entries below
//! that point, r among them, which agree with the combination where that is not NULL-extended, and
//! for which all equalities met on the way hold. For the entry alone it is r. A join passes a
//! combination on joined to its other side, which the witness follows; or it makes or unmakes the
//! NULL-extension of the other side's row, by a combination that ON let pass. Where the entry
//! stands on the side that ON filters, an equality in ON, or one that holds for all that the other
//! side gives, is true of that pair, hence about rows that are there, hence true of the witness. So
//! a difference at the top has a witness for which all the equalities hold, and r has the value to
//! which they carry it. Equality is strict and, within one hash operator family, transitive;
//! whoever fills in the tree promises that.
//!
//! If an equality were counted that does not hold (the ON of a LEFT JOIN for its left side, either
//! for FULL, one below OR), a change of a row that the result shows would leave the entry a hit.

use crate::tag::{GroupColumn, Tag, Tags};

/// Beyond that many groups, one entry of a query depends on the whole table.
pub const GROUPS_MAX: usize = 64;

/// The FROM and WHERE of one query level. `E` is an equality, as the caller knows it.
#[derive(Debug, Clone)]
pub enum Join<E> {
    /// A range table entry.
    Entry(usize),
    /// Inputs, each with whether `on` filters it: both sides of an inner join, the right side of a
    /// left join, neither of a full one, all that WHERE stands over.
    Node { inputs: Vec<(Join<E>, bool)>, on: Vec<E> },
}

impl<E> Join<E> {
    /// The equalities that hold for every surviving combination with a row of this entry in it;
    /// `None` if the entry is not joined here.
    pub fn holding(&self, entry: usize) -> Option<Vec<&E>> {
        let (inputs, on) = match self {
            Join::Entry(number) => return (*number == entry).then(Vec::new),
            Join::Node { inputs, on } => (inputs, on),
        };
        inputs.iter().enumerate().find_map(|(place, (input, filtered))| {
            let mut holding = input.holding(entry)?;
            if *filtered {
                holding.extend(on);
                // Whatever passes ON stands beside a row of each other input.
                let others = inputs.iter().enumerate().filter(|(other, _)| *other != place);
                others.for_each(|(_, (other, _))| holding.extend(other.always()));
            }
            Some(holding)
        })
    }

    /// The equalities that hold for all that this join gives.
    fn always(&self) -> Vec<&E> {
        let (inputs, on) = match self {
            Join::Entry(_) => return Vec::new(),
            Join::Node { inputs, on } => (inputs, on),
        };
        if inputs.iter().all(|(_, filtered)| *filtered) {
            let below = inputs.iter().flat_map(|(input, _)| input.always());
            return on.iter().chain(below).collect();
        }
        match &inputs[..] {
            [(kept, false), (_, true)] | [(_, true), (kept, false)] => kept.always(),
            _ => Vec::new(),
        }
    }
}

/// One side of an equality: a column, or values of which it equals one. `C` is a column and how the
/// operator takes it; the same column taken as another type is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side<C, V> {
    Column(C),
    Values(V),
}

/// What is equal to what.
pub type Equality<C, V> = (Side<C, V>, Side<C, V>);

/// The values to which equalities carry a column, each of which bounds it alone.
pub fn carried<C: Copy + PartialEq, V: Copy>(start: C, equalities: &[Equality<C, V>]) -> Vec<V> {
    let mut columns = vec![start];
    let mut values = Vec::new();
    let mut done = 0;
    while let Some(column) = columns.get(done).copied() {
        done += 1;
        let here = Side::Column(column);
        for (left, right) in equalities {
            let other = match (is(left, &here), is(right, &here)) {
                (true, _) => right,
                (_, true) => left,
                _ => continue,
            };
            match other {
                Side::Column(next) if !columns.contains(next) => columns.push(*next),
                Side::Column(_) => {}
                Side::Values(found) => values.push(*found),
            }
        }
    }
    values
}

fn is<C: PartialEq, V>(side: &Side<C, V>, wanted: &Side<C, V>) -> bool {
    matches!((side, wanted), (Side::Column(a), Side::Column(b)) if a == b)
}

/// A column that is pinned, and the hashes of its values: none if equality never holds (NULL).
#[derive(Debug, Clone)]
pub struct Pinned<'a> {
    pub column: &'a str,
    /// `None`: more than `GROUPS_MAX`.
    pub hashes: Option<Vec<u64>>,
}

/// The tags, besides `whole`, of an entry of a relation that is tracked by `by` columns, of which
/// these are pinned, in the order of tracking.
///
/// A change notes the group of each column alone, and with several columns that of all together: so
/// either all are pinned, or one is as good as it gets.
pub fn group_tags(relation: u32, by: usize, pinned: &[Pinned<'_>], out: &mut Tags) {
    let known = || pinned.iter().filter_map(|pin| Some((pin.column, pin.hashes.as_ref()?)));
    if known().any(|(_, hashes)| hashes.is_empty()) {
        return;
    }
    let columns: Vec<_> = known().collect();
    let together = columns.iter().try_fold(1usize, |product, (_, hashes)| {
        product.checked_mul(hashes.len()).filter(|product| *product <= GROUPS_MAX)
    });
    if by > 0 && columns.len() == by && together.is_some() {
        return combine(relation, &columns, &mut Vec::new(), out);
    }
    let fewest = columns.iter().filter(|(_, hashes)| hashes.len() <= GROUPS_MAX);
    match fewest.min_by_key(|(_, hashes)| hashes.len()) {
        Some(column) => combine(relation, &[*column], &mut Vec::new(), out),
        None => out.push(Tag::any(relation)),
    }
}

fn combine<'a>(
    relation: u32,
    columns: &[(&'a str, &Vec<u64>)],
    chosen: &mut Vec<GroupColumn<'a>>,
    out: &mut Tags,
) {
    let Some(((name, hashes), rest)) = columns.split_first() else {
        return out.push(Tag::group(relation, chosen));
    };
    for hash in *hashes {
        chosen.push(GroupColumn { name, value_hash: *hash });
        combine(relation, rest, chosen, out);
        chosen.pop();
    }
}

#[cfg(test)]
mod tests;
