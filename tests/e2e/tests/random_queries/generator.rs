//! Makes queries: any shape that may be cached, over two tables, decided by a seed alone.
//!
//! The invariant: a query is deterministic, down to the order of its rows, so that two executions
//! may be compared byte for byte. Break it and the comparison fails without a fault.

use super::patterns::{KINDS, Kind, literals, patterns};

/// Two small tables with every awkward value.
pub const TABLES: &str = r#"
    CREATE TABLE grp (id int PRIMARY KEY, label text, parent int);
    INSERT INTO grp VALUES (1, 'one', NULL), (2, 'two', 1), (3, NULL, 1), (4, 'vier "4"', 2),
      (5, '', 9), (6, E'six\n\t\\', 5);
    CREATE TABLE item (id int PRIMARY KEY, grp int, name text, price numeric, qty bigint,
      ok bool, at timestamptz, day date, tags text[], doc jsonb, weight float8, "Odd ""N" text,
      span interval, few int[]);
    INSERT INTO item SELECT g, CASE WHEN g % 7 > 0 THEN g % 7 END,
      (ARRAY['', 'apple', 'Ärger', E'q"uo\\te', NULL, '😀', E'\x01\x1f', ' b '])[g % 8 + 1],
      (ARRAY[0, 1.0, 1.00, -2.5, NULL, 12345678901234567890.123456789, 'NaN'])[g % 7 + 1],
      (ARRAY[0, -1, 9223372036854775807, NULL, 42])[g % 5 + 1],
      (ARRAY[true, false, NULL])[g % 3 + 1],
      timestamptz '2024-02-29 12:00:00.123456+00' + g * interval '1 day 01:00',
      date '1999-12-31' + g * 37,
      (ARRAY['{}', '{a,NULL,""}', NULL, '{"x,y","{}"}'])[g % 4 + 1]::text[],
      (ARRAY['{"a": 1.10, "b": [1, null]}', 'null', NULL, '[]', '"s\"x"'])[g % 5 + 1]::jsonb,
      (ARRAY[0.1, '-0', 'NaN', 'Infinity', NULL, 1e300, 5e-324])[g % 7 + 1]::float8,
      CASE WHEN g % 2 = 0 THEN 'odd ' || g END, g * interval '1 mon -1 day 00:00:01.5',
      ARRAY[g, NULL, g * 2]
    FROM generate_series(1, 40) g;
    ANALYZE;
"#;

/// A query and the values of its parameters.
pub struct Query {
    pub text: String,
    pub constants: Vec<i32>,
}

impl Query {
    /// What follows the query in a call.
    pub fn arguments(&self) -> String {
        self.constants.iter().map(|value| format!(", ({value})::int")).collect()
    }

    /// The query with its parameters written out.
    pub fn with_constants(&self) -> String {
        let numbered = self.constants.iter().enumerate().rev();
        numbered.fold(self.text.clone(), |text, (index, value)| {
            text.replace(&format!("${}", index + 1), &format!("({value})::int"))
        })
    }
}

const NAMES: [&str; 10] = [
    "a",
    "\"B c\"",
    "\"select\"",
    "\"é\"",
    "\"q\"\"uote\"",
    "\"\\\"",
    "\"?column?\"",
    "x1",
    "\"1\"",
    "\"a.b\"",
];

/// Where an expression may take its columns from: the alias of an `item`, of a `grp`, or neither.
#[derive(Clone, Copy, Default)]
struct Scope {
    item: bool,
    grp: bool,
}

