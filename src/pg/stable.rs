//! The built-in STABLE functions, by what their results hang on besides their arguments.
//!
//! Owns the list of those that may be shared between sessions and roles. Invariant: a function that
//! stands in no list is taken for one that reads catalogs, and its query is not kept. If a function
//! stood in the wrong list, one role could be served what another's privileges or session gave.

/// What a STABLE function's result hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stable {
    /// The clock of the transaction: the entry is as old as its ttl allows.
    Time,
    /// Who asks.
    Role,
    /// This very connection: sharing it would be wrong.
    Session,
    /// `current_setting`, or settings that every fingerprint holds.
    Setting,
    /// Catalogs, privileges or the effective search path.
    Catalog,
    /// A body that we cannot see.
    Opaque,
}

impl Stable {
    pub fn as_str(self) -> &'static str {
        match self {
            Stable::Time => "time",
            Stable::Role => "role",
            Stable::Session => "session",
            Stable::Setting => "setting",
            Stable::Catalog => "catalog",
            Stable::Opaque => "opaque",
        }
    }
}

const TIME: &[&str] = &["now", "transaction_timestamp", "statement_timestamp", "age"];

const ROLE: &[&str] = &["current_user", "session_user", "getpgusername"];

const SESSION: &[&str] = &[
    "current_query",
    "current_schema",
    "current_schemas",
    "pg_backend_pid",
    "pg_blocking_pids",
    "pg_client_encoding",
    "pg_conf_load_time",
    "pg_current_snapshot",
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "pg_cursor",
    "pg_is_other_temp_schema",
    "pg_listening_channels",
    "pg_my_temp_schema",
    "pg_postmaster_start_time",
    "pg_prepared_statement",
    "pg_show_all_settings",
    "pg_trigger_depth",
    "system_user",
    "txid_current",
    "txid_current_if_assigned",
    "txid_current_snapshot",
];

const SESSION_PREFIXES: &[&str] = &["pg_stat_get_", "inet_client_", "inet_server_"];

/// Their results hang on arguments and on settings that every fingerprint holds. Those that take
/// any type run its output function or its cast to json, which is looked at with the type.
const SETTING: &[&str] = &[
    "anytextcat",
    "cash_in",
    "cash_out",
    "concat",
    "concat_ws",
    "convert",
    "convert_from",
    "convert_to",
    "current_database",
    "current_setting",
    "extract",
    "format",
    "generate_series",
    "get_current_ts_config",
    "getdatabaseencoding",
    "in_range",
    "length",
    "make_timestamptz",
    "money",
    "numeric",
    "overlaps",
    "pg_column_compression",
    "pg_column_size",
    "phraseto_tsquery",
    "plainto_tsquery",
    "quote_literal",
    "quote_nullable",
    "regconfigin",
    "regdictionaryin",
    "row_to_json",
    "textanycat",
    "to_char",
    "to_date",
    "to_json",
    "to_jsonb",
    "to_number",
    "to_timestamp",
    "to_tsquery",
    "to_tsvector",
    "ts_headline",
    "ts_match_tq",
    "ts_match_tt",
    "version",
    "websearch_to_tsquery",
    "xml",
    "xml_in",
    "xml_is_well_formed",
];

const SETTING_PREFIXES: &[&str] = &[
    "anyarray_",
    "anycompatible",
    "anyenum_",
    "anymultirange_",
    "anyrange_",
    "array_",
    "date",
    "domain_",
    "enum_",
    "interval_",
    "json_",
    "jsonb_",
    "multirange_",
    "range_",
    "record_",
    "time",
];

/// They make values of text when they run, and text may say 'now' or 'today'.
const READS_TEXT: &[&str] = &[
    "array_in",
    "date_in",
    "domain_in",
    "json_populate_record",
    "json_populate_recordset",
    "json_to_record",
    "json_to_recordset",
    "jsonb_populate_record",
    "jsonb_populate_recordset",
    "jsonb_to_record",
    "jsonb_to_recordset",
    "multirange_in",
    "range_in",
    "record_in",
    "time_in",
    "timestamp_in",
    "timestamptz_in",
    "timetz_in",
];

/// They tell how a value is stored, which changes without a change of the value.
const PHYSICAL: &[&str] = &["pg_column_compression", "pg_column_size", "pg_column_toast_chunk_id"];

/// Why a result may change although neither rows nor settings do, other than by its kind.
pub fn inexact(name: &str) -> Option<&'static str> {
    if READS_TEXT.contains(&name) {
        Some("reads text, which may say 'now'")
    } else {
        PHYSICAL.contains(&name).then_some("tells how values are stored")
    }
}

/// The kind of a built-in STABLE function of this name.
pub fn built_in(name: &str) -> Stable {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if TIME.contains(&name) {
        Stable::Time
    } else if ROLE.contains(&name) {
        Stable::Role
    } else if SESSION.contains(&name) || begins(SESSION_PREFIXES) {
        Stable::Session
    } else if SETTING.contains(&name) || (begins(SETTING_PREFIXES) && !name.contains("database")) {
        Stable::Setting
    } else {
        Stable::Catalog
    }
}
