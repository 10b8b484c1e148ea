//! Owns the catalogue of errors that pg_cache raises of its own.
//!
//! Invariant: one variant is one SQLSTATE, one message in lower case without a full stop, a detail
//! and a hint in sentences, and never a secret. Programs branch on the SQLSTATE and people search
//! for the message: if either varied by the place that raises it, both would fail. The table in
//! `docs/errors.md` is rendered from here.

mod asking;
mod catalogue;
mod limits;
mod outbox;
mod queue;
mod replied;
mod sending;
mod session;
mod tracking;
mod unreachable;

pub use asking::Asking;
pub use catalogue::{catalogue, markdown};
pub use limits::Limits;
pub use outbox::Outbox;
pub use queue::{Queue, Untimely};
pub use replied::Replied;
pub use sending::{AFTER_A_CHANGE, AFTER_EACH_ROW, Flaw, Sending};
pub use session::Session;
pub use tracking::Tracking;

use crate::reason::Reason;

const TTL_HINT: &str = "Give a number of seconds or an interval, such as 300 or '5 minutes'.";

impl From<Sending> for Error {
    fn from(error: Sending) -> Self {
        Error::Sending(Box::new(error))
    }
}

/// An error of pg_cache's own; errors of the user's query keep what PostgreSQL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    NullArgument { name: &'static str },
    KeyTooLong { bytes: usize, bytes_max: usize },
    KeyReserved { prefix: &'static str },
    TtlNotPositive,
    TtlTooLong { max_seconds: i64 },
    TtlInvalid { text: String },
    TtlType { type_name: String },
    NotOneStatement { count: usize },
    NotSelect { command: String },
    WritingCte,
    RowLock { clause: String },
    VolatileFunction { name: String },
    Sample,
    Nested,
    DependsArgument,
    ArgumentCount { given: usize, wanted: usize },
    ArgumentPseudoType { position: usize, type_name: String },
    ColumnNotReturned { name: String, returned: Vec<String> },
    DuplicateColumn { name: String },
    UrlInvalid { why: String },
    UrlSchemeLater { scheme: String },
    PasswordFile { why: String },
    ServerTooOld { found: String },
    Unreachable { reason: Reason, detail: String },
    FlushPattern,
    RowsContext,
    ViewName { name: String },
    Unsettled { detail: String },
    DebtLocked,
    TemplateInvalid { text: String, why: String },
    RepairInTransaction,
    RepairOnStandby,
    CannotVerify { reason: Reason },
    RepairUnfinished { detail: String },
    NoWorkerSlot,
    PrefixTooLong { bytes: usize, bytes_max: usize },
    BucketsOutOfRange { given: i32, most: i32 },
    Limits(Limits),
    Outbox(Outbox),
    Queue(Queue),
    Replied(Replied),
    Tracking(Tracking),
    Sending(Box<Sending>),
    Session(Session),
    MessageTooLarge { bytes: usize, bytes_max: usize },
    Asking(Asking),
}

