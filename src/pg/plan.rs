//! Prepared queries, kept per backend: analysed once, checked on every call.
//!
//! A plan is found by everything that its analysis depends on (text, argument types, role,
//! settings) and thrown away as soon as PostgreSQL says that one of its objects changed. If that
//! failed, a hit would be judged by yesterday's schema, policies or privileges.

use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::rc::Rc;

use lru::LruCache;
use pg_cache_core::clock;
use pg_cache_core::error::Error;
use pg_cache_core::fingerprint::FingerprintBuilder;
use pg_cache_core::tag::Tags;
use pgrx::pg_sys::{self, NodeTag};

use super::analysis::{self, Analysis};
use super::arguments::{self, Argument, Bound};
use super::dependencies::Dependencies;
use super::error::Outcome;
use super::execute::{self, Json, in_spi};
use super::{guc, identity as origin, inference, privileges, settings, shape, surroundings, tree};

/// A prepared and analysed query.
pub struct Plan {
    kept: Kept,
    source: *mut pg_sys::CachedPlanSource,
    surroundings_seen: u64,
    settings_seen: u64,
    /// The text may hold a literal such as 'today', which analysis froze: good for this call only.
    froze_clock: bool,
    /// The role of this plan may read all of it.
    permitted: Cell<bool>,
    pub analysis: Analysis,
    pub dependencies: Dependencies,
    pub types: Vec<pg_sys::Oid>,
    pub columns: Vec<Column>,
    identity: FingerprintBuilder,
    /// The fingerprint of a call that brings nothing of its own.
    pub fixed_fingerprint: [u8; 16],
}

/// A column of the result.
pub struct Column {
    pub name: String,
    pub type_oid: pg_sys::Oid,
    pub type_modifier: i32,
}

/// All that the analysis depends on, as bytes: compared whole, so that no two queries can meet.
type PlanKey = Vec<u8>;

type Plans = LruCache<PlanKey, Rc<Plan>>;

thread_local! {
    /// Never dropped: at exit PostgreSQL is gone before the thread's destructors run.
    static PLANS: ManuallyDrop<RefCell<Option<Plans>>> =
        const { ManuallyDrop::new(RefCell::new(None)) };
    /// The key of the call at hand: one buffer for all.
    static KEY: RefCell<PlanKey> = const { RefCell::new(Vec::new()) };
}

/// The plan for this query, kept or made.
pub fn get(query: &[u8], given: &[Argument]) -> Outcome<Rc<Plan>> {
    let seen = surroundings::catch_up();
    let kept = KEY.with_borrow_mut(|key| {
        write_key(key, query, given);
        with_plans(|plans| plans.get(key).cloned())
    });
    match kept {
        Some(plan) if plan.is_valid() => Ok(plan),
        _ => prepared(query, given, seen),
    }
}

fn prepared(query: &[u8], given: &[Argument], seen: u64) -> Outcome<Rc<Plan>> {
    let mut key = Vec::new();
    write_key(&mut key, query, given);
    with_plans(|plans| plans.pop(&key));
    super::host::fault_point("plan.prepare");
    // A text holds no NUL, so nothing can be cut off here.
    let query = CString::new(query).unwrap_or_default();
    let plan = Rc::new(Plan::prepare(&query, given, seen)?);
    if plan.froze_clock {
        return Ok(plan);
    }
    with_plans(|plans| {
        let limit = NonZeroUsize::new(guc::plans_max()).unwrap_or(NonZeroUsize::MIN);
        if plans.cap() != limit {
            plans.resize(limit);
        }
        plans.push(key, plan.clone())
    });
    Ok(plan)
}

/// How many plans this backend keeps.
pub fn kept() -> usize {
    with_plans(|plans| plans.len())
}

fn with_plans<T>(work: impl FnOnce(&mut Plans) -> T) -> T {
    PLANS.with(|plans| {
        let mut plans = plans.borrow_mut();
        work(plans.get_or_insert_with(|| LruCache::new(NonZeroUsize::MIN)))
    })
}

