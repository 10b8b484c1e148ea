//! Owns what is written behind the name of a trigger's channel, stream, key or queue: `durable`,
//! `columns=id,name`, `except=password_hash`, `when=status`, `maxlen=…`, `ttl=…`, `as=hash`.
//!
//! Invariant: a word that is not understood is an error, never left out. If a slip of the pen in
//! `except=` passed for nothing, a secret would leave with every event.

use crate::error::Flaw;

/// The longest stream that Redis can be told to keep: it reads a signed number.
const LENGTH_MAX: u64 = i64::MAX as u64;

/// What a trigger sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Publish,
    Stream,
    Store,
    Job,
}

impl Kind {
    /// The trigger function's name.
    pub fn function(self) -> &'static str {
        match self {
            Kind::Publish => "redis_publish",
            Kind::Stream => "redis_stream",
            Kind::Store => "redis_store",
            Kind::Job => "redis_job",
        }
    }

    /// What its first argument names.
    pub fn target(self) -> &'static str {
        match self {
            Kind::Publish => "channel",
            Kind::Stream => "stream",
            Kind::Store => "key",
            Kind::Job => "queue",
        }
    }

    /// The options that it understands.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Kind::Publish | Kind::Job => &["columns", "except", "when", "durable"],
            Kind::Stream => &["columns", "except", "when", "durable", "maxlen"],
            Kind::Store => &["columns", "except", "when", "durable", "ttl", "as"],
        }
    }
}

/// The arguments of a trigger, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The template of the channel, stream, key or queue.
    pub target: String,
    columns: Vec<String>,
    except: Vec<String>,
    when: Vec<String>,
    pub durable: bool,
    /// How long a stream may become.
    pub length_max: Option<u64>,
    /// As it is written: reading an interval is PostgreSQL's.
    pub ttl: Option<String>,
    pub as_hash: bool,
}

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known<'a> {
    pub name: &'a str,
    /// Computed when it is read: the rows that a trigger sees have no value for it.
    pub is_virtual: bool,
}

impl Known<'_> {
    /// Refuses what names a column that has no value.
    pub fn with_value(self) -> Result<(), Flaw> {
        match self.is_virtual {
            true => Err(Flaw::Virtual { column: self.name.to_owned() }),
            false => Ok(()),
        }
    }
}

/// The columns that matter, by their places in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Those that are sent, in the table's order.
    pub sent: Vec<usize>,
    /// An UPDATE that changes none of these sends nothing.
    pub watched: Vec<usize>,
}

impl Options {
    pub fn parse(kind: Kind, arguments: &[String]) -> Result<Options, Flaw> {
        let no_target = || Flaw::NoTarget { wanted: kind.target(), function: kind.function() };
        let (target, rest) = arguments.split_first().ok_or_else(no_target)?;
        if target.is_empty() {
            return Err(no_target());
        }
        let mut options = Options { target: target.clone(), ..Options::default() };
        let mut seen: Vec<&str> = Vec::new();
        for text in rest {
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim())),
                None => (text.trim(), None),
            };
            if !kind.options().contains(&name) {
                let known = kind.options().join(", ");
                return Err(Flaw::UnknownOption { option: text.clone(), known });
            }
            if seen.contains(&name) {
                return Err(invalid(text, "It is given twice."));
            }
            seen.push(name);
            options.take(name, value).map_err(|why| invalid(text, why))?;
        }
        if !options.columns.is_empty() && !options.except.is_empty() {
            let why = "Give columns or except, not both.";
            return Err(invalid(&format!("except={}", options.except.join(",")), why));
        }
        Ok(options)
    }

    fn take(&mut self, name: &str, value: Option<&str>) -> Result<(), &'static str> {
        if name == "durable" {
            self.durable = true;
            return value.map_or(Ok(()), |_| Err("It takes no value."));
        }
        let value = value.filter(|value| !value.is_empty());
        let value = value.ok_or("It needs a value behind an equals sign.")?;
        match name {
            "columns" => self.columns = names(value)?,
            "except" => self.except = names(value)?,
            "when" => self.when = names(value)?,
            "maxlen" => {
                let length: u64 = value
                    .parse()
                    .ok()
                    .filter(|length| *length > 0)
                    .ok_or("It must be a number above zero.")?;
                if length > LENGTH_MAX {
                    return Err("Redis counts to 9223372036854775807.");
                }
                self.length_max = Some(length);
            }
            "ttl" => self.ttl = Some(value.to_owned()),
            _ => {
                self.as_hash = match value {
                    "hash" => true,
                    "json" => false,
                    _ => return Err("It must be json or hash."),
                }
            }
        }
        Ok(())
    }

    /// Whether a column must not be read.
    pub fn is_excepted(&self, column: &str) -> bool {
        self.except.iter().any(|name| name == column)
    }

    /// Finds the columns in the table, which are given in its order.
    pub fn choose(&self, table: &[Known<'_>]) -> Result<Chosen, Flaw> {
        let find = |column: &String| {
            let place = table.iter().position(|known| known.name == column);
            place.ok_or_else(|| Flaw::NoColumn { column: column.clone() })
        };
        let valued = |column: &String| {
            let place = find(column)?;
            table[place].with_value().map(|()| place)
        };
        let mut sent = match self.columns.is_empty() {
            true => (0..table.len()).filter(|place| !table[*place].is_virtual).collect(),
            false => self.columns.iter().map(valued).collect::<Result<Vec<_>, _>>()?,
        };
        sent.sort_unstable();
        let except = self.except.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        sent.retain(|place| !except.contains(place));
        let mut watched = self.when.iter().map(valued).collect::<Result<Vec<_>, _>>()?;
        if let Some(column) = watched.iter().find(|place| except.contains(place)) {
            return Err(Flaw::Excepted { column: table[*column].name.to_owned() });
        }
        if watched.is_empty() {
            watched.clone_from(&sent);
        }
        Ok(Chosen { sent, watched })
    }
}

