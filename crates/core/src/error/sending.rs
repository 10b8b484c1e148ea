//! Owns the errors of triggers, a part of the catalogue.
//!
//! Invariant: each names the trigger and its table. It is met in a migration, or at the first write
//! after one, by somebody who did not write the trigger.

use super::{Error, sentence};

/// How triggers are made that tell of rows.
pub const AFTER_EACH_ROW: &str = "AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW";
/// How one is made that deletes keys.
pub const AFTER_A_CHANGE: &str = "AFTER INSERT, UPDATE, DELETE or TRUNCATE";

/// What is wrong with a trigger, or with what it was to do at a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sending {
    pub trigger: String,
    pub relation: String,
    pub flaw: Flaw,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// The name it sends to, or whose key it deletes, cannot be read, or made of this row.
    Target(Box<Error>),
    /// It names no key to delete.
    NoKey,
    /// A key that is made of a row, in a trigger that fires once for a statement.
    Placeholder {
        template: String,
    },
    NullColumn {
        column: String,
    },
    NoTarget {
        wanted: &'static str,
        function: &'static str,
    },
    UnknownOption {
        option: String,
        known: String,
    },
    OptionInvalid {
        option: String,
        why: String,
    },
    NoColumn {
        column: String,
    },
    /// The same, found by the command that takes it away.
    ColumnGoes {
        column: String,
    },
    /// Named by an option or a template, and not to be read.
    Excepted {
        column: String,
    },
    /// Named by an option or a template, and without a value in the rows that a trigger sees.
    Virtual {
        column: String,
    },
    /// It fires at another time than it must.
    Timing {
        wanted: &'static str,
    },
    TooLarge {
        bytes: usize,
        bytes_max: usize,
    },
}

impl Sending {
    /// What a command that takes columns away is told; `None` if the flaw is none of its doing.
    pub fn of_lost_column(mut self) -> Option<Sending> {
        let Flaw::NoColumn { column } = &mut self.flaw else { return None };
        let column = std::mem::take(column);
        self.flaw = Flaw::ColumnGoes { column };
        Some(self)
    }