fn write_key(key: &mut Vec<u8>, query: &[u8], given: &[Argument]) {
    key.clear();
    let (user, _) = origin::roles();
    key.extend_from_slice(&settings::version().to_le_bytes());
    key.extend_from_slice(&user.to_u32().to_le_bytes());
    key.extend_from_slice(&given.len().to_le_bytes());
    for argument in given {
        key.extend_from_slice(&argument.type_oid.to_u32().to_le_bytes());
    }
    key.extend_from_slice(query);
}

unsafe extern "C-unwind" {
    // Without pgrx's guard, so that `catch` keeps the user's error whole.
    fn SPI_prepare_cursor(
        query: *const c_char,
        count: c_int,
        types: *mut pg_sys::Oid,
        options: c_int,
    ) -> pg_sys::SPIPlanPtr;
    fn SPI_keepplan(plan: pg_sys::SPIPlanPtr) -> c_int;
}

impl Plan {
    fn prepare(query: &CString, given: &[Argument], seen: u64) -> Outcome<Self> {
        let mut types = inference::parameter_types(query, given)?;
        let text = query.as_ptr();
        let (count, oids) = (c_int::try_from(types.len()).unwrap_or(0), types.as_mut_ptr());
        let options = pg_sys::CURSOR_OPT_PARALLEL_OK as c_int;
        let prepare = || {
            // SAFETY: the text and the types outlive the call.
            let plan = unsafe { SPI_prepare_cursor(text, count, oids, options) };
            if !plan.is_null() {
                // SAFETY: moves the plan out of SPI's memory, which goes with SPI_finish.
                unsafe { SPI_keepplan(plan) };
            }
            plan
        };
        // SAFETY: C calls over plain pointers; an error ends the statement.
        let spi = unsafe { in_spi(prepare) }?;
        if spi.is_null() {
            pgrx::error!("SPI_prepare_cursor failed");
        }
        let kept = Kept { spi, tree_lives: Box::new(Cell::new(true)) };
        let source = single_select(spi, given.len())?;
        Self::analysed(kept, source, query, types, seen)
    }

    fn analysed(
        kept: Kept,
        source: *mut pg_sys::CachedPlanSource,
        query: &CString,
        types: Vec<pg_sys::Oid>,
        surroundings_seen: u64,
    ) -> Outcome<Self> {
        // SAFETY: the source of a kept plan.
        let source_ref = unsafe { &*source };
        watch_tree(source_ref.query_context, &kept.tree_lives);
        super::host::fault_point("plan.analyse");
        let columns = columns(source_ref.resultDesc);
        let query_tree = tree::nodes::<pg_sys::Query>(source_ref.query_list);
        let (analysis, dependencies) = match query_tree.first() {
            Some(tree) => {
                let types: Vec<_> = columns.iter().map(|column| column.type_oid).collect();
                let analysis = analysis::analyse(*tree, &types)?;
                let dependencies = Dependencies::of(*tree, &analysis)?;
                (analysis, dependencies)
            }
            None => Default::default(),
        };
        let identity = identity(source_ref, query, &analysis, &columns);
        let fixed_fingerprint = identity.clone().finish();
        Ok(Self {
            kept,
            source,
            surroundings_seen,
            settings_seen: settings::version(),
            froze_clock: clock::may_freeze(&super::text::string(query.as_bytes())),
            permitted: Cell::new(false),
            analysis,
            dependencies,
            types,
            columns,
            identity,
            fixed_fingerprint,
        })
    }

    /// Whether the analysis still describes the query as it would be analysed now.
    pub fn is_current(&self) -> bool {
        self.settings_seen == settings::version() && self.is_valid()
    }