fn names(list: &str) -> Result<Vec<String>, &'static str> {
    let mut names: Vec<String> = Vec::new();
    for name in list.split(',').map(str::trim) {
        if name.is_empty() {
            return Err("A name between two commas is empty.");
        }
        if names.iter().any(|other| other == name) {
            return Err("A column is named twice.");
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

fn invalid(text: &str, why: &str) -> Flaw {
    Flaw::OptionInvalid { option: text.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: Kind, words: &[&str]) -> Result<Options, Flaw> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Options::parse(kind, &words)
    }

    fn table() -> [Known<'static>; 4] {
        ["id", "name", "secret", "status"].map(|name| Known { name, is_virtual: false })
    }

    #[test]
    fn options_mean_what_they_say() {
        // Danger: an option that is read and does nothing.
        let words = ["s", "columns=status, id", "when=name", "maxlen=100", "durable"];
        let options = parse(Kind::Stream, &words).unwrap();
        assert_eq!(options.target, "s");
        assert!(options.durable && !options.as_hash);
        assert_eq!(options.length_max, Some(100));
        let chosen = options.choose(&table()).unwrap();
        assert_eq!(chosen, Chosen { sent: vec![0, 3], watched: vec![1] });
        let options = parse(Kind::Store, &["k", "ttl=5 minutes", "as=hash", "except=secret"]);
        let options = options.unwrap();
        assert_eq!(options.ttl.as_deref(), Some("5 minutes"));
        assert!(options.as_hash && options.is_excepted("secret") && !options.is_excepted("id"));
        let chosen = options.choose(&table()).unwrap();
        assert_eq!(chosen, Chosen { sent: vec![0, 1, 3], watched: vec![0, 1, 3] });
        let most = parse(Kind::Stream, &["s", "maxlen=9223372036854775807"]).unwrap();
        assert_eq!(most.length_max, Some(LENGTH_MAX));
        let all = parse(Kind::Job, &["q"]).unwrap().choose(&table()).unwrap();
        assert_eq!(all.sent, [0, 1, 2, 3]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        // Danger: `expect=secret` passes, and the secret leaves with every event.
        for (kind, words) in [
            (Kind::Publish, &[][..]),
            (Kind::Publish, &[""]),
            (Kind::Publish, &["c", "expect=secret"]),
            (Kind::Publish, &["c", "c2"]),
            (Kind::Publish, &["c", "ttl=5"]),
            (Kind::Publish, &["c", "maxlen=5"]),
            (Kind::Publish, &["c", "durable=yes"]),
            (Kind::Publish, &["c", "durable", "durable"]),
            (Kind::Publish, &["c", "except"]),
            (Kind::Publish, &["c", "except="]),
            (Kind::Publish, &["c", "except=a,,b"]),
            (Kind::Publish, &["c", "except=a,a"]),
            (Kind::Publish, &["c", "except=a", "columns=b"]),
            (Kind::Stream, &["s", "maxlen=0"]),
            (Kind::Stream, &["s", "maxlen=many"]),
            (Kind::Stream, &["s", "maxlen=-1"]),
            (Kind::Stream, &["s", "maxlen=9223372036854775808"]),
            (Kind::Stream, &["s", "maxlen=18446744073709551616"]),
            (Kind::Stream, &["s", "as=hash"]),
            (Kind::Store, &["k", "as=list"]),
            (Kind::Store, &["k", "Except=secret"]),
        ] {
            assert!(parse(kind, words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn columns_that_are_not_there_are_named() {
        // Danger: a renamed column stays in except=, and the one of the new name is sent.
        for option in ["columns=gone", "except=gone", "when=gone"] {
            let chosen = parse(Kind::Publish, &["c", option]).unwrap().choose(&table());
            assert_eq!(chosen, Err(Flaw::NoColumn { column: "gone".into() }), "{option}");
        }
        let both = parse(Kind::Publish, &["c", "except=secret", "when=secret"]).unwrap();
        assert_eq!(both.choose(&table()), Err(Flaw::Excepted { column: "secret".into() }));
    }

    #[test]
    fn columns_without_a_value_are_left_out_or_refused() {
        // Danger: a virtual generated column is sent as null, whatever it shows when it is read.
        let mut table = table();
        table[1].is_virtual = true;
        let choose = |words: &[&str]| parse(Kind::Publish, words).unwrap().choose(&table);
        let chosen = Chosen { sent: vec![0, 2, 3], watched: vec![0, 2, 3] };
        assert_eq!(choose(&["c"]), Ok(chosen.clone()));
        assert_eq!(choose(&["c", "except=name"]), Ok(chosen));
        for option in ["columns=id,name", "when=name"] {
            assert_eq!(choose(&["c", option]), Err(Flaw::Virtual { column: "name".into() }));
        }
    }
}
