//! Owns the errors of tracking, a part of the catalogue.
//!
//! Invariant: as in the catalogue. Each says which table or column is meant: it is met in a
//! migration, by somebody who has the whole schema before them.

use super::Error;

/// What cannot be tracked, and functions that are not called as they must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tracking {
    NoRelation {
        relation: String,
    },
    /// What can have no triggers, or whose triggers would tell too little.
    Kind {
        relation: String,
        kind: &'static str,
    },
    Partition {
        relation: String,
        root: String,
    },
    Owner {
        relation: String,
    },
    NoColumn {
        column: String,
        relation: String,
    },
    ColumnKind {
        column: String,
        relation: String,
    },
    NoHash {
        column: String,
        type_name: String,
    },
    TooManyColumns {
        given: usize,
        columns_max: usize,
    },
    /// Called in another way than its trigger calls it.
    Protocol {
        function: String,
        wanted: &'static str,
    },
}

impl From<Tracking> for Error {
    fn from(error: Tracking) -> Self {
        Error::Tracking(error)
    }
}

impl Tracking {
    pub(super) fn sqlstate(&self) -> &'static str {
        match self {
            Tracking::NoRelation { .. } => "42P01",
            Tracking::Kind { .. } | Tracking::Partition { .. } => "42809",
            Tracking::Owner { .. } => "42501",
            Tracking::NoColumn { .. } => "42703",
            Tracking::ColumnKind { .. } => "42P10",
            Tracking::NoHash { .. } => "42883",
            Tracking::TooManyColumns { .. } => "54011",
            Tracking::Protocol { .. } => "39P01",
        }
    }

    pub(super) fn message(&self) -> String {
        match self {
            Tracking::NoRelation { relation } => format!("relation {relation} does not exist"),
            Tracking::Kind { relation, kind } => format!("cannot track {kind} {relation}"),
            Tracking::Partition { relation, .. } => {
                format!("cannot track partition {relation} by itself")
            }
            Tracking::Owner { relation } => format!("must be owner of table {relation}"),
            Tracking::NoColumn { column, relation } => {
                format!("column \"{column}\" of relation {relation} does not exist")
            }
            Tracking::ColumnKind { column, relation } => {
                format!("cannot group rows of {relation} by column \"{column}\"")
            }
            Tracking::NoHash { column, .. } => {
                format!("cannot group rows by column \"{column}\"")
            }
            Tracking::TooManyColumns { .. } => "cannot group rows by so many columns".into(),
            Tracking::Protocol { function, wanted } => {
                format!("function {function} must be fired by {wanted}")
            }
        }
    }

    pub(super) fn detail(&self) -> Option<String> {
        Some(match self {
            Tracking::Partition { root, .. } => format!("It is a partition of {root}."),
            Tracking::ColumnKind { .. } => {
                "It is a system column or a virtual generated column.".into()
            }
            Tracking::NoHash { type_name, .. } => {
                format!("Type {type_name} has no extended hash function for its equality.")
            }
            Tracking::TooManyColumns { given, columns_max } => {
                format!("Columns given: {given}; the limit is {columns_max}.")
            }
            _ => return None,
        })
    }

    pub(super) fn hint(&self) -> Option<String> {
        Some(match self {
            Tracking::Kind { kind: "view", .. } => "Track the tables that it reads.".into(),
            Tracking::Kind { kind: "foreign table", .. } => {
                "PostgreSQL does not see all that changes in it: queries over it end by their ttl."
                    .into()
            }
            Tracking::Kind { kind: "temporary table", .. } => {
                "Queries over temporary tables are never cached.".into()
            }
            Tracking::Partition { root, .. } => {
                format!("Track {root}, and with it all its partitions.")
            }
            Tracking::Protocol { .. } => {
                "See redis_track and redis_invalidate for how to attach it.".into()
            }
            _ => return None,
        })
    }

    /// One example of each.
    pub(super) fn examples() -> Vec<Tracking> {
        let (relation, column) = (|| "public.orders".to_owned(), || "customer_id".to_owned());
        vec![
            Tracking::NoRelation { relation: "with OID 4711".into() },
            Tracking::Kind { relation: "public.totals".into(), kind: "view" },
            Tracking::Kind { relation: "public.remote".into(), kind: "foreign table" },
            Tracking::Kind { relation: "pg_temp.draft".into(), kind: "temporary table" },
            Tracking::Kind { relation: "pg_catalog.pg_class".into(), kind: "system catalog" },
            Tracking::Partition { relation: "public.orders_2026".into(), root: relation() },
            Tracking::Owner { relation: relation() },
            Tracking::NoColumn { column: column(), relation: relation() },
            Tracking::ColumnKind { column: "ctid".into(), relation: relation() },
            Tracking::NoHash { column: "place".into(), type_name: "point".into() },
            Tracking::TooManyColumns { given: 9, columns_max: 8 },
            Tracking::Protocol {
                function: "redis_track_row".into(),
                wanted: "a trigger AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW",
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_tracking_has_an_example() {
        // Danger: an error that users meet and the documentation does not know.
        let variant = |error: &Tracking| match error {
            Tracking::Kind { .. } => 0,
            Tracking::Partition { .. } => 1,
            Tracking::Owner { .. } => 2,
            Tracking::NoColumn { .. } => 3,
            Tracking::ColumnKind { .. } => 4,
            Tracking::NoHash { .. } => 5,
            Tracking::TooManyColumns { .. } => 6,
            Tracking::Protocol { .. } => 7,
            Tracking::NoRelation { .. } => 8,
        };
        let listed: std::collections::BTreeSet<i32> =
            Tracking::examples().iter().map(variant).collect();
        assert_eq!(listed, (0..=8).collect());
    }
}
