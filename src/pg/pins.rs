//! Row groups: which values a query pins a tracked table's columns to, by its own conditions.
//!
//! Reads the analysed tree and nothing else. Which conditions hold for which table, and why no
//! other row of it can matter then, is said and tried out in `pg_cache_core::pins`; here stands
//! what an equality is. Invariant: only a plain column of this very query level, an operator that
//! is the equality of the column's hash, and a value that is known before the query runs (a
//! constant, a parameter, an array of them) count. Anything less certain depends on the whole
//! table. If something else counted, a change of a row that the result shows would leave the entry
//! a hit.

use pg_cache_core::pins::{self, GROUPS_MAX, Join, Pinned, Side, carried};
use pgrx::pg_sys::{self, NodeTag};

use super::arguments::{self, Bound};
use super::hashing::{self, Equality, HashBy, Hashing};
use super::{classify, quote, text, tree};

/// A join tree deeper than that is not looked into.
const DEPTH_MAX: usize = 300;

/// A column and the values of which it equals one.
pub struct Pin {
    pub column: String,
    values: Vec<Value>,
    /// The condition, for a person.
    pub condition: String,
}

/// A value that equality is with.
enum Value {
    /// Its hash; NULL, which equals nothing, is not listed at all.
    Known(u64),
    Parameter {
        index: usize,
        casts: Vec<pg_sys::Oid>,
        by: HashBy,
    },
    /// Each element of an array.
    Elements {
        index: usize,
        by: HashBy,
    },
}

impl Pin {
    pub fn is_settled(&self) -> bool {
        self.values.iter().all(|value| matches!(value, Value::Known(_)))
    }

    /// The hashes, as far as they are few enough.
    pub fn resolve(&self, bound: &[Bound]) -> Pinned<'_> {
        let mut hashes = Vec::new();
        let complete = self.values.iter().all(|value| value.add_to(&mut hashes, bound));
        hashes.sort_unstable();
        hashes.dedup();
        let hashes = (complete && hashes.len() <= GROUPS_MAX).then_some(hashes);
        Pinned { column: &self.column, hashes }
    }
}

impl Value {
    /// False if they are too many.
    fn add_to(&self, hashes: &mut Vec<u64>, bound: &[Bound]) -> bool {
        match self {
            Value::Known(hash) => hashes.push(*hash),
            Value::Parameter { index, casts, by } => {
                let Some(argument) = bound.get(*index) else { return false };
                if let Some(value) = argument.value {
                    let widen = |value, cast: &pg_sys::Oid| hashing::widened(*cast, value);
                    hashes.push(by.hash(casts.iter().fold(value, widen)));
                }
            }
            Value::Elements { index, by } => {
                let Some(argument) = bound.get(*index) else { return false };
                return argument.value.is_none_or(|array| add_elements(array, *by, hashes));
            }
        }
        true
    }
}

fn add_elements(array: pg_sys::Datum, by: HashBy, hashes: &mut Vec<u64>) -> bool {
    let elements = arguments::members(array);
    let few = elements.len() <= GROUPS_MAX;
    if few {
        hashes.extend(elements.iter().filter_map(|one| one.value).map(|value| by.hash(value)));
    }
    few
}

type Entries = Vec<*mut pg_sys::RangeTblEntry>;

/// One level's FROM and WHERE.
pub struct Level {
    join: Join<Condition>,
}

/// An equality between two sides, or of the left with a member of the right.
#[derive(Clone)]
struct Condition {
    operator: pg_sys::Oid,
    collation: pg_sys::Oid,
    left: Operand,
    right: Operand,
    any_of: bool,
}

#[derive(Clone, Copy)]
enum Operand {
    Column {
        entry: usize,
        attribute: pg_sys::AttrNumber,
    },
    /// Perhaps a value: a node of the tree.
    Other(*mut pg_sys::Node),
}

/// A column as an operator takes it.
#[derive(Clone, Copy, PartialEq)]
struct Taken {
    entry: usize,
    attribute: pg_sys::AttrNumber,
    as_type: pg_sys::Oid,
}

impl Level {
    /// None if the level is nested too deeply to be worth it.
    pub fn of(query: &pg_sys::Query) -> Option<Self> {
        let entries = tree::nodes(query.rtable);
        Some(Self { join: join(query.jointree.cast(), &entries, 0)? })
    }