pub struct Generator {
    random: fastrand::Rng,
    constants: Vec<i32>,
    with_parameters: bool,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        let random = fastrand::Rng::with_seed(seed);
        Generator { random, constants: Vec::new(), with_parameters: false }
    }

    /// The next query.
    pub fn query(&mut self) -> Query {
        self.constants.clear();
        self.with_parameters = self.chance(4);
        let body = self.select(2);
        let text = match self.random.u8(0..8) {
            0 => format!(
                "WITH w AS (SELECT * FROM ({body}) b ORDER BY b::text LIMIT 7)
                 SELECT * FROM w s ORDER BY s::text"
            ),
            1 => {
                format!("SELECT count(*) AS n, json_agg(s ORDER BY s::text) AS all FROM ({body}) s")
            }
            2 => format!(
                "SELECT * FROM ({body}) s ORDER BY s::text DESC OFFSET {} FETCH FIRST 5 ROWS ONLY",
                self.random.u8(0..3)
            ),
            3 => format!(
                "SELECT s AS whole, s::text AS \"Text\" FROM ({body}) s ORDER BY s::text -- end"
            ),
            _ => format!("SELECT * FROM ({body}) s ORDER BY s::text"),
        };
        Query { text, constants: std::mem::take(&mut self.constants) }
    }

    fn chance(&mut self, one_in: u8) -> bool {
        self.random.u8(0..one_in) == 0
    }

    fn among<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        texts[self.random.usize(0..texts.len())]
    }

    /// A select list of distinct names, and the kinds of its columns.
    fn list(&mut self, scope: Scope, depth: u8) -> String {
        let count = self.random.usize(1..5);
        let first = self.random.usize(0..NAMES.len());
        let columns: Vec<String> = (0..count)
            .map(|number| {
                let kind = self.kind();
                let name = NAMES[(first + number) % NAMES.len()];
                format!("{} AS {name}", self.expression(kind, scope, depth))
            })
            .collect();
        columns.join(", ")
    }

    fn kind(&mut self) -> Kind {
        KINDS[self.random.usize(0..KINDS.len())]
    }

    fn select(&mut self, depth: u8) -> String {
        let item = Scope { item: true, grp: false };
        let both = Scope { item: true, grp: true };
        match self.random.u8(0..12) {
            0 => format!("SELECT * FROM item i WHERE {}", self.condition(item, depth)),
            1 => {
                let join = self.among(&["JOIN", "LEFT JOIN", "FULL JOIN", "RIGHT JOIN"]);
                let list = self.list(both, depth);
                {
                    let condition = self.condition(both, depth);
                    format!(
                        "SELECT {list} FROM item i {join} grp g ON i.grp = g.id WHERE {condition}"
                    )
                }
            }
            2 => self.grouped(item, depth),
            3 => self.values(depth),
            4 => self.combined(item, depth),
            5 => self.windowed(item),
            6 => format!(
                "WITH RECURSIVE r AS (SELECT id, parent, 1 AS d FROM grp WHERE parent IS NULL
                 UNION ALL
                 SELECT g.id, g.parent, d + 1 FROM grp g JOIN r ON g.parent = r.id)
                 SELECT r.*, {} AS e FROM r",
                self.expression(Kind::Text, Scope::default(), depth)
            ),
            7 => format!(
                "SELECT i.id, l.* FROM item i,
                 LATERAL (SELECT g.label, {} AS z FROM grp g WHERE g.id <= i.grp) l WHERE {}",
                self.expression(Kind::Numeric, both, depth),
                self.condition(item, depth)
            ),
            8 => format!(
                "SELECT DISTINCT {} FROM item i WHERE {}",
                self.list_of(&[Kind::Int, Kind::Text, Kind::Bool], item, depth),
                self.condition(item, depth)
            ),
            9 => format!(
                "SELECT i AS row, i.tags, u.* FROM item i,
                 unnest(i.few, i.tags) WITH ORDINALITY AS u(n, t, o) WHERE i.id < {}",
                self.constant()
            ),
            _ => {
                let list = self.list(item, depth);
                format!("SELECT {list} FROM item i WHERE {}", self.condition(item, depth))
            }
        }
    }

    fn list_of(&mut self, kinds: &[Kind], scope: Scope, depth: u8) -> String {
        let columns: Vec<String> = kinds
            .iter()
            .enumerate()
            .map(|(number, kind)| {
                format!("{} AS {}", self.expression(*kind, scope, depth), NAMES[number])
            })
            .collect();
        columns.join(", ")
    }

    fn grouped(&mut self, scope: Scope, depth: u8) -> String {
        let over = self.expression(Kind::Numeric, scope, depth);
        let words = self.expression(Kind::Text, scope, 0);
        let condition = self.condition(scope, depth);
        let by = self.among(&[
            "i.grp",
            "i.ok",
            "GROUPING SETS ((i.grp), (i.ok), ())",
            "ROLLUP (i.grp, i.ok)",
        ]);
        let keys = match by {
            "i.grp" => "i.grp AS k",
            "i.ok" => "i.ok AS k",
            _ => "i.grp AS k, i.ok AS l",
        };
        format!(
            "SELECT {keys}, count(*) AS n, max({over}) AS m,
             string_agg({words}, ',' ORDER BY i.id) AS s,
             array_agg(i.id ORDER BY i.id) FILTER (WHERE i.id > {}) AS f, bool_or(i.ok) AS b,
             jsonb_agg(i.doc ORDER BY i.id) AS d
             FROM item i WHERE {condition} GROUP BY {by} HAVING count(*) > {}",
            self.random.u8(0..40),
            self.random.u8(0..3)
        )
    }

    fn values(&mut self, depth: u8) -> String {
        let kinds = [self.kind(), self.kind(), self.kind()];
        let rows: Vec<String> = (0..self.random.u8(1..5))
            .map(|_| {
                let cells = kinds.map(|kind| self.expression(kind, Scope::default(), depth));
                format!("({})", cells.join(", "))
            })
            .collect();
        format!("VALUES {}", rows.join(", "))
    }

    fn combined(&mut self, scope: Scope, depth: u8) -> String {
        let operator = self.among(&["UNION", "UNION ALL", "EXCEPT", "INTERSECT", "EXCEPT ALL"]);
        let kinds = [Kind::Int, Kind::Text, Kind::Date];
        let mut side = || {
            let list = self.list_of(&kinds, scope, depth);
            format!("SELECT {list} FROM item i WHERE {}", self.condition(scope, depth))
        };
        let (left, right) = (side(), side());
        format!("({left}) {operator} ({right})")
    }

    fn windowed(&mut self, scope: Scope) -> String {
        let function = self.among(&[
            "row_number()",
            "rank()",
            "lag(i.name)",
            "first_value(i.price)",
            "sum(i.id)",
            "count(i.doc)",
            "ntile(3)",
            "max(i.weight)",
        ]);
        let frame = self.among(&[
            "",
            "ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
            "RANGE UNBOUNDED PRECEDING",
        ]);
        format!(
            "SELECT i.id, {function} OVER (PARTITION BY {} ORDER BY i.id {frame}) AS w FROM item i",
            self.expression(Kind::Bool, scope, 1)
        )
    }

    fn condition(&mut self, scope: Scope, depth: u8) -> String {
        if self.chance(3) {
            return "true".into();
        }
        self.expression(Kind::Bool, scope, depth)
    }

    fn constant(&mut self) -> String {
        let value = self.random.i32(-3..45);
        if self.with_parameters && self.constants.len() < 5 && self.random.bool() {
            self.constants.push(value);
            return format!("${}", self.constants.len());
        }
        format!("({value})")
    }

    fn expression(&mut self, kind: Kind, scope: Scope, depth: u8) -> String {
        if depth == 0 || self.chance(4) {
            return self.leaf(kind, scope);
        }
        if self.chance(8) {
            let condition = self.expression(Kind::Bool, scope, depth - 1);
            let yes = self.expression(kind, scope, depth - 1);
            let no = self.expression(kind, scope, depth - 1);
            return format!("CASE WHEN {condition} THEN {yes} ELSE {no} END");
        }
        if self.chance(10) {
            let parts = [self.expression(kind, scope, depth - 1), self.leaf(kind, scope)];
            return format!("coalesce({})", parts.join(", "));
        }
        let pattern = self.among(patterns(kind));
        self.filled(pattern, scope, depth - 1)
    }

    /// Replaces each `%x` of a pattern by an expression of that kind.
    fn filled(&mut self, pattern: &str, scope: Scope, depth: u8) -> String {
        let mut text = String::new();
        let mut rest = pattern.chars();
        while let Some(letter) = rest.next() {
            if letter != '%' {
                text.push(letter);
                continue;
            }
            let kind = match rest.next() {
                Some('i') => Kind::Int,
                Some('n') => Kind::Numeric,
                Some('t') => Kind::Text,
                Some('b') => Kind::Bool,
                Some('f') => Kind::Float,
                Some('d') => Kind::Date,
                Some('z') => Kind::Time,
                Some('s') => Kind::Span,
                Some('T') => Kind::Texts,
                Some('I') => Kind::Ints,
                Some('j') => Kind::Json,
                Some('%') => {
                    text.push('%');
                    continue;
                }
                other => panic!("%{other:?} in {pattern}"),
            };
            text += &self.expression(kind, scope, depth);
        }
        text
    }

    fn leaf(&mut self, kind: Kind, scope: Scope) -> String {
        if kind == Kind::Int && self.random.bool() {
            return self.constant();
        }
        if scope.grp && self.chance(3) {
            match kind {
                Kind::Int => return self.among(&["g.id", "g.parent"]).into(),
                Kind::Text => return "g.label".into(),
                _ => {}
            }
        }
        if scope.item && !self.chance(5) {
            return columns(self, kind).into();
        }
        self.among(literals(kind)).into()
    }
}

fn columns(generator: &mut Generator, kind: Kind) -> &'static str {
    match kind {
        Kind::Int => generator.among(&["i.id", "i.grp"]),
        Kind::Numeric => generator.among(&["i.price", "i.qty::numeric"]),
        Kind::Text => generator.among(&["i.name", "i.\"Odd \"\"N\""]),
        Kind::Bool => "i.ok",
        Kind::Float => "i.weight",
        Kind::Date => "i.day",
        Kind::Time => "i.at",
        Kind::Span => "i.span",
        Kind::Texts => "i.tags",
        Kind::Ints => "i.few",
        Kind::Json => "i.doc",
    }
}
