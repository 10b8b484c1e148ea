//! What a query is made of, read off its analysed and rewritten tree before anything runs.
//!
//! Owns the rules of what may be cached. The tree is PostgreSQL's own (views expanded, row security
//! added), so nothing is guessed from the text. If a rule here is wrong, somebody is served rows
//! that the query would not have given.

use std::collections::BTreeSet;
use std::ffi::{CStr, c_void};

use pg_cache_core::error::Error;
use pg_cache_core::reason::Reason;
use pgrx::pg_sys::{self, NodeTag};
use pgrx::{PgList, pg_guard};

use super::classify::{self, Stable};

/// The outcome of a walk through one query.
#[derive(Default)]
pub struct Analysis {
    /// Why it must be refused, if it must.
    pub refusal: Option<Error>,
    /// Why it is computed and never stored, if it is.
    pub obstacle: Option<Reason>,
    /// Tables read, views resolved.
    pub relations: Vec<pg_sys::Oid>,
    /// Functions that the executor would check EXECUTE on.
    pub called: Vec<pg_sys::Oid>,
    /// STABLE functions and what they hang on.
    pub stable: Vec<(Stable, pg_sys::Oid)>,
    /// Settings read by `current_setting('…')`.
    pub settings: BTreeSet<String>,
    /// `CURRENT_TIMESTAMP`, `CURRENT_USER` and their like.
    pub value_functions: Vec<(Stable, &'static str)>,
    /// A row security policy applies to the caller.
    pub row_secured: bool,
    /// Range tables whose privileges the executor would check.
    pub checked: Vec<Checked>,
}

/// One query level's range table, as the executor checks it.
#[derive(Clone, Copy)]
pub struct Checked {
    pub range_table: *mut pg_sys::List,
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    pub permissions: *mut pg_sys::List,
}

impl Analysis {
    pub fn is_opaque(&self) -> bool {
        self.stable.iter().any(|(kind, _)| *kind == Stable::Opaque)
    }

    /// Whether the rows hang on who asks, other than by privileges.
    pub fn reads_role(&self) -> bool {
        let is_role = |kind: Stable| kind == Stable::Role;
        self.stable.iter().any(|(kind, _)| is_role(*kind))
            || self.value_functions.iter().any(|(kind, _)| is_role(*kind))
    }
}

/// Walks one rewritten query.
pub fn analyse(query: *mut pg_sys::Query) -> Analysis {
    let mut walk = Walk { found: Analysis::default(), in_policy: false };
    visit(query.cast(), std::ptr::from_mut(&mut walk).cast());
    walk.found
}

struct Walk {
    found: Analysis,
    in_policy: bool,
}

/// PostgreSQL calls this for each node; true would end the walk.
#[pg_guard]
extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: the context is the Walk that `analyse` keeps on its stack; one walk at a time.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    // SAFETY: nodes of a tree are NULL or valid.
    let Some(tag) = (unsafe { node.as_ref() }).map(|node| node.type_) else { return false };
    match tag {
        // SAFETY: the tag says what it is.
        NodeTag::T_Query => walk.query(unsafe { &mut *node.cast() }),
        // SAFETY: as above.
        NodeTag::T_CommonTableExpr if unsafe { is_unused(node) } => {}
        _ => {
            walk.expression(node, tag);
            // SAFETY: visits the children with this same function.
            unsafe { pg_sys::expression_tree_walker(node, Some(visit), context) };
        }
    }
    false
}

/// A WITH query that nothing refers to is never planned: it neither runs nor needs privileges.
unsafe fn is_unused(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller saw the tag of a CommonTableExpr.
    let cte = unsafe { &*node.cast::<pg_sys::CommonTableExpr>() };
    // SAFETY: its query is an analysed Query.
    let query = unsafe { &*cte.ctequery.cast::<pg_sys::Query>() };
    cte.cterefcount == 0 && query.commandType == pg_sys::CmdType::CMD_SELECT
}

impl Walk {
    fn refuse(&mut self, error: Error) {
        self.found.refusal.get_or_insert(error);
    }

    fn bypass(&mut self, reason: Reason) {
        self.found.obstacle.get_or_insert(reason);
    }

    fn descend<T>(&mut self, node: *mut T) {
        visit(node.cast(), std::ptr::from_mut(self).cast());
    }

