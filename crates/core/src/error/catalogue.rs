//! Owns the published list of errors and reasons, the source of `docs/errors.md`.
//!
//! Invariant: every variant of `Error` and every `Reason` stands in it. Without it, people would
//! meet errors that no page explains.

use super::{Asking, Error, Limits, Outbox, Queue, Replied, Sending, Session, Tracking};
use crate::key::{KEY_BYTES_MAX, RESERVED_PREFIX};
use crate::reason::Reason;

const HEAD: &str = "\
# Errors

<!-- Rendered from crates/core/src/error.rs; a test compares. To write it anew:
     UPDATE_DOCS=1 cargo test -p pg_cache_core -->

What pg_cache raises of its own, by example. The condition is the name for `EXCEPTION WHEN` in
PL/pgSQL. Errors of the cached query itself keep the SQLSTATE and the position that PostgreSQL
gives them, and `redis_cached` never fails because of Redis: it computes. Where Redis is named
below, it is for functions that cannot answer without it, such as `redis_ping` and `redis_flush`.

| SQLSTATE | Condition | Message | Detail | Hint |
|---|---|---|---|---|
";

const REASONS_HEAD: &str = "
## Reasons for a miss

The words in `redis_stat_cached.reasons` and in the `status` of `redis_explain`.

| Reason | Meaning |
|---|---|
";

/// One example of every error, and of `Unreachable` one for every reason that it may have.
pub fn catalogue() -> Vec<Error> {
    let unreachable = |reason| Error::Unreachable { reason, detail: String::new() };
    let mut errors = vec![
        Error::NullArgument { name: "key" },
        Error::KeyTooLong { bytes: 1025, bytes_max: KEY_BYTES_MAX },
        Error::KeyReserved { prefix: RESERVED_PREFIX },
        Error::TtlNotPositive,
        Error::TtlTooLong { max_seconds: 2_592_000 },
        Error::TtlInvalid { text: "soon".into() },
        Error::TtlType { type_name: "boolean".into() },
        Error::NotOneStatement { count: 0 },
        Error::NotOneStatement { count: 2 },
        Error::NotSelect { command: "INSERT".into() },
        Error::WritingCte,
        Error::RowLock { clause: "FOR UPDATE".into() },
        Error::VolatileFunction { name: "random()".into() },
        Error::Sample,
        Error::Nested,
        Error::DependsArgument,
        Error::ArgumentCount { given: 1, wanted: 2 },
        Error::ArgumentPseudoType { position: 1, type_name: "record".into() },
        Error::ColumnNotReturned {
            name: "total".into(),
            returned: vec!["carrier".into(), "delay".into()],
        },
        Error::DuplicateColumn { name: "id".into() },
        Error::RowsContext,
        Error::ViewName { name: "a.b.c".into() },
        Error::Unsettled { detail: Reason::Timeout.sentence().into() },
        Error::DebtLocked,
        Error::TemplateInvalid {
            text: "{a}{b}".into(),
            why: "Nothing separates the values of two placeholders.".into(),
        },
        Error::RepairInTransaction,
        Error::RepairOnStandby,
        Error::RepairUnfinished { detail: "No server is registered".into() },
        Error::NoWorkerSlot,
        Error::PrefixTooLong { bytes: 200, bytes_max: 128 },
        Error::BucketsOutOfRange { given: 0, most: 1_048_576 },
        Error::CannotVerify { reason: Reason::OwnXid },
        Error::CannotVerify { reason: Reason::Disabled },
        Error::FlushPattern,
        Error::UrlInvalid { why: "The URL has no host.".into() },
        Error::UrlSchemeLater { scheme: "rediss".into() },
        Error::PasswordFile { why: "No such file or directory".into() },
        Error::ServerTooOld { found: "Redis 6.2.7".into() },
    ];
    errors.extend(Outbox::examples().into_iter().map(Error::Outbox));
    errors.extend(of_commands());
    errors.extend(of_triggers());
    errors.extend(
        [
            Reason::Breaker,
            Reason::Connect,
            Reason::Timeout,
            Reason::Closed,
            Reason::Protocol,
            Reason::NoAuth,
            Reason::Loading,
            Reason::Oom,
            Reason::ReadOnly,
            Reason::NoPerm,
            Reason::Busy,
            Reason::ServerError,
        ]
        .map(unreachable),
    );
    errors
}

