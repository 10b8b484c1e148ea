//! Collects the nodes of a tree that PostgreSQL made, so that rules can look at them one by one.
//!
//! The walk is PostgreSQL's own and runs inside one `catch`, in frames as small as those of any C
//! walker: what its parser and planner can take, this can take, and a tree too deep ends in one
//! plain error. Invariant: nothing in the callbacks raises a panic, looks anything up, or owns
//! anything; the rules do that afterwards.

use std::ffi::{c_int, c_void};

use pgrx::pg_sys::{self, NodeTag};

use super::error::{Outcome, catch};

/// A node, and whether a row security policy brought it in.
#[derive(Clone, Copy)]
pub struct Met {
    pub node: *mut pg_sys::Node,
    pub tag: NodeTag,
    pub in_policy: bool,
}

type Visitor = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool;

unsafe extern "C-unwind" {
    // Without pgrx's guard: an error must jump over the whole walk to `catch`, not stop at each
    // level to become a panic and an error again.
    #[cfg_attr(
        not(any(feature = "pg14", feature = "pg15")),
        link_name = "expression_tree_walker_impl"
    )]
    fn expression_tree_walker(
        node: *mut pg_sys::Node,
        visitor: Option<Visitor>,
        context: *mut c_void,
    ) -> bool;
    #[cfg_attr(not(any(feature = "pg14", feature = "pg15")), link_name = "query_tree_walker_impl")]
    fn query_tree_walker(
        query: *mut pg_sys::Query,
        visitor: Option<Visitor>,
        context: *mut c_void,
        flags: c_int,
    ) -> bool;
    #[cfg_attr(
        not(any(feature = "pg14", feature = "pg15")),
        link_name = "raw_expression_tree_walker_impl"
    )]
    fn raw_expression_tree_walker(
        node: *mut pg_sys::Node,
        visitor: Option<Visitor>,
        context: *mut c_void,
    ) -> bool;
}

struct Walk {
    met: Vec<Met>,
    in_policy: bool,
}

/// Every node of an analysed tree, queries and range table entries included, parents first. WITH
/// queries that nothing refers to are left out: they are never planned.
pub fn collect(tree: *mut pg_sys::Node, in_policy: bool) -> Outcome<Vec<Met>> {
    let mut walk = Walk { met: Vec::new(), in_policy };
    let context = std::ptr::from_mut(&mut walk).cast();
    // SAFETY: the tree is valid and nobody changes it meanwhile; the context is a Walk.
    let visit_all = || unsafe { visit(tree, context) };
    // SAFETY: the walk calls C functions and itself only; what it collects is owned out here.
    unsafe { catch(visit_all) }?;
    Ok(walk.met)
}

unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: nodes of a tree are NULL or valid.
    let Some(tag) = (unsafe { node.as_ref() }).map(|node| node.type_) else { return false };
    // SAFETY: the tag says what it is.
    if tag == NodeTag::T_CommonTableExpr && unsafe { is_unused(node) } {
        return false;
    }
    // SAFETY: the Walk of `collect`, borrowed for this line only.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    walk.met.push(Met { node, tag, in_policy: walk.in_policy });
    if tag == NodeTag::T_Query {
        // SAFETY: the tag says what it is.
        return unsafe { visit_query(node.cast(), context) };
    }
    // SAFETY: visits the children with this same function.
    unsafe { expression_tree_walker(node, Some(visit), context) }
}

unsafe fn visit_query(query: *mut pg_sys::Query, context: *mut c_void) -> bool {
    // SAFETY: a valid query; only a pointer is read.
    let range_table = unsafe { (*query).rtable };
    for index in 0..length(range_table) {
        // SAFETY: members of a range table are range table entries.
        unsafe { visit_entry(member(range_table, index).cast(), context) };
    }
    // How rows are sorted and grouped is code too, where the type is a user's.
    let flags = (pg_sys::QTW_IGNORE_RANGE_TABLE | pg_sys::QTW_EXAMINE_SORTGROUP) as c_int;
    // SAFETY: visits everything but the range table, which was just done.
    unsafe { query_tree_walker(query, Some(visit), context, flags) }
}

