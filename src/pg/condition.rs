//! The WHEN of a trigger, as far as we know it: a call of one function with one table.
//!
//! Invariant: a condition that is anything else is [`Condition::Other`]. Taken for ours, a trigger
//! that looks away at some rows would pass for one that sees all.

use pgrx::pg_sys;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    None,
    /// `function('table'::regclass)`.
    Call {
        function: pg_sys::Oid,
        table: pg_sys::Oid,
    },
    Other,
}

/// The condition of a trigger of the relation cache. Looks nothing up.
pub fn of(trigger: &pg_sys::Trigger) -> Condition {
    if trigger.tgqual.is_null() {
        return Condition::None;
    }
    // SAFETY: a tree that PostgreSQL wrote as text.
    let node = unsafe { pg_sys::stringToNode(trigger.tgqual) };
    call(node.cast()).unwrap_or(Condition::Other)
}

fn call(node: *mut pg_sys::Node) -> Option<Condition> {
    let call = cast::<pg_sys::FuncExpr>(node, pg_sys::NodeTag::T_FuncExpr)?;
    let [argument] = super::tree::nodes::<pg_sys::Node>(call.args)[..] else { return None };
    let table = cast::<pg_sys::Const>(argument, pg_sys::NodeTag::T_Const)?;
    let is_table = table.consttype == pg_sys::REGCLASSOID && !table.constisnull;
    let oid = pg_sys::Oid::from(table.constvalue.value() as u32);
    is_table.then_some(Condition::Call { function: call.funcid, table: oid })
}

fn cast<'a, T>(node: *mut pg_sys::Node, tag: pg_sys::NodeTag) -> Option<&'a T> {
    // SAFETY: NULL or a node.
    let found = unsafe { node.as_ref() }?.type_;
    // SAFETY: the tag says what it is; it lives in the memory of the statement.
    (found == tag).then(|| unsafe { &*node.cast::<T>() })
}