    /// What a column of a range table entry is pinned to, if anything.
    pub fn pin(&self, entry: usize, relation: pg_sys::Oid, column: &str) -> Option<Pin> {
        let attribute = attribute(relation, column)?;
        let hashing = Hashing::of(attribute.type_oid, attribute.collation)?;
        let start = Taken { entry, attribute: attribute.number, as_type: hashing.taken_as };
        let holding = self.join.holding(entry)?;
        let sides: Vec<_> =
            holding.into_iter().filter_map(|condition| condition.sides(&hashing)).collect();
        let found = carried(start, &sides);
        // Each bounds the rows alone. One value is better than several.
        found
            .into_iter()
            .filter_map(|(node, any_of, type_oid)| {
                let by = hashing.of_value(type_oid)?;
                pin_to(column, node, any_of, by)
            })
            .min_by_key(|pin| !matches!(pin.values[..], [] | [Value::Known(_)]) as usize)
    }
}

/// A node, whether its members are meant, and the type that the operator takes it as.
type Found = (*mut pg_sys::Node, bool, pg_sys::Oid);

impl Condition {
    fn sides(&self, hashing: &Hashing) -> Option<pins::Equality<Taken, Found>> {
        let Equality { left, right } = hashing.equality(self.operator, self.collation)?;
        let side = |operand, as_type, any_of| match operand {
            Operand::Column { .. } if any_of => None,
            Operand::Column { entry, attribute } => {
                Some(Side::Column(Taken { entry, attribute, as_type }))
            }
            Operand::Other(node) => Some(Side::Values((node, any_of, as_type))),
        };
        Some((side(self.left, left, false)?, side(self.right, right, self.any_of)?))
    }
}

fn join(node: *mut pg_sys::Node, entries: &Entries, depth: usize) -> Option<Join<Condition>> {
    if depth > DEPTH_MAX {
        return None;
    }
    // SAFETY: members of a join tree are valid nodes.
    match unsafe { node.as_ref() }?.type_ {
        NodeTag::T_RangeTblRef => {
            // SAFETY: the tag says what it is.
            let reference = unsafe { &*node.cast::<pg_sys::RangeTblRef>() };
            Some(Join::Entry(usize::try_from(reference.rtindex).ok()?))
        }
        NodeTag::T_FromExpr => {
            // SAFETY: as above.
            let from = unsafe { &*node.cast::<pg_sys::FromExpr>() };
            let inputs: Option<Vec<_>> = tree::nodes(from.fromlist)
                .into_iter()
                .map(|input| Some((join(input, entries, depth + 1)?, true)))
                .collect();
            Some(Join::Node { inputs: inputs?, on: conditions(from.quals, entries) })
        }
        NodeTag::T_JoinExpr => {
            // SAFETY: as above.
            let expression = unsafe { &*node.cast::<pg_sys::JoinExpr>() };
            use pg_sys::JoinType::*;
            let (left, right) = match expression.jointype {
                JOIN_INNER => (true, true),
                JOIN_LEFT => (false, true),
                JOIN_RIGHT => (true, false),
                _ => (false, false),
            };
            let inputs = vec![
                (join(expression.larg, entries, depth + 1)?, left),
                (join(expression.rarg, entries, depth + 1)?, right),
            ];
            Some(Join::Node { inputs, on: conditions(expression.quals, entries) })
        }
        _ => None,
    }
}

/// The equalities among what is ANDed.
fn conditions(quals: *mut pg_sys::Node, entries: &Entries) -> Vec<Condition> {
    let (mut found, mut ahead) = (Vec::new(), vec![quals]);
    while let Some(node) = ahead.pop() {
        // SAFETY: NULL or a valid node.
        let Some(tag) = (unsafe { node.as_ref() }).map(|node| node.type_) else { continue };
        match tag {
            NodeTag::T_List => ahead.extend(tree::nodes(node.cast()).into_iter().rev()),
            NodeTag::T_BoolExpr => {
                // SAFETY: the tag says what it is.
                let expression = unsafe { &*node.cast::<pg_sys::BoolExpr>() };
                if expression.boolop == pg_sys::BoolExprType::AND_EXPR {
                    ahead.extend(tree::nodes(expression.args).into_iter().rev());
                }
            }
            NodeTag::T_OpExpr => {
                // SAFETY: as above.
                let call = unsafe { &*node.cast::<pg_sys::OpExpr>() };
                found.extend(condition(call.opno, call.inputcollid, call.args, false, entries));
            }
            NodeTag::T_ScalarArrayOpExpr => {
                // SAFETY: as above.
                let call = unsafe { &*node.cast::<pg_sys::ScalarArrayOpExpr>() };
                if call.useOr {
                    found.extend(condition(call.opno, call.inputcollid, call.args, true, entries));
                }
            }
            _ => {}
        }
    }
    found
}