    fn query(&mut self, query: &mut pg_sys::Query) {
        if query.hasModifyingCTE || query.commandType != pg_sys::CmdType::CMD_SELECT {
            self.refuse(Error::WritingCte);
        }
        if !query.rowMarks.is_null() {
            self.refuse(Error::RowLock { clause: lock_clause(query.rowMarks).to_owned() });
        }
        self.found.checked.push(Checked {
            range_table: query.rtable,
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            permissions: query.rteperminfos,
        });
        for entry in nodes::<pg_sys::RangeTblEntry>(query.rtable) {
            // SAFETY: members of a range table are range table entries.
            self.entry(unsafe { &*entry });
        }
        let context = std::ptr::from_mut(self).cast();
        let flags = pg_sys::QTW_IGNORE_RANGE_TABLE as i32;
        // SAFETY: visits everything but the range table, which was just done.
        unsafe { pg_sys::query_tree_walker(query, Some(visit), context, flags) };
    }

    fn entry(&mut self, entry: &pg_sys::RangeTblEntry) {
        if entry.rtekind == pg_sys::RTEKind::RTE_RELATION {
            self.relation(entry.relid, entry.inh);
        }
        self.descend(entry.tablesample);
        self.descend(entry.subquery);
        self.descend(entry.functions);
        self.descend(entry.tablefunc);
        self.descend(entry.values_lists);
        self.descend(entry.joinaliasvars);
        #[cfg(feature = "pg18")]
        self.descend(entry.groupexprs);
        if !entry.securityQuals.is_null() {
            self.found.row_secured = true;
            let outside = std::mem::replace(&mut self.in_policy, true);
            self.descend(entry.securityQuals);
            self.in_policy = outside;
        }
    }

    fn relation(&mut self, relation: pg_sys::Oid, with_children: bool) {
        if classify::is_view(relation) {
            return;
        }
        add(&mut self.found.relations, relation);
        if classify::is_catalog(relation) {
            self.bypass(Reason::SystemCatalog);
        } else if classify::is_temporary(relation)
            || (with_children && classify::has_own_temporary_child(relation))
        {
            self.bypass(Reason::TempTable);
        }
    }

    fn expression(&mut self, node: *mut pg_sys::Node, tag: NodeTag) {
        if let Some(function) = called_function(node, tag) {
            add(&mut self.found.called, function);
        }
        match tag {
            // SAFETY: the tag says what it is.
            NodeTag::T_FuncExpr => self.setting(unsafe { &*node.cast() }),
            // SAFETY: as above.
            NodeTag::T_SQLValueFunction => self.value_function(unsafe { &*node.cast() }),
            NodeTag::T_NextValueExpr => self.volatile("nextval".to_owned()),
            _ => {}
        }
        let context = std::ptr::from_mut(self).cast();
        // SAFETY: calls back once for each function that the node runs, and for none below it.
        unsafe { pg_sys::check_functions_in_node(node, Some(note_function), context) };
    }

    fn function(&mut self, function: pg_sys::Oid) {
        if classify::is_ours(function) {
            self.refuse(Error::Nested);
        } else if classify::is_volatile(function) {
            self.volatile(classify::function_signature(function));
        } else if classify::is_stable(function) {
            let kind = classify::stable(function);
            add(&mut self.found.stable, (kind, function));
            let resolved = is_current_setting(function);
            if self.in_policy && !resolved {
                self.bypass(Reason::RowSecurity);
            } else if kind == Stable::Session {
                self.bypass(Reason::SessionFunction);
            }
        }
    }

    fn volatile(&mut self, name: String) {
        if self.in_policy {
            self.bypass(Reason::RowSecurity);
        } else {
            self.refuse(Error::VolatileFunction { name });
        }
    }

    /// `current_setting` of a name that stands in the query can be followed; of another, not.
    fn setting(&mut self, call: &pg_sys::FuncExpr) {
        if !is_current_setting(call.funcid) {
            return;
        }
        match nodes::<pg_sys::Node>(call.args).first().and_then(|name| constant_text(*name)) {
            Some(name) => {
                self.found.settings.insert(name);
            }
            None if self.in_policy => self.bypass(Reason::RowSecurity),
            None => self.bypass(Reason::Setting),
        }
    }

    fn value_function(&mut self, function: &pg_sys::SQLValueFunction) {
        let (kind, name) = classify::value_function(function.op);
        add(&mut self.found.value_functions, (kind, name));
        if self.in_policy && kind == Stable::Time {
            self.bypass(Reason::RowSecurity);
        }
    }
}

#[pg_guard]
extern "C-unwind" fn note_function(function: pg_sys::Oid, context: *mut c_void) -> bool {
    // SAFETY: the Walk handed to check_functions_in_node.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    walk.function(function);
    false
}

fn is_current_setting(function: pg_sys::Oid) -> bool {
    matches!(
        function.to_u32(),
        pg_sys::F_CURRENT_SETTING_TEXT | pg_sys::F_CURRENT_SETTING_TEXT_BOOL
    )
}

