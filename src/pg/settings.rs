//! Every setting that can change a result or its text, read straight from guc.c's records.
//!
//! A hit must read about twenty settings; looking each up by name would cost as much as Redis. The
//! records of built-in settings are static in the server, so their addresses are found once.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int};

use pgrx::pg_sys;
use pgrx::pg_sys::config_type;

/// Names of PostgreSQL 14 to 18; one that a version does not have is left out.
///
/// Text of values: the first group. What a name, a literal or an operator means when the query is
/// analysed: the second. Rows that are seen: the third.
const NAMES: &[&CStr] = &[
    c"DateStyle",
    c"IntervalStyle",
    c"TimeZone",
    c"timezone_abbreviations",
    c"extra_float_digits",
    c"bytea_output",
    c"lc_monetary",
    c"lc_numeric",
    c"lc_time",
    c"xmlbinary",
    c"xmloption",
    c"quote_all_identifiers",
    c"search_path",
    c"default_text_search_config",
    c"array_nulls",
    c"transform_null_equals",
    c"standard_conforming_strings",
    c"backslash_quote",
    c"row_security",
    c"restrict_nonsystem_relation_kind",
    c"gin_fuzzy_search_limit",
    c"session_replication_role",
];

/// A session that goes on inventing values forgets them all now and then.
const VERSIONS_MAX: usize = 1024;

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(Known::default());
    static VARIABLES: OnceCell<Vec<Variable>> = const { OnceCell::new() };
}

/// A number that stands for the present values: the same values give the same number for as long
/// as this backend lives.
pub fn version() -> u64 {
    KNOWN.with_borrow_mut(|known| {
        if !known.still_hold() {
            known.last = values();
            if known.versions.len() >= VERSIONS_MAX {
                known.versions.clear();
            }
            let version = known.versions.entry(known.last.clone()).or_insert(known.next);
            known.next += u64::from(*version == known.next);
            known.version = *version;
        }
        known.version
    })
}

/// The present values themselves, each so that it cannot run into the next one.
pub fn values() -> Vec<u8> {
    let mut bytes = Vec::new();
    VARIABLES.with(|variables| {
        for variable in variables.get_or_init(find_variables) {
            variable.show(|value| bytes.extend_from_slice(value));
        }
    });
    bytes
}

/// Every combination that this session has used.
#[derive(Default)]
struct Known {
    versions: HashMap<Vec<u8>, u64>,
    version: u64,
    /// Never given twice: a plan that is kept under an old number must not be found by other
    /// values.
    next: u64,
    last: Vec<u8>,
}

impl Known {
    /// Compares the values where they stand: a hit does this each time, and copies nothing.
    fn still_hold(&self) -> bool {
        let mut rest = self.last.as_slice();
        let same = VARIABLES.with(|variables| {
            variables.get_or_init(find_variables).iter().all(|variable| {
                variable.show(|value| match rest.strip_prefix(value) {
                    Some(behind) => {
                        rest = behind;
                        true
                    }
                    None => false,
                })
            })
        });
        same && rest.is_empty() && !self.last.is_empty()
    }
}

/// Appends every setting with a dot in its name that was given a value: `app.tenant`, or a
/// library's own. That is what a function whose body we cannot see reads; settings of the server
/// that have nothing to do with results (timeouts, memory, application_name) would only part
/// entries.
pub fn append_custom(bytes: &mut Vec<u8>) {
    for record in all_records() {
        // SAFETY: guc.c's own record.
        let fields = unsafe { &*record };
        let name = name_of(record);
        // A library's default is the same for all, and counts as little as one not loaded yet.
        let is_set = fields.source > pg_sys::GucSource::PGC_S_DEFAULT;
        let bytes_of_name = name.to_bytes();
        if is_set && bytes_of_name.contains(&b'.') && !bytes_of_name.starts_with(b"pg_cache.") {
            bytes.extend_from_slice(name.to_bytes_with_nul());
            Variable::of(record).show(|value| bytes.extend_from_slice(value));
        }
    }
}

/// Whether only superusers may see the setting: its value must not reach others through an entry.
pub fn is_secret(name: &str) -> bool {
    let named = |record: &*mut pg_sys::config_generic| {
        name_of(*record).to_bytes().eq_ignore_ascii_case(name.as_bytes())
    };
    all_records().into_iter().find(named).is_some_and(|record| {
        // SAFETY: guc.c's own record.
        let flags = unsafe { (*record).flags };
        flags & pg_sys::GUC_SUPERUSER_ONLY as i32 != 0
    })
}

