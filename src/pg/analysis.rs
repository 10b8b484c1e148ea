//! What a query is made of, read off its analysed and rewritten tree before anything runs.
//!
//! Owns the rules of what may be cached. The tree is PostgreSQL's own (views expanded, row security
//! added), so nothing is guessed from the text; what runs without standing in it is looked up. If a
//! rule here is wrong, somebody is served rows that the query would not have given.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{CStr, c_void};

use pg_cache_core::error::Error;
use pg_cache_core::reason::Reason;
use pgrx::pg_sys::{self, NodeTag};

use super::classify;
use super::error::Outcome;
use super::implicit;
use super::pins;
use super::settings;
use super::stable::Stable;
use super::temporary;
use super::tree::{self, Met};

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
    /// Types of its values that are not built in, or are made of such.
    pub types: Vec<pg_sys::Oid>,
    /// `CURRENT_TIMESTAMP`, `CURRENT_USER` and their like.
    pub value_functions: Vec<(Stable, &'static str)>,
    /// A row security policy applies to the caller.
    pub row_secured: bool,
    /// A foreign table is scanned with the user mapping of whoever asks.
    pub foreign: bool,
    /// Names of the user's own that `redis_depends` says it hangs on.
    pub names: Vec<Name>,
    /// Range tables whose privileges the executor would check.
    pub checked: Vec<Checked>,
}

/// The argument of `redis_depends`.
pub enum Name {
    Constant(String),
    /// The place of an argument of the query.
    Argument(usize),
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

    /// Whether the rows may show to whom the session belongs, besides who asks.
    pub fn reads_session_role(&self) -> bool {
        let shows = |name: &str| matches!(name, "session_authorization" | "role" | "is_superuser");
        self.stable.iter().any(|(kind, _)| matches!(kind, Stable::Role | Stable::Opaque))
            || self.value_functions.iter().any(|(_, name)| *name == "session_user")
            || self.settings.iter().any(|name| shows(&name.to_ascii_lowercase()))
    }

    /// Whether the rows hang on who asks, other than by privileges.
    pub fn reads_role(&self) -> bool {
        let is_role = |kind: Stable| kind == Stable::Role;
        self.foreign
            || self.stable.iter().any(|(kind, _)| is_role(*kind))
            || self.value_functions.iter().any(|(kind, _)| is_role(*kind))
    }
}

/// Looks at one rewritten query, which returns columns of these types.
pub fn analyse(query: *mut pg_sys::Query, columns: &[pg_sys::Oid]) -> Outcome<Analysis> {
    let met = tree::collect(query.cast(), false)?;
    let mut rules = Rules { found: Analysis::default(), ahead: met.into(), seen: Vec::new() };
    while let Some(met) = rules.ahead.pop_front() {
        rules.look_at(met)?;
    }
    for column in columns {
        rules.value_of(*column, NodeTag::T_Var, false);
    }
    Ok(rules.found)
}

struct Rules {
    found: Analysis,
    ahead: VecDeque<Met>,
    /// Types that were looked at.
    seen: Vec<pg_sys::Oid>,
}

impl Rules {
    fn refuse(&mut self, error: Error) {
        self.found.refusal.get_or_insert(error);
    }

    fn bypass(&mut self, reason: Reason) {
        self.found.obstacle.get_or_insert(reason);
    }

    fn look_at(&mut self, met: Met) -> Outcome<()> {
        match met.tag {
            // SAFETY: the tag says what it is.
            NodeTag::T_Query => self.query(unsafe { &*met.node.cast() }),
            // SAFETY: as above.
            NodeTag::T_RangeTblEntry => self.entry(unsafe { &*met.node.cast() }),
            _ => self.expression(met)?,
        }
        Ok(())
    }

    fn query(&mut self, query: &pg_sys::Query) {
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
    }

    fn entry(&mut self, entry: &pg_sys::RangeTblEntry) {
        self.found.row_secured |= !entry.securityQuals.is_null();
        if entry.rtekind == pg_sys::RTEKind::RTE_RELATION && !classify::is_view(entry.relid) {
            self.relation(entry.relid, entry.inh);
        }
    }

    fn relation(&mut self, relation: pg_sys::Oid, with_children: bool) {
        add(&mut self.found.relations, relation);
        if classify::is_catalog(relation) {
            self.bypass(Reason::SystemCatalog);
        } else if classify::is_temporary(relation) {
            self.bypass(Reason::TempTable);
        }
        self.found.foreign |= classify::is_foreign(relation);
        let children = if with_children { classify::children(relation) } else { Vec::new() };
        for child in children {
            self.found.foreign |= classify::is_foreign(child);
            if classify::is_own_temporary(child) {
                self.bypass(Reason::TempTable);
            }
        }
    }