fn condition(
    operator: pg_sys::Oid,
    collation: pg_sys::Oid,
    arguments: *mut pg_sys::List,
    any_of: bool,
    entries: &Entries,
) -> Option<Condition> {
    let [left, right] = tree::nodes::<pg_sys::Node>(arguments)[..] else { return None };
    let (left, right) = (operand(left, entries), operand(right, entries));
    let column = |side| matches!(side, Operand::Column { .. });
    (column(left) || column(right)).then_some(Condition {
        operator,
        collation,
        left,
        right,
        any_of,
    })
}

/// A column of this level, through casts that keep its bytes and names that a join gave it.
fn operand(node: *mut pg_sys::Node, entries: &Entries) -> Operand {
    let node = plain(node);
    // SAFETY: an argument of an operator is a valid node.
    if unsafe { (*node).type_ } != NodeTag::T_Var {
        return Operand::Other(node);
    }
    // SAFETY: the tag says what it is.
    let var = unsafe { &*node.cast::<pg_sys::Var>() };
    let entry = usize::try_from(var.varno).unwrap_or(0);
    let (0, 1.., Some(found)) =
        (var.varlevelsup, var.varattno, entry.checked_sub(1).and_then(|at| entries.get(at)))
    else {
        return Operand::Other(node);
    };
    // SAFETY: members of a range table are entries.
    let found = unsafe { &**found };
    if found.rtekind != pg_sys::RTEKind::RTE_JOIN {
        return Operand::Column { entry, attribute: var.varattno };
    }
    let named = tree::nodes::<pg_sys::Node>(found.joinaliasvars);
    let at = usize::try_from(var.varattno - 1).unwrap_or(usize::MAX);
    match named.get(at) {
        // A name of a name; joins nest no deeper than their tree.
        Some(named) if !named.is_null() => operand(*named, entries),
        _ => Operand::Other(node),
    }
}

/// What is under casts that keep the value's bytes, and under COLLATE, which the operator knows.
pub fn plain(mut node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    loop {
        // SAFETY: an expression is a valid node.
        node = match unsafe { (*node).type_ } {
            // SAFETY: the tag says what it is.
            NodeTag::T_RelabelType => unsafe { (*node.cast::<pg_sys::RelabelType>()).arg.cast() },
            // SAFETY: as above.
            NodeTag::T_CollateExpr => unsafe { (*node.cast::<pg_sys::CollateExpr>()).arg.cast() },
            _ => return node,
        };
    }
}

/// What is under casts that call an array's members by another type and leave each as it is:
/// `varchar` compares as `text`. Where a function makes another value of each (a length that cuts
/// it off), the members are not what the operator is given.
fn plain_array(mut node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    loop {
        node = plain(node);
        // SAFETY: an expression is a valid node.
        if unsafe { (*node).type_ } != NodeTag::T_ArrayCoerceExpr {
            return node;
        }
        // SAFETY: the tag says what it is.
        let cast = unsafe { &*node.cast::<pg_sys::ArrayCoerceExpr>() };
        // The member stands in its own cast as a CaseTestExpr.
        let member = plain(cast.elemexpr.cast());
        // SAFETY: as above.
        if unsafe { (*member).type_ } != NodeTag::T_CaseTestExpr {
            return node;
        }
        node = cast.arg.cast();
    }
}

/// A pin to what this node is worth before the query runs, if that is known.
fn pin_to(column: &str, node: *mut pg_sys::Node, any_of: bool, by: HashBy) -> Option<Pin> {
    let mut pin = Pin { column: column.to_owned(), values: Vec::new(), condition: String::new() };
    let shown = if any_of { members(node, by, &mut pin)? } else { value(node, by, &mut pin)? };
    let name = quote::identifier(column);
    pin.condition = format!("{name} = {shown}");
    (pin.values.len() <= GROUPS_MAX).then_some(pin)
}