/// Done here and not by PostgreSQL's walker, to know what the policies brought in.
unsafe fn visit_entry(entry: *mut pg_sys::RangeTblEntry, context: *mut c_void) {
    // SAFETY: a valid entry, which the walk only reads.
    let fields = unsafe { &*entry };
    // SAFETY: the Walk of `collect`, borrowed for this line only.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    let outside = walk.in_policy;
    walk.met.push(Met { node: entry.cast(), tag: fields.type_, in_policy: outside });
    let parts: [*mut pg_sys::Node; 6] = [
        fields.tablesample.cast(),
        fields.subquery.cast(),
        fields.functions.cast(),
        fields.tablefunc.cast(),
        fields.values_lists.cast(),
        fields.joinaliasvars.cast(),
    ];
    for part in parts {
        // SAFETY: NULL or a valid node.
        unsafe { visit(part, context) };
    }
    #[cfg(feature = "pg18")]
    // SAFETY: as above.
    unsafe {
        visit(fields.groupexprs.cast(), context)
    };
    // SAFETY: as above.
    unsafe { &mut *context.cast::<Walk>() }.in_policy = true;
    // SAFETY: as above.
    unsafe { visit(fields.securityQuals.cast(), context) };
    // SAFETY: as above.
    unsafe { &mut *context.cast::<Walk>() }.in_policy = outside;
}

unsafe fn is_unused(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller saw the tag of a CommonTableExpr.
    let cte = unsafe { &*node.cast::<pg_sys::CommonTableExpr>() };
    // SAFETY: its query is an analysed Query.
    let query = unsafe { &*cte.ctequery.cast::<pg_sys::Query>() };
    cte.cterefcount == 0 && query.commandType == pg_sys::CmdType::CMD_SELECT
}

/// The highest `$n` of a raw statement: how many arguments it takes.
pub fn parameters(statement: *mut pg_sys::Node) -> Outcome<usize> {
    let mut highest = 0usize;
    let context = std::ptr::from_mut(&mut highest).cast();
    // SAFETY: a valid raw tree; the context is the counter.
    let visit_all = || unsafe { visit_raw(statement, context) };
    // SAFETY: the walk calls C functions and itself only.
    unsafe { catch(visit_all) }?;
    Ok(highest)
}

unsafe extern "C-unwind" fn visit_raw(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: nodes of a raw tree are NULL or valid.
    let Some(tag) = (unsafe { node.as_ref() }).map(|node| node.type_) else { return false };
    if tag == NodeTag::T_ParamRef {
        // SAFETY: the tag says what it is.
        let number = unsafe { &*node.cast::<pg_sys::ParamRef>() }.number;
        // SAFETY: the counter of `parameters`.
        let highest = unsafe { &mut *context.cast::<usize>() };
        *highest = (*highest).max(usize::try_from(number).unwrap_or(0));
    }
    // SAFETY: visits the children with this same function.
    unsafe { raw_expression_tree_walker(node, Some(visit_raw), context) }
}

/// The members of a list of nodes.
pub fn nodes<T>(list: *mut pg_sys::List) -> Vec<*mut T> {
    (0..length(list)).map(|index| member(list, index).cast()).collect()
}

/// The members of a list of oids.
pub fn oids(list: *mut pg_sys::List) -> Vec<pg_sys::Oid> {
    // SAFETY: a cell of a list of oids.
    let oid = |index| unsafe { cell(list, index).oid_value };
    (0..length(list)).map(oid).collect()
}

pub fn length(list: *mut pg_sys::List) -> usize {
    // SAFETY: NULL or a valid list.
    let length = unsafe { list.as_ref() }.map_or(0, |list| list.length);
    usize::try_from(length).unwrap_or(0)
}

fn member(list: *mut pg_sys::List, index: usize) -> *mut c_void {
    // SAFETY: a cell of a list of pointers.
    unsafe { cell(list, index).ptr_value }
}

/// One cell of a list that has more members than `index`.
fn cell<'a>(list: *mut pg_sys::List, index: usize) -> &'a pg_sys::ListCell {
    // SAFETY: a valid list, since it has this many members.
    let elements = unsafe { (*list).elements };
    // SAFETY: the index is below the length.
    let cell = unsafe { elements.add(index) };
    // SAFETY: within the list, which lives as long as its tree.
    unsafe { &*cell }
}