    /// The same, for a plan that was found by the present settings.
    fn is_valid(&self) -> bool {
        // SAFETY: the source lives as long as the plan.
        let source = unsafe { &*self.source };
        self.kept.tree_lives.get()
            && source.is_valid
            && self.surroundings_seen == surroundings::seen()
            && search_path_matches(source)
    }

    /// Whether the query still means what it meant when this plan was made. Plans become invalid
    /// and surroundings change all the time, by anybody's temporary table: so the query is analysed
    /// again and compared, or a slow one would never be stored.
    pub fn means_the_same(&self, query: &[u8], given: &[Argument]) -> Outcome<bool> {
        surroundings::catch_up();
        if self.is_current() {
            return Ok(true);
        }
        Ok(get(query, given)?.fixed_fingerprint == self.fixed_fingerprint)
    }

    pub fn bind(&self, given: &[Argument]) -> Outcome<Vec<Bound>> {
        arguments::bind(given, &self.types)
    }

    pub fn run(&self, bound: &[Bound]) -> Outcome<Json> {
        execute::run(self.kept.spi, arguments::parameter_list(bound))
    }

    /// Raises if the caller may not read what the query reads; false if a function is not for him.
    ///
    /// The answer holds as long as the plan is current: a plan belongs to one role, and every
    /// GRANT, REVOKE, change of owner, role or membership reaches this backend as an invalidation
    /// of the plan or a change of its surroundings, by the same messages on which PostgreSQL's own
    /// checks rely. A hook may ask the world, so with one it is asked every time.
    ///
    /// A plan whose tree is gone has nothing to check by: the caller computes.
    pub fn may_read(&self) -> Outcome<bool> {
        if !self.kept.tree_lives.get() {
            return Ok(false);
        }
        if self.permitted.get() && !privileges::have_hook() {
            return Ok(true);
        }
        privileges::check_relations(&self.analysis)?;
        let permitted = privileges::may_execute(&self.analysis);
        self.permitted.set(permitted);
        Ok(permitted)
    }

    /// Appends the tags of what the rows depend on, beside the schema.
    pub fn append_tags(&self, bound: &[Bound], tags: &mut Tags) {
        self.dependencies.tags(bound, tags);
    }

    /// Whether a hit is what the query would return now: all that it hangs on is tracked.
    pub fn is_exact(&self) -> bool {
        self.dependencies.exact()
    }

    /// The part of the fingerprint that is the same for every call of this plan.
    pub fn identity(&self) -> FingerprintBuilder {
        self.identity.clone()
    }
}

/// An SPI plan that outlives SPI's memory, and whether the tree that was analysed still lives:
/// PostgreSQL clears that when it frees the tree, so it must not be gone before the plan is.
struct Kept {
    spi: pg_sys::SPIPlanPtr,
    tree_lives: Box<Cell<bool>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: the plan is ours alone; PostgreSQL frees it when nobody executes it any more.
        // The fields, and with them the flag that PostgreSQL clears now, are dropped after this.
        unsafe { pg_sys::SPI_freeplan(self.spi) };
    }
}

/// The source of a plan that is one SELECT, VALUES or WITH … SELECT, and takes as many arguments as
/// are given: one too many is a mistake that nothing else would tell.
fn single_select(spi: pg_sys::SPIPlanPtr, given: usize) -> Outcome<*mut pg_sys::CachedPlanSource> {
    // SAFETY: the list belongs to the plan.
    let sources = unsafe { pg_sys::SPI_plan_get_plan_sources(spi) };
    let sources = tree::nodes::<pg_sys::CachedPlanSource>(sources);
    let [source] = sources[..] else {
        return Err(Error::NotOneStatement { count: sources.len() }.into());
    };
    // SAFETY: a member of the list.
    let source_ref = unsafe { &*source };
    // SAFETY: an analysed statement has its raw parse tree.
    let statement = unsafe { (*source_ref.raw_parse_tree).stmt };
    // SAFETY: a static name.
    let command = unsafe { pg_sys::GetCommandTagName(source_ref.commandTag) };
    let command = super::text::c_string(command);
    // SAFETY: a raw statement is a valid node.
    if unsafe { (*statement).type_ } != NodeTag::T_SelectStmt {
        return Err(Error::NotSelect { command }.into());
    }
    // SAFETY: the tag says what it is.
    if !unsafe { (*statement.cast::<pg_sys::SelectStmt>()).intoClause.is_null() } {
        return Err(Error::NotSelect { command: "SELECT INTO".to_owned() }.into());
    }
    let wanted = tree::parameters(statement)?;
    if given > wanted {
        return Err(Error::ArgumentCount { given, wanted }.into());
    }
    Ok(source)
}