    fn expression(&mut self, met: Met) -> Outcome<()> {
        let Met { node, tag, in_policy } = met;
        if let Some(function) = called_function(node, tag) {
            add(&mut self.found.called, function);
        }
        if let Some(type_oid) = type_of(node, tag) {
            self.value_of(type_oid, tag, in_policy);
        }
        match tag {
            NodeTag::T_FuncExpr => {
                // SAFETY: the tag says what it is.
                let call = unsafe { &*node.cast::<pg_sys::FuncExpr>() };
                if classify::is_depends(call.funcid) {
                    self.name(call);
                    return Ok(());
                }
                self.setting(call, in_policy);
                if let Some(defaults) = implicit::defaults_of(call) {
                    self.ahead.extend(tree::collect(defaults, in_policy)?);
                }
            }
            NodeTag::T_Aggref => {
                // SAFETY: as above.
                self.aggregate(unsafe { &*node.cast::<pg_sys::Aggref>() }.aggfnoid, in_policy);
            }
            NodeTag::T_WindowFunc => {
                // SAFETY: as above.
                self.aggregate(unsafe { &*node.cast::<pg_sys::WindowFunc>() }.winfnoid, in_policy);
            }
            NodeTag::T_RangeTblFunction => {
                // SAFETY: as above.
                let function = unsafe { &*node.cast::<pg_sys::RangeTblFunction>() };
                self.values_of(function.funccoltypes, in_policy);
            }
            NodeTag::T_TableFunc => {
                // SAFETY: as above.
                self.values_of(unsafe { &*node.cast::<pg_sys::TableFunc>() }.coltypes, in_policy);
            }
            NodeTag::T_SortGroupClause => {
                // SAFETY: as above.
                let clause = unsafe { &*node.cast::<pg_sys::SortGroupClause>() };
                for function in implicit::functions_of_sort(clause) {
                    self.function(function, in_policy);
                }
            }
            // SAFETY: as above.
            NodeTag::T_SQLValueFunction => self.value_function(unsafe { &*node.cast() }, in_policy),
            NodeTag::T_NextValueExpr => self.volatile("nextval".to_owned(), in_policy),
            // SAFETY: as above.
            NodeTag::T_TableSampleClause => self.sample(unsafe { &*node.cast() }, in_policy),
            _ => {}
        }
        for function in functions_in(node) {
            self.function(function, in_policy);
        }
        Ok(())
    }

    /// Without REPEATABLE, every scan takes another sample.
    fn sample(&mut self, sample: &pg_sys::TableSampleClause, in_policy: bool) {
        if sample.repeatable.is_null() {
            match in_policy {
                true => self.bypass(Reason::RowSecurity),
                false => self.refuse(Error::Sample),
            }
        }
    }

    fn aggregate(&mut self, aggregate: pg_sys::Oid, in_policy: bool) {
        for part in implicit::parts_of_aggregate(aggregate) {
            self.function(part, in_policy);
        }
    }

    /// The columns of a function in FROM, which no expression need name one by one.
    fn values_of(&mut self, types: *mut pg_sys::List, in_policy: bool) {
        for type_oid in tree::oids(types) {
            self.value_of(type_oid, NodeTag::T_Var, in_policy);
        }
    }

    /// A value of this type may be written as text or JSON. What writes a user's type is code, and
    /// what writes an oid as a name reads the catalogs by the effective search path.
    fn value_of(&mut self, type_oid: pg_sys::Oid, tag: NodeTag, in_policy: bool) {
        if classify::is_name_of_object(type_oid) {
            let configuration = matches!(type_oid, pg_sys::REGCONFIGOID | pg_sys::REGDICTIONARYOID);
            if !(configuration && tag == NodeTag::T_Const) {
                self.bypass(Reason::SystemCatalog);
            }
            return;
        }
        if self.seen.contains(&type_oid) {
            return;
        }
        self.seen.push(type_oid);
        if !classify::is_built_in(type_oid) {
            add(&mut self.found.types, type_oid);
        }
        for function in implicit::functions_of_type(type_oid) {
            if !classify::is_built_in(function) {
                self.function(function, in_policy);
            }
        }
        for part in classify::parts_of_type(type_oid) {
            self.value_of(part, NodeTag::T_Var, in_policy);
        }
    }

    fn function(&mut self, function: pg_sys::Oid, in_policy: bool) {
        if classify::is_ours(function) {
            self.refuse(Error::Nested);
        } else if classify::is_volatile(function) {
            self.volatile(classify::function_signature(function), in_policy);
        } else if classify::is_stable(function) {
            self.stable(function, in_policy);
        }
    }

    fn stable(&mut self, function: pg_sys::Oid, in_policy: bool) {
        let kind = classify::stable(function);
        add(&mut self.found.stable, (kind, function));
        match kind {
            _ if in_policy && !is_current_setting(function) => self.bypass(Reason::RowSecurity),
            Stable::Session => self.bypass(Reason::SessionFunction),
            Stable::Catalog => self.bypass(Reason::SystemCatalog),
            // It may read the session's own temporary tables.
            Stable::Opaque if temporary::has_objects() => self.bypass(Reason::TempTable),
            _ => {}
        }
    }

    fn volatile(&mut self, name: String, in_policy: bool) {
        if in_policy {
            self.bypass(Reason::RowSecurity);
        } else {
            self.refuse(Error::VolatileFunction { name });
        }
    }