/// The value of a setting by name, as `current_setting(name, true)` has it. What is not UTF-8 is
/// written in hexadecimal: two values must never look alike.
pub fn value(name: &str) -> Option<String> {
    let name = super::text::statement(name);
    // SAFETY: a missing setting gives NULL; the result is copied before anything else runs.
    let value = unsafe { pg_sys::GetConfigOption(name.as_ptr(), true, false) };
    if value.is_null() {
        return None;
    }
    // SAFETY: guc.c's strings end with NUL.
    let bytes = unsafe { CStr::from_ptr(value) }.to_bytes();
    Some(match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect(),
    })
}

/// The names of the settings that every plan's analysis and every result's text depend on.
pub fn names() -> impl Iterator<Item = &'static CStr> {
    NAMES.iter().copied()
}

/// The value of a setting in the server's own bytes; None if there is no such setting.
pub fn bytes(name: &CStr) -> Option<CString> {
    // SAFETY: a missing setting gives NULL; the result is copied before anything else runs.
    let value = unsafe { pg_sys::GetConfigOption(name.as_ptr(), true, false) };
    // SAFETY: guc.c's strings end with NUL.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) }.to_owned())
}

fn name_of<'a>(record: *mut pg_sys::config_generic) -> &'a CStr {
    // SAFETY: guc.c's own record.
    let name = unsafe { (*record).name };
    // SAFETY: names end with NUL and live as long as their record.
    unsafe { CStr::from_ptr(name) }
}

fn find_variables() -> Vec<Variable> {
    let all = all_records();
    let named = |wanted: &&CStr| {
        all.iter()
            .copied()
            .find(|record| name_of(*record).to_bytes().eq_ignore_ascii_case(wanted.to_bytes()))
    };
    NAMES.iter().filter_map(named).map(Variable::of).collect()
}

#[cfg(any(feature = "pg14", feature = "pg15"))]
fn all_records() -> Vec<*mut pg_sys::config_generic> {
    // SAFETY: the array has as many members as the next call says.
    let records = unsafe { pg_sys::get_guc_variables() };
    // SAFETY: a plain count.
    let count = usize::try_from(unsafe { pg_sys::GetNumConfigOptions() }).unwrap_or(0);
    // SAFETY: the array stays until the next custom setting is defined, and is copied here.
    unsafe { std::slice::from_raw_parts(records, count) }.to_vec()
}

#[cfg(not(any(feature = "pg14", feature = "pg15")))]
fn all_records() -> Vec<*mut pg_sys::config_generic> {
    let mut count = 0;
    // SAFETY: gives a palloc'ed array of that many members.
    let records = unsafe { pg_sys::get_guc_variables(&raw mut count) };
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: as above; copied here.
    unsafe { std::slice::from_raw_parts(records, count) }.to_vec()
}

/// Where a setting's value stands: a live variable of that type.
#[derive(Clone, Copy)]
enum Variable {
    Bool(*const bool),
    /// An enum too.
    Int(*const c_int),
    Real(*const f64),
    /// It may be NULL.
    Text(*const *mut c_char),
}

impl Variable {
    #[allow(clippy::multiple_unsafe_ops_per_block)]
    fn of(record: *mut pg_sys::config_generic) -> Self {
        // SAFETY: `vartype` tells which struct the record is the head of.
        unsafe {
            match (*record).vartype {
                config_type::PGC_BOOL => {
                    Self::Bool((*record.cast::<pg_sys::config_bool>()).variable)
                }
                config_type::PGC_INT => Self::Int((*record.cast::<pg_sys::config_int>()).variable),
                config_type::PGC_REAL => {
                    Self::Real((*record.cast::<pg_sys::config_real>()).variable)
                }
                config_type::PGC_ENUM => {
                    Self::Int((*record.cast::<pg_sys::config_enum>()).variable)
                }
                _ => Self::Text((*record.cast::<pg_sys::config_string>()).variable),
            }
        }
    }

    /// Shows its bytes: numbers as they are, texts with the NUL that no text holds.
    #[inline]
    fn show<T>(self, show: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            // SAFETY: live, and of this type.
            Self::Bool(place) => show(&[u8::from(unsafe { *place })]),
            // SAFETY: as above.
            Self::Int(place) => show(&unsafe { *place }.to_le_bytes()),
            // SAFETY: as above.
            Self::Real(place) => show(&unsafe { *place }.to_le_bytes()),
            Self::Text(place) => {
                // SAFETY: as above.
                let text = unsafe { *place };
                if text.is_null() {
                    return show(&[0]);
                }
                // SAFETY: guc.c's strings end with NUL.
                show(unsafe { CStr::from_ptr(text) }.to_bytes_with_nul())
            }
        }
    }
}