/// Learns when PostgreSQL frees the analysed tree, as it does when it analyses again.
fn watch_tree(context: pg_sys::MemoryContext, tree_lives: &Cell<bool>) {
    let bytes = std::mem::size_of::<pg_sys::MemoryContextCallback>();
    // SAFETY: lives in the context whose end it tells.
    let callback = unsafe { pg_sys::MemoryContextAllocZero(context, bytes) };
    let callback = callback.cast::<pg_sys::MemoryContextCallback>();
    // SAFETY: just allocated, zeroed.
    let fields = unsafe { &mut *callback };
    fields.func = Some(tree_freed);
    fields.arg = std::ptr::from_ref(tree_lives).cast_mut().cast();
    // SAFETY: the cell outlives the context: a Plan frees its SPI plan before its fields.
    unsafe { pg_sys::MemoryContextRegisterResetCallback(context, callback) };
}

unsafe extern "C-unwind" fn tree_freed(argument: *mut c_void) {
    // SAFETY: the cell handed over in `watch_tree`.
    unsafe { &*argument.cast::<Cell<bool>>() }.set(false);
}

#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
fn search_path_matches(source: &pg_sys::CachedPlanSource) -> bool {
    // SAFETY: the path under which the query was analysed.
    source.search_path.is_null()
        || unsafe { pg_sys::OverrideSearchPathMatchesCurrent(source.search_path) }
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn search_path_matches(source: &pg_sys::CachedPlanSource) -> bool {
    // SAFETY: the path under which the query was analysed.
    source.search_path.is_null()
        || unsafe { pg_sys::SearchPathMatchesCurrentEnvironment(source.search_path) }
}

fn columns(description: pg_sys::TupleDesc) -> Vec<Column> {
    if description.is_null() {
        return Vec::new();
    }
    // SAFETY: the result description of a kept plan; the copy is dropped before the plan can
    // change.
    let description = unsafe { pgrx::PgTupleDesc::from_pg_unchecked(description) };
    let column = |attribute: &pg_sys::FormData_pg_attribute| Column {
        name: super::text::name(&attribute.attname),
        type_oid: attribute.atttypid,
        type_modifier: attribute.atttypmod,
    };
    let columns = description.iter().map(column).collect();
    std::mem::forget(description);
    columns
}

/// What a plan is: everything that its rows hang on but for arguments and the caller's state.
fn identity(
    source: &pg_sys::CachedPlanSource,
    query: &CString,
    analysis: &Analysis,
    columns: &[Column],
) -> FingerprintBuilder {
    let mut builder = FingerprintBuilder::new();
    origin::add_origin(&mut builder);
    builder.bytes("settings", &settings::values());
    builder.bytes("query", query.as_bytes());
    builder.bytes("tree", &analysis::tree_text(source.query_list));
    let stable = analysis.stable.iter().map(|(_, function)| function);
    for function in analysis.called.iter().chain(stable) {
        shape::add_function(&mut builder, *function);
    }
    for type_oid in &analysis.types {
        shape::add_type(&mut builder, *type_oid);
    }
    for column in columns {
        builder.text("column", &column.name);
        builder.bytes("modifier", &column.type_modifier.to_le_bytes());
        shape::add_type(&mut builder, column.type_oid);
    }
    builder
}