    /// `current_setting` of a name that stands in the query can be followed; of another, not.
    fn setting(&mut self, call: &pg_sys::FuncExpr, in_policy: bool) {
        if !is_current_setting(call.funcid) {
            return;
        }
        match tree::nodes::<pg_sys::Node>(call.args).first().and_then(|name| constant_text(*name)) {
            Some(name) if settings::is_secret(&name) => self.bypass(Reason::Setting),
            Some(name) => {
                self.found.settings.insert(name);
            }
            None if in_policy => self.bypass(Reason::RowSecurity),
            None => self.bypass(Reason::Setting),
        }
    }

    /// What is not known before the query runs cannot be depended on.
    fn name(&mut self, call: &pg_sys::FuncExpr) {
        let argument =
            tree::nodes::<pg_sys::Node>(call.args).first().map(|node| pins::plain(*node));
        match argument {
            Some(node) if is_null(node) => {}
            // SAFETY: an argument of a function call is a valid node.
            Some(node) if unsafe { (*node).type_ } == NodeTag::T_Param => {
                match pins::parameter(node) {
                    Some(index) => self.found.names.push(Name::Argument(index)),
                    None => self.refuse(Error::DependsArgument),
                }
            }
            node => match node.and_then(constant_text) {
                Some(name) => self.found.names.push(Name::Constant(name)),
                None => self.refuse(Error::DependsArgument),
            },
        }
    }

    fn value_function(&mut self, function: &pg_sys::SQLValueFunction, in_policy: bool) {
        let (kind, name) = classify::value_function(function.op);
        add(&mut self.found.value_functions, (kind, name));
        match kind {
            Stable::Session => self.bypass(Reason::SessionFunction),
            Stable::Time if in_policy => self.bypass(Reason::RowSecurity),
            _ => {}
        }
    }
}

/// The functions that PostgreSQL runs for this node itself, not for its children.
fn functions_in(node: *mut pg_sys::Node) -> Vec<pg_sys::Oid> {
    let mut found = Vec::new();
    let context = std::ptr::from_mut(&mut found).cast();
    // SAFETY: calls back once for each function of the node; the context is the list.
    unsafe { pg_sys::check_functions_in_node(node, Some(note_function), context) };
    found
}

unsafe extern "C-unwind" fn note_function(function: pg_sys::Oid, context: *mut c_void) -> bool {
    // SAFETY: the list of `functions_in`.
    unsafe { &mut *context.cast::<Vec<pg_sys::Oid>>() }.push(function);
    false
}

/// The type of the values that a node brings in. Nodes that only pass values on need no look.
fn type_of(node: *mut pg_sys::Node, tag: NodeTag) -> Option<pg_sys::Oid> {
    macro_rules! field {
        ($node:ident, $field:ident) => {
            // SAFETY: the tag says what it is.
            Some(unsafe { &*node.cast::<pg_sys::$node>() }.$field)
        };
    }
    match tag {
        NodeTag::T_Var => field!(Var, vartype),
        NodeTag::T_Const => field!(Const, consttype),
        NodeTag::T_Param => field!(Param, paramtype),
        NodeTag::T_FuncExpr => field!(FuncExpr, funcresulttype),
        NodeTag::T_OpExpr => field!(OpExpr, opresulttype),
        NodeTag::T_Aggref => field!(Aggref, aggtype),
        NodeTag::T_WindowFunc => field!(WindowFunc, wintype),
        NodeTag::T_SubscriptingRef => field!(SubscriptingRef, refrestype),
        NodeTag::T_FieldSelect => field!(FieldSelect, resulttype),
        NodeTag::T_RelabelType => field!(RelabelType, resulttype),
        NodeTag::T_CoerceViaIO => field!(CoerceViaIO, resulttype),
        NodeTag::T_ArrayCoerceExpr => field!(ArrayCoerceExpr, resulttype),
        NodeTag::T_ConvertRowtypeExpr => field!(ConvertRowtypeExpr, resulttype),
        NodeTag::T_RowExpr => field!(RowExpr, row_typeid),
        NodeTag::T_CoerceToDomain => field!(CoerceToDomain, resulttype),
        _ => None,
    }
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
            let texts = [pg_sys::TEXTOID, pg_sys::VARCHAROID];
            let is_text = texts.contains(&constant.consttype) && !constant.constisnull;
            is_text.then(|| super::text::owned(constant.constvalue))
        }
        _ => None,
    }
}

fn is_null(node: *mut pg_sys::Node) -> bool {
    // SAFETY: a valid node.
    if unsafe { (*node).type_ } != NodeTag::T_Const {
        return false;
    }
    // SAFETY: the tag says what it is.
    unsafe { (*node.cast::<pg_sys::Const>()).constisnull }
}

fn lock_clause(marks: *mut pg_sys::List) -> &'static str {
    use pg_sys::LockClauseStrength::*;
    let Some(mark) = tree::nodes::<pg_sys::RowMarkClause>(marks).first().copied() else {
        return "";
    };
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