/// One value; returns how a person would write it.
fn value(node: *mut pg_sys::Node, by: HashBy, pin: &mut Pin) -> Option<String> {
    let mut casts = Vec::new();
    let mut node = plain(node);
    // SAFETY: an expression is a valid node.
    while unsafe { (*node).type_ } == NodeTag::T_FuncExpr {
        // SAFETY: the tag says what it is.
        let call = unsafe { &*node.cast::<pg_sys::FuncExpr>() };
        let [argument] = tree::nodes::<pg_sys::Node>(call.args)[..] else { return None };
        if !hashing::is_widening(call.funcid) {
            return None;
        }
        casts.insert(0, call.funcid);
        node = plain(argument);
    }
    // SAFETY: as above.
    match unsafe { (*node).type_ } {
        NodeTag::T_Const => {
            // SAFETY: the tag says what it is.
            let constant = unsafe { &*node.cast::<pg_sys::Const>() };
            if constant.constisnull {
                return Some("NULL".to_owned());
            }
            let widen = |value, cast: &pg_sys::Oid| hashing::widened(*cast, value);
            let hash = by.hash(casts.iter().fold(constant.constvalue, widen));
            pin.values.push(Value::Known(hash));
            Some(quote::value(constant.consttype, constant.constvalue))
        }
        NodeTag::T_Param => {
            let index = parameter(node)?;
            pin.values.push(Value::Parameter { index, casts, by });
            Some(format!("${}", index + 1))
        }
        _ => None,
    }
}

/// The members of an array; returns how a person would write it.
fn members(node: *mut pg_sys::Node, by: HashBy, pin: &mut Pin) -> Option<String> {
    let node = plain_array(node);
    // SAFETY: an expression is a valid node.
    match unsafe { (*node).type_ } {
        NodeTag::T_ArrayExpr => {
            // SAFETY: the tag says what it is.
            let array = unsafe { &*node.cast::<pg_sys::ArrayExpr>() };
            let elements = tree::nodes::<pg_sys::Node>(array.elements);
            if array.multidims || elements.len() > GROUPS_MAX {
                return None;
            }
            let shown: Option<Vec<_>> =
                elements.into_iter().map(|element| value(element, by, pin)).collect();
            Some(format!("ANY ({})", shown?.join(", ")))
        }
        NodeTag::T_Const => {
            // SAFETY: as above.
            let constant = unsafe { &*node.cast::<pg_sys::Const>() };
            if constant.constisnull {
                return Some("ANY (NULL)".to_owned());
            }
            let mut hashes = Vec::new();
            if !add_elements(constant.constvalue, by, &mut hashes) {
                return None;
            }
            pin.values.extend(hashes.into_iter().map(Value::Known));
            Some(format!("ANY ({})", quote::value(constant.consttype, constant.constvalue)))
        }
        NodeTag::T_Param => {
            let index = parameter(node)?;
            pin.values.push(Value::Elements { index, by });
            Some(format!("ANY (${})", index + 1))
        }
        _ => None,
    }
}

/// The place of an argument of the query.
pub fn parameter(node: *mut pg_sys::Node) -> Option<usize> {
    // SAFETY: the caller saw the tag of a Param.
    let parameter = unsafe { &*node.cast::<pg_sys::Param>() };
    let external = parameter.paramkind == pg_sys::ParamKind::PARAM_EXTERN;
    external.then(|| usize::try_from(parameter.paramid - 1).ok()).flatten()
}

struct Attribute {
    number: pg_sys::AttrNumber,
    type_oid: pg_sys::Oid,
    collation: pg_sys::Oid,
}

/// A column by its name; none if there is no such column any more.
fn attribute(relation: pg_sys::Oid, column: &str) -> Option<Attribute> {
    let name = text::statement(column);
    // SAFETY: a catalogue look-up; 0 if there is none.
    let number = unsafe { pg_sys::get_attnum(relation, name.as_ptr()) };
    // SAFETY: as above.
    let generated =
        number > 0 && unsafe { pg_sys::get_attgenerated(relation, number) } as u8 == b'v';
    // A virtual column has no value in the row that a trigger sees.
    if number <= 0 || generated {
        return None;
    }
    let (mut type_oid, mut modifier, mut collation) = (pg_sys::InvalidOid, -1, pg_sys::InvalidOid);
    // SAFETY: a catalogue look-up into three locals.
    unsafe {
        pg_sys::get_atttypetypmodcoll(
            relation,
            number,
            &raw mut type_oid,
            &raw mut modifier,
            &raw mut collation,
        );
    }
    Some(Attribute { number, type_oid, collation })
}

/// The relation of an entry that holds rows; none for what is no table.
pub fn relation_of(entry: &pg_sys::RangeTblEntry) -> Option<pg_sys::Oid> {
    let is_relation = entry.rtekind == pg_sys::RTEKind::RTE_RELATION;
    (is_relation && !classify::is_view(entry.relid)).then_some(entry.relid)
}
