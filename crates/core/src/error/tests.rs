//! What programs and people rely on in the catalogue of errors.

use super::*;
use std::collections::BTreeSet;

/// A number per variant: a new variant does not compile until it stands here.
fn variant(error: &Error) -> usize {
    match error {
        Error::NullArgument { .. } => 0,
        Error::KeyTooLong { .. } => 1,
        Error::KeyReserved { .. } => 2,
        Error::TtlNotPositive => 3,
        Error::TtlTooLong { .. } => 4,
        Error::TtlInvalid { .. } => 5,
        Error::TtlType { .. } => 6,
        Error::NotOneStatement { .. } => 7,
        Error::NotSelect { .. } => 8,
        Error::WritingCte => 9,
        Error::RowLock { .. } => 10,
        Error::VolatileFunction { .. } => 11,
        Error::Nested => 12,
        Error::ArgumentCount { .. } => 13,
        Error::ArgumentPseudoType { .. } => 14,
        Error::ColumnNotReturned { .. } => 15,
        Error::DuplicateColumn { .. } => 16,
        Error::UrlInvalid { .. } => 17,
        Error::UrlSchemeLater { .. } => 18,
        Error::PasswordFile { .. } => 19,
        Error::ServerTooOld { .. } => 20,
        Error::Unreachable { .. } => 21,
        Error::FlushPattern => 22,
        Error::RowsContext => 23,
        Error::ViewName { .. } => 24,
        Error::Sample => 25,
        Error::Unsettled { .. } => 26,
        Error::DebtLocked => 27,
        Error::TemplateInvalid { .. } => 28,
        Error::RepairInTransaction => 29,
        Error::RepairOnStandby => 30,
        Error::RepairUnfinished { .. } => 31,
        Error::NoWorkerSlot => 32,
        Error::PrefixTooLong { .. } => 33,
        Error::BucketsOutOfRange { .. } => 34,
        Error::DependsArgument => 35,
        Error::Tracking(_) => 36,
        Error::CannotVerify { .. } => 37,
        Error::Outbox(_) => 41,
        Error::Limits(_) => 43,
        Error::Queue(_) => 44,
        Error::Session(_) => 45,
        Error::Replied(_) => 42,
        Error::Sending(_) => 38,
        Error::MessageTooLarge { .. } => 39,
        Error::Asking(_) => 40,
    }
}

#[test]
fn every_error_stands_in_the_catalogue() {
    // Danger: an error that users meet and the documentation does not know.
    let listed: BTreeSet<usize> = catalogue().iter().map(variant).collect();
    assert_eq!(listed, (0..=45).collect());
}

#[test]
fn texts_keep_the_style_of_postgresql() {
    // Danger: messages that look foreign in a log, or hints that run into the next line.
    for error in catalogue() {
        let message = error.message();
        let first = message.chars().next();
        assert!(first.is_some_and(|c| !c.is_uppercase()), "{message}");
        assert!(!message.ends_with('.') && !message.contains('\n'), "{message}");
        for text in [error.detail(), error.hint()].into_iter().flatten() {
            let first = text.chars().next();
            assert!(first.is_some_and(|c| c.is_uppercase()) || text.starts_with("pg_cache"));
            assert!(text.ends_with('.') && !text.contains('\n'), "{text}");
            assert!(!text.contains("  "), "{text}");
        }
    }
}

#[test]
fn programs_can_branch_on_the_promised_sqlstates() {
    // Danger: a client that retries on 57P03 or reconnects on 08006 stops doing so.
    let state = |reason| Error::Unreachable { reason, detail: String::new() }.sqlstate();
    assert_eq!(state(Reason::Connect), "08001");
    assert_eq!(state(Reason::Breaker), "08001");
    assert_eq!(state(Reason::Timeout), "08006");
    assert_eq!(state(Reason::Closed), "08006");
    assert_eq!(state(Reason::Protocol), "08P01");
    assert_eq!(state(Reason::NoAuth), "28P01");
    assert_eq!(state(Reason::Loading), "57P03");
    assert_eq!(state(Reason::Oom), "53200");
    assert_eq!(state(Reason::ReadOnly), "25006");
    assert_eq!(state(Reason::NoPerm), "42501");
    assert_eq!(state(Reason::Busy), "38000");
    assert_eq!(state(Reason::ServerError), "38000");
    assert_eq!(Error::NullArgument { name: "key" }.sqlstate(), "22004");
    assert_eq!(Error::KeyTooLong { bytes: 1025, bytes_max: 1024 }.sqlstate(), "54000");
    assert_eq!(Error::KeyReserved { prefix: "pgc:" }.sqlstate(), "42939");
    assert_eq!(Error::TtlNotPositive.sqlstate(), "22023");
    assert_eq!(Error::TtlTooLong { max_seconds: 1 }.sqlstate(), "22023");
    assert_eq!(Error::NotOneStatement { count: 2 }.sqlstate(), "42601");
    assert_eq!(Error::NotSelect { command: "INSERT".into() }.sqlstate(), "0A000");
    assert_eq!(Error::WritingCte.sqlstate(), "25006");
    assert_eq!(Error::RowLock { clause: "FOR UPDATE".into() }.sqlstate(), "55000");
    assert_eq!(Error::VolatileFunction { name: "random()".into() }.sqlstate(), "42P17");
    assert_eq!(Error::Nested.sqlstate(), "42P19");
    assert_eq!(Error::DuplicateColumn { name: "id".into() }.sqlstate(), "42701");
    let missing = Error::ColumnNotReturned { name: "id".into(), returned: Vec::new() };
    assert_eq!(missing.sqlstate(), "42703");
    assert_eq!(missing.detail().as_deref(), Some("The query returns no columns."));
}

#[test]
fn what_a_server_said_ends_as_a_sentence() {
    // Danger: "…os error 2" glued to the hint that follows it.
    let detail = |detail: &str| {
        Error::Unreachable { reason: Reason::Breaker, detail: detail.into() }.detail()
    };
    assert_eq!(detail("Gone"), Some("Gone.".into()));
    assert_eq!(detail("Gone."), Some("Gone.".into()));
    assert_eq!(detail(""), Some(Reason::Breaker.sentence().into()));
}