/// Those of what acts at once, and of queues.
fn of_commands() -> Vec<Error> {
    let mut errors: Vec<Error> = Limits::examples().into_iter().map(Error::Limits).collect();
    errors.extend(Queue::examples().into_iter().map(Error::Queue));
    errors.extend(Replied::examples().into_iter().map(Error::Replied));
    errors.extend(Session::examples().into_iter().map(Error::Session));
    errors
}

/// Those of triggers, and of what is sent.
fn of_triggers() -> Vec<Error> {
    let mut errors: Vec<Error> = Tracking::examples().into_iter().map(Error::Tracking).collect();
    errors.extend(Sending::examples().into_iter().map(Error::from));
    errors.push(Error::MessageTooLarge { bytes: 9_000_000, bytes_max: 8_388_608 });
    errors.extend(Asking::examples().into_iter().map(Error::Asking));
    errors
}

/// The page `docs/errors.md`.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for error in catalogue() {
        let state = error.sqlstate();
        page += &format!(
            "| `{state}` | `{}` | {} | {} | {} |\n",
            condition(state),
            cell(&error.message()),
            cell(&error.detail().unwrap_or_default()),
            cell(&error.hint().unwrap_or_default()),
        );
    }
    page += REASONS_HEAD;
    for reason in Reason::ALL {
        page += &format!("| `{reason}` | {} |\n", cell(reason.sentence()));
    }
    page
}

/// What Markdown would read as markup inside a cell is escaped.
fn cell(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut cell, c| {
        if matches!(c, '|' | '[' | ']' | '<' | '*' | '_' | '$') {
            cell.push('\\');
        }
        cell.push(c);
        cell
    })
}

/// PostgreSQL's name for a SQLSTATE, from its errcodes.txt.
fn condition(sqlstate: &str) -> &'static str {
    match sqlstate {
        "08001" => "sqlclient_unable_to_establish_sqlconnection",
        "08006" => "connection_failure",
        "08P01" => "protocol_violation",
        "22003" => "numeric_value_out_of_range",
        "22021" => "character_not_in_repertoire",
        "22P02" => "invalid_text_representation",
        "0A000" => "feature_not_supported",
        "22004" => "null_value_not_allowed",
        "22023" => "invalid_parameter_value",
        "25001" => "active_sql_transaction",
        "25006" => "read_only_sql_transaction",
        "28P01" => "invalid_password",
        "2BP01" => "dependent_objects_still_exist",
        "39P01" => "trigger_protocol_violated",
        "38000" => "external_routine_exception",
        "40000" => "transaction_rollback",
        "40001" => "serialization_failure",
        "42501" => "insufficient_privilege",
        "42601" => "syntax_error",
        "42602" => "invalid_name",
        "42701" => "duplicate_column",
        "42703" => "undefined_column",
        "42704" => "undefined_object",
        "42710" => "duplicate_object",
        "42809" => "wrong_object_type",
        "42883" => "undefined_function",
        "42P01" => "undefined_table",
        "42P10" => "invalid_column_reference",
        "54011" => "too_many_columns",
        "42804" => "datatype_mismatch",
        "42939" => "reserved_name",
        "42P17" => "invalid_object_definition",
        "42P18" => "indeterminate_datatype",
        "42P19" => "invalid_recursion",
        "53200" => "out_of_memory",
        "53400" => "configuration_limit_exceeded",
        "54000" => "program_limit_exceeded",
        "55000" => "object_not_in_prerequisite_state",
        "55006" => "object_in_use",
        "55P03" => "lock_not_available",
        "57P03" => "cannot_connect_now",
        "58000" => "system_error",
        "58030" => "io_error",
        "F0000" => "config_file_error",
        "P0002" => "no_data_found",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_errors_are_the_errors() {
        // Danger: a page that describes messages, codes and hints of an older release.
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap();
        assert_eq!(page, markdown(), "run UPDATE_DOCS=1 cargo test -p pg_cache_core");
    }

    #[test]
    fn every_sqlstate_has_a_condition_name() {
        // Danger: an error that PL/pgSQL can catch only by a number nobody remembers.
        for error in catalogue() {
            let state = error.sqlstate();
            assert!(!condition(state).is_empty(), "{state}");
        }
    }

    #[test]
    fn a_cell_cannot_break_the_table() {
        // Danger: the | of a hint starts a column of its own.
        assert_eq!(cell("a || b[1]"), "a \\|\\| b\\[1\\]");
    }
}