    pub(super) fn sqlstate(&self) -> &'static str {
        match &self.flaw {
            Flaw::Target(error) => error.sqlstate(),
            Flaw::NullColumn { .. } => "22004",
            Flaw::NoKey
            | Flaw::NoTarget { .. }
            | Flaw::UnknownOption { .. }
            | Flaw::OptionInvalid { .. }
            | Flaw::Excepted { .. } => "22023",
            Flaw::NoColumn { .. } => "42703",
            Flaw::ColumnGoes { .. } => "2BP01",
            Flaw::Virtual { .. } => "42P10",
            Flaw::Timing { .. } | Flaw::Placeholder { .. } => "39P01",
            Flaw::TooLarge { .. } => "54000",
        }
    }

    pub(super) fn message(&self) -> String {
        let what = match &self.flaw {
            Flaw::Target(error) => error.message(),
            Flaw::NoKey => "no key is named".into(),
            Flaw::Placeholder { template } => {
                format!("key \"{template}\" needs a row, and a statement has none")
            }
            Flaw::NullColumn { column } => {
                format!("column \"{column}\" must not be null in a cache key")
            }
            Flaw::NoTarget { wanted, .. } => format!("no {wanted} is named"),
            Flaw::UnknownOption { option, .. } => format!("unknown option \"{option}\""),
            Flaw::OptionInvalid { option, .. } => format!("invalid option \"{option}\""),
            Flaw::NoColumn { column } => format!("column \"{column}\" does not exist"),
            Flaw::ColumnGoes { column } => format!("column \"{column}\" would be missing"),
            Flaw::Excepted { column } => {
                format!("column \"{column}\" is excepted and needed all the same")
            }
            Flaw::Virtual { column } => {
                format!("column \"{column}\" is a virtual generated column")
            }
            Flaw::Timing { wanted } => format!("must be {wanted}"),
            Flaw::TooLarge { .. } => "message is too large".into(),
        };
        format!("trigger \"{}\" on {}: {what}", self.trigger, self.relation)
    }

    pub(super) fn detail(&self) -> Option<String> {
        Some(match &self.flaw {
            Flaw::Target(error) => return error.detail(),
            Flaw::UnknownOption { known, .. } => format!("Known options: {known}."),
            Flaw::OptionInvalid { why, .. } => sentence(why),
            Flaw::Virtual { .. } => "It has no value in the rows that a trigger sees.".into(),
            Flaw::TooLarge { bytes, bytes_max } => {
                format!("It has {bytes} bytes; pg_cache.value_bytes_max is {bytes_max}.")
            }
            _ => return None,
        })
    }

    pub(super) fn hint(&self) -> Option<String> {
        Some(match &self.flaw {
            Flaw::Target(error) => return error.hint(),
            Flaw::NoKey => "Write redis_invalidate('user:{id}').".into(),
            Flaw::Placeholder { .. } => "Make it a trigger FOR EACH ROW.".into(),
            Flaw::NullColumn { .. } => {
                "Declare the column NOT NULL, or leave such rows out by WHEN.".into()
            }
            Flaw::NoTarget { wanted, function } => {
                format!("Write {function}('name of the {wanted}', options).")
            }
            Flaw::ColumnGoes { .. } => {
                "Drop the trigger first, and create it again for the table as it is then.".into()
            }
            Flaw::Excepted { .. } => "Leave it out of except, or out of the rest.".into(),
            Flaw::Virtual { .. } => "Name the columns that it is computed from.".into(),
            Flaw::TooLarge { .. } => {
                "Leave large columns out by except, or raise pg_cache.value_bytes_max.".into()
            }
            _ => return None,
        })
    }

    /// One example of each.
    pub(super) fn examples() -> Vec<Sending> {
        let column = || "password_hash".to_owned();
        let flaws = [
            Flaw::Target(Box::new(Error::KeyReserved { prefix: crate::key::RESERVED_PREFIX })),
            Flaw::Target(Box::new(Error::TemplateInvalid {
                text: "{a}{b}".into(),
                why: "Nothing separates the values of two placeholders.".into(),
            })),
            Flaw::NoKey,
            Flaw::Placeholder { template: "user:{id}".into() },
            Flaw::NullColumn { column: "id".into() },
            Flaw::NoTarget { wanted: "channel", function: "redis_publish" },
            Flaw::UnknownOption {
                option: "expect=password_hash".into(),
                known: "columns, except, when, durable".into(),
            },
            Flaw::OptionInvalid {
                option: "maxlen=0".into(),
                why: "It must be a number above zero.".into(),
            },
            Flaw::NoColumn { column: column() },
            Flaw::ColumnGoes { column: column() },
            Flaw::Excepted { column: column() },
            Flaw::Virtual { column: "full_name".into() },
            Flaw::Timing { wanted: AFTER_EACH_ROW },
            Flaw::Timing { wanted: AFTER_A_CHANGE },
            Flaw::TooLarge { bytes: 9_000_000, bytes_max: 8_388_608 },
        ];
        let of = |flaw| Sending {
            trigger: "users_events".into(),
            relation: "public.users".into(),
            flaw,
        };
        flaws.map(of).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_sending_has_an_example() {
        // Danger: an error that users meet and the documentation does not know.
        let variant = |sending: &Sending| match sending.flaw {
            Flaw::Target(_) => 0,
            Flaw::NoTarget { .. } => 1,
            Flaw::UnknownOption { .. } => 2,
            Flaw::OptionInvalid { .. } => 3,
            Flaw::NoColumn { .. } => 4,
            Flaw::Excepted { .. } => 5,
            Flaw::Timing { .. } => 6,
            Flaw::TooLarge { .. } => 7,
            Flaw::NoKey => 8,
            Flaw::Placeholder { .. } => 9,
            Flaw::NullColumn { .. } => 10,
            Flaw::Virtual { .. } => 11,
            Flaw::ColumnGoes { .. } => 12,
        };
        let listed: std::collections::BTreeSet<i32> =
            Sending::examples().iter().map(variant).collect();
        assert_eq!(listed, (0..=12).collect());
    }
}