impl Error {
    /// The five characters that programs branch on.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Error::NullArgument { .. } => "22004",
            Error::KeyTooLong { .. } => "54000",
            Error::KeyReserved { .. } => "42939",
            Error::TtlNotPositive
            | Error::TtlTooLong { .. }
            | Error::TtlInvalid { .. }
            | Error::UrlInvalid { .. }
            | Error::UrlSchemeLater { .. }
            | Error::TemplateInvalid { .. }
            | Error::FlushPattern => "22023",
            Error::TtlType { .. } | Error::ArgumentPseudoType { .. } => "42804",
            Error::NotOneStatement { .. } | Error::ArgumentCount { .. } => "42601",
            Error::NotSelect { .. } | Error::ServerTooOld { .. } | Error::RowsContext => "0A000",
            Error::WritingCte => "25006",
            Error::RowLock { .. } => "55000",
            Error::VolatileFunction { .. } | Error::Sample => "42P17",
            Error::Nested => "42P19",
            Error::DependsArgument => "42P17",
            Error::ColumnNotReturned { .. } => "42703",
            Error::DuplicateColumn { .. } => "42701",
            Error::PasswordFile { .. } => "F0000",
            Error::ViewName { .. } => "42602",
            Error::Unsettled { .. } => "08006",
            Error::DebtLocked => "55P03",
            Error::CannotVerify { reason: Reason::Disabled } => "55000",
            Error::RepairInTransaction | Error::CannotVerify { .. } => "25001",
            Error::RepairOnStandby | Error::RepairUnfinished { .. } => "55000",
            Error::NoWorkerSlot => "53400",
            Error::PrefixTooLong { .. } => "54000",
            Error::BucketsOutOfRange { .. } => "22023",
            Error::Limits(error) => error.sqlstate(),
            Error::Outbox(error) => error.sqlstate(),
            Error::Queue(error) => error.sqlstate(),
            Error::Replied(error) => error.sqlstate(),
            Error::Unreachable { reason, .. } => unreachable::sqlstate(*reason),
            Error::Tracking(error) => error.sqlstate(),
            Error::Sending(error) => error.sqlstate(),
            Error::Session(error) => error.sqlstate(),
            Error::MessageTooLarge { .. } => "54000",
            Error::Asking(error) => error.sqlstate(),
        }
    }

    /// Lower case, no full stop, as PostgreSQL's own.
    pub fn message(&self) -> String {
        match self {
            Error::NullArgument { name } => format!("{name} must not be null"),
            Error::KeyTooLong { .. } => "cache key is too long".into(),
            Error::KeyReserved { prefix } => {
                format!("cache key must not begin with \"{prefix}\"")
            }
            Error::TtlNotPositive => "ttl must be greater than zero".into(),
            Error::TtlTooLong { .. } => "ttl must not be longer than pg_cache.ttl_max".into(),
            Error::TtlInvalid { text } => format!("invalid ttl: \"{text}\""),
            Error::TtlType { type_name } => format!("ttl must not be of type {type_name}"),
            Error::NotOneStatement { count: 0 } => "cached query must not be empty".into(),
            Error::NotOneStatement { .. } => "cached query must be a single statement".into(),
            Error::NotSelect { command } => format!("cannot cache {command}"),
            Error::WritingCte => "cached query must not modify data in WITH".into(),
            Error::RowLock { clause } => format!("cached query must not lock rows {clause}"),
            Error::VolatileFunction { name } => {
                format!("cached query must not call volatile function {name}")
            }
            Error::Sample => "cached query must not sample a table without REPEATABLE".into(),
            Error::Nested => "cached query must not read through the cache itself".into(),
            Error::DependsArgument => "redis_depends takes a constant or a parameter".into(),
            Error::ArgumentCount { .. } => "wrong number of arguments for cached query".into(),
            Error::ArgumentPseudoType { position, type_name } => {
                format!("argument for ${position} must not be of pseudo-type {type_name}")
            }
            Error::ColumnNotReturned { name, .. } => {
                format!("column \"{name}\" is not in the result of the cached query")
            }
            Error::DuplicateColumn { name } => {
                format!("column \"{name}\" is in the result of the cached query more than once")
            }
            Error::UrlInvalid { .. } => "invalid value for parameter \"pg_cache.url\"".into(),
            Error::UrlSchemeLater { scheme } => {
                format!("scheme \"{scheme}\" is not supported in pg_cache.url")
            }
            Error::PasswordFile { .. } => "could not read pg_cache.password_file".into(),
            Error::ServerTooOld { .. } => unreachable::message(Reason::Version).into(),
            Error::Unreachable { reason, .. } => unreachable::message(*reason).into(),
            Error::FlushPattern => "pattern must not be empty".into(),
            Error::RowsContext => {
                "function returning record called in context that cannot accept type record".into()
            }
            Error::ViewName { name } => format!("invalid view name: \"{name}\""),
            Error::Unsettled { .. } => "could not settle the transaction with redis".into(),
            Error::DebtLocked => "could not lock redis_debt".into(),
            Error::TemplateInvalid { text, .. } => format!("invalid key template: \"{text}\""),
            Error::RepairInTransaction => {
                "redis_repair cannot run in a transaction that has written".into()
            }
            Error::CannotVerify { .. } => "redis_verify cannot judge hits here".into(),
            Error::RepairOnStandby => "redis_repair cannot run on a standby".into(),
            Error::RepairUnfinished { .. } => "the repair did not finish in time".into(),
            Error::NoWorkerSlot => "no background worker slot is free".into(),
            Error::PrefixTooLong { .. } => "key prefix is too long".into(),
            Error::BucketsOutOfRange { given, .. } => {
                format!("number of buckets out of range: {given}")
            }
            Error::Limits(error) => error.message(),
            Error::Outbox(error) => error.message(),
            Error::Queue(error) => error.message(),
            Error::Replied(error) => error.message(),
            Error::Tracking(error) => error.message(),
            Error::Sending(error) => error.message(),
            Error::Session(error) => error.message(),
            Error::MessageTooLarge { .. } => "message is too large".into(),
            Error::Asking(error) => error.message(),
        }
    }

    /// What exactly was found, in sentences.
    pub fn detail(&self) -> Option<String> {
        Some(match self {
            Error::KeyTooLong { bytes, bytes_max } => {
                format!("The key has {bytes} bytes; the limit is {bytes_max}.")
            }
            Error::KeyReserved { .. } => "Names that begin so belong to pg_cache itself.".into(),
            Error::TtlTooLong { max_seconds } => {
                format!("pg_cache.ttl_max is {max_seconds} seconds.")
            }
            Error::NotOneStatement { count } if *count > 1 => {
                format!("The query text has {count} statements.")
            }
            Error::VolatileFunction { .. } | Error::Sample => {
                "What it returns once need not be what it returns the next time.".into()
            }
            Error::DependsArgument => {
                "What the entry hangs on must be known before the query runs.".into()
            }
            Error::ArgumentCount { given, wanted } => {
                format!("Arguments given: {given}; parameters in the query: {wanted}.")
            }
            Error::ColumnNotReturned { returned, .. } if returned.is_empty() => {
                "The query returns no columns.".into()
            }
            Error::ColumnNotReturned { returned, .. } => {
                format!("The query returns: {}.", returned.join(", "))
            }
            Error::DuplicateColumn { .. } => "Rows are read by the names of their columns.".into(),
            Error::UrlInvalid { why }
            | Error::PasswordFile { why }
            | Error::TemplateInvalid { why, .. } => sentence(why),
            Error::ServerTooOld { found } => format!("The server is {found}."),
            Error::Unreachable { reason, detail } if detail.is_empty() => match reason {
                // Where the sentence says more than the message does.
                Reason::Breaker | Reason::Oom | Reason::ReadOnly | Reason::NoPerm => {
                    reason.sentence().into()
                }
                _ => return None,
            },
            Error::Unreachable { detail, .. }
            | Error::Unsettled { detail }
            | Error::RepairUnfinished { detail } => sentence(detail),
            Error::CannotVerify { reason } => reason.sentence().into(),
            Error::RepairInTransaction => {
                "The worker waits for transactions that write, and so would this one for the \
                 worker."
                    .into()
            }
            Error::PrefixTooLong { bytes, bytes_max } => {
                format!("The prefix has {bytes} bytes; the limit is {bytes_max}.")
            }
            Error::BucketsOutOfRange { most, .. } => {
                format!("It must be between 1 and {most}.")
            }
            Error::DebtLocked => {
                "Redis could not be reached, and what this transaction changed could not be noted \
                 either."
                    .into()
            }
            Error::Limits(error) => return error.detail(),
            Error::Outbox(error) => return error.detail(),
            Error::Queue(error) => return error.detail(),
            Error::Replied(error) => return error.detail(),
            Error::Tracking(error) => return error.detail(),
            Error::Sending(error) => return error.detail(),
            Error::Session(error) => return error.detail(),
            Error::MessageTooLarge { bytes, bytes_max } => {
                format!("It has {bytes} bytes; pg_cache.value_bytes_max is {bytes_max}.")
            }
            Error::Asking(error) => return error.detail(),
            _ => return None,
        })
    }

    /// What to do about it, in sentences.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::NullArgument { name: "ttl" } => TTL_HINT,
            Error::NullArgument { name: "rel" | "column" } => return None,
            Error::NullArgument { .. } => "Text joined with || is null if any part of it is null.",
            Error::KeyTooLong { .. } => "Put a hash of the long part into the key.",
            Error::KeyReserved { .. } => "Choose another prefix.",
            Error::TtlNotPositive | Error::TtlInvalid { .. } | Error::TtlType { .. } => TTL_HINT,
            Error::TtlTooLong { .. } => "Give a shorter ttl or raise pg_cache.ttl_max.",
            Error::NotOneStatement { count: 0 } | Error::ArgumentCount { .. } => return None,
            Error::NotOneStatement { .. } => "Cache each statement under a key of its own.",
            Error::NotSelect { .. } => "Only SELECT, VALUES and WITH ... SELECT can be cached.",
            Error::WritingCte => "Run what modifies data as a statement of its own.",
            Error::RowLock { .. } => "Leave the clause out: a result from the cache locks no rows.",
            Error::VolatileFunction { .. } => {
                "Pass its result as an argument, or declare the function STABLE if it is."
            }
            Error::Sample => "Add REPEATABLE with a seed.",
            Error::Nested => "Put the text of the inner query in its place.",
            Error::DependsArgument => "Give the name as a literal or as an argument of the query.",
            Error::BucketsOutOfRange { .. } => return None,
            Error::ArgumentPseudoType { .. } => "Cast the argument to a type that holds values.",
            Error::ColumnNotReturned { .. } | Error::DuplicateColumn { .. } => {
                "Name the columns of the query with AS."
            }
            Error::UrlInvalid { .. } => {
                "Write redis://[user[:password]@]host[:port][/db] or \
                 unix:///path[?db=N&user=U&password=P]."
            }
            Error::UrlSchemeLater { .. } => "Use redis:// or unix://.",
            Error::PasswordFile { .. } => {
                "The operating system user that runs PostgreSQL must be able to read the file."
            }
            Error::ServerTooOld { .. } => return unreachable::hint(Reason::Version),
            Error::Unreachable { reason, .. } => return unreachable::hint(*reason),
            Error::FlushPattern => {
                "Leave the pattern out for every entry of this database, or give one such as \
                 'user:*'."
            }
            Error::RowsContext => {
                "Call the function in FROM with a column definition list, as in \
                 AS t(id integer, name text)."
            }
            Error::Unsettled { .. } => {
                "Try again, or set pg_cache.on_unreachable to fence, so that changes are noted \
                 in redis_debt."
            }
            Error::DebtLocked => "Try again when what holds redis_debt has ended.",
            Error::RepairInTransaction => "Call it as a statement of its own.",
            Error::RepairOnStandby => "Call it on the primary.",
            Error::CannotVerify { reason: Reason::Disabled } => "Set pg_cache.enabled to on.",
            Error::CannotVerify { .. } => "Call it as a statement of its own, in READ COMMITTED.",
            Error::RepairUnfinished { .. } => "See redis_health(); the worker goes on meanwhile.",
            Error::NoWorkerSlot => "Raise max_worker_processes and restart PostgreSQL.",
            Error::PrefixTooLong { .. } => "Give a shorter one.",
            Error::ViewName { .. } => "Give a name or a schema and a name, quoted as in SQL.",
            Error::TemplateInvalid { .. } => {
                "Write the names of columns in braces and a colon between them, as in \
                 'user:{id}:{language}'."
            }
            Error::Limits(error) => return error.hint(),
            Error::Outbox(error) => return error.hint(),
            Error::Queue(error) => return error.hint(),
            Error::Replied(error) => return error.hint(),
            Error::Tracking(error) => return error.hint(),
            Error::Sending(error) => return error.hint(),
            Error::Session(error) => return error.hint(),
            Error::MessageTooLarge { .. } => "Send less, or raise pg_cache.value_bytes_max.",
            Error::Asking(error) => return error.hint(),
        };
        Some(hint.to_owned())
    }
}

/// What the operating system or a server said, made to end as a sentence does.
fn sentence(text: &str) -> String {
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests;