/// The function on which the executor checks EXECUTE when it prepares this node. Input and output
/// functions of a cast by text are not among them.
fn called_function(node: *mut pg_sys::Node, tag: NodeTag) -> Option<pg_sys::Oid> {
    let function = match tag {
        // SAFETY: the tag says what the node is.
        NodeTag::T_FuncExpr => unsafe { &*node.cast::<pg_sys::FuncExpr>() }.funcid,
        NodeTag::T_OpExpr | NodeTag::T_DistinctExpr | NodeTag::T_NullIfExpr => {
            // SAFETY: the three are one struct.
            unsafe { &*node.cast::<pg_sys::OpExpr>() }.opfuncid
        }
        NodeTag::T_ScalarArrayOpExpr => {
            // SAFETY: as above.
            unsafe { &*node.cast::<pg_sys::ScalarArrayOpExpr>() }.opfuncid
        }
        // SAFETY: as above.
        NodeTag::T_Aggref => unsafe { &*node.cast::<pg_sys::Aggref>() }.aggfnoid,
        // SAFETY: as above.
        NodeTag::T_WindowFunc => unsafe { &*node.cast::<pg_sys::WindowFunc>() }.winfnoid,
        _ => return None,
    };
    (function != pg_sys::InvalidOid).then_some(function)
}

/// The text of a constant, looking through casts that change nothing.
fn constant_text(node: *mut pg_sys::Node) -> Option<String> {
    // SAFETY: an argument of a function call is a valid node.
    let tag = unsafe { node.as_ref() }?.type_;
    match tag {
        NodeTag::T_RelabelType => {
            // SAFETY: the tag says what it is.
            constant_text(unsafe { &*node.cast::<pg_sys::RelabelType>() }.arg.cast())
        }
        NodeTag::T_Const => {
            // SAFETY: as above.
            let constant = unsafe { &*node.cast::<pg_sys::Const>() };
            let is_text = constant.consttype == pg_sys::TEXTOID && !constant.constisnull;
            is_text.then(|| super::text::owned(constant.constvalue))
        }
        _ => None,
    }
}

fn lock_clause(marks: *mut pg_sys::List) -> &'static str {
    use pg_sys::LockClauseStrength::*;
    let Some(mark) = nodes::<pg_sys::RowMarkClause>(marks).first().copied() else { return "" };
    // SAFETY: members of rowMarks are RowMarkClauses.
    match unsafe { &*mark }.strength {
        LCS_FORKEYSHARE => "FOR KEY SHARE",
        LCS_FORSHARE => "FOR SHARE",
        LCS_FORNOKEYUPDATE => "FOR NO KEY UPDATE",
        _ => "FOR UPDATE",
    }
}

/// Keeps the order in which things were met, each once.
fn add<T: PartialEq>(found: &mut Vec<T>, item: T) {
    if !found.contains(&item) {
        found.push(item);
    }
}

/// The members of a list of nodes.
pub fn nodes<T>(list: *mut pg_sys::List) -> Vec<*mut T> {
    // SAFETY: lists in a tree are NULL or valid, and nobody changes them meanwhile.
    unsafe { PgList::<T>::from_pg(list) }.iter_ptr().collect()
}

/// The highest `$n` of a raw statement: how many arguments it takes.
pub fn parameters(statement: *mut pg_sys::Node) -> usize {
    let mut highest = 0usize;
    visit_raw(statement, std::ptr::from_mut(&mut highest).cast());
    highest
}

#[pg_guard]
extern "C-unwind" fn visit_raw(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: nodes of a raw tree are NULL or valid.
    let Some(tag) = (unsafe { node.as_ref() }).map(|node| node.type_) else { return false };
    if tag == NodeTag::T_ParamRef {
        // SAFETY: the tag says what it is.
        let number = unsafe { &*node.cast::<pg_sys::ParamRef>() }.number;
        // SAFETY: the counter on the stack of `parameters`.
        let highest = unsafe { &mut *context.cast::<usize>() };
        *highest = (*highest).max(usize::try_from(number).unwrap_or(0));
    }
    // SAFETY: visits the children with this same function.
    unsafe { pg_sys::raw_expression_tree_walker(node, Some(visit_raw), context) }
}

/// The whole tree as text, oids included: the same query over the same objects gives the same text.
pub fn tree_text(queries: *mut pg_sys::List) -> Vec<u8> {
    // SAFETY: a palloc'ed C string of the tree.
    let text = unsafe { pg_sys::nodeToString(queries.cast()) };
    // SAFETY: as above.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes().to_vec();
    // SAFETY: nobody else holds it.
    unsafe { pg_sys::pfree(text.cast()) };
    bytes
}
