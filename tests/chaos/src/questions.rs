//! The queries that readers ask, each with its own answer beside it in the same statement.
//!
//! Owns the one statement that proves S1: both sides see one snapshot, so they must be equal
//! whatever writers do. The invariant: a query's rows are ordered, so that equal results are equal
//! text. Break it and the oracle sees ghosts.

use crate::ledger::ROWS;
use crate::schema::GROUPS;

/// How long entries may live: long enough to be stale many times over, short enough that a value
/// whose sidecar somebody deleted does not block its key for the whole run.
const TTL_SECONDS: u32 = 20;

/// What a question needs beside its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// That `blinking` is tracked at that moment: while it is not, nothing is promised.
    Tracked,
    /// That redis_explain calls it exact when both sides differ: a partition that is detached
    /// loses the triggers of its parent, and nothing is promised then.
    Exact,
}

#[derive(Clone, Debug)]
pub struct Question {
    pub key: String,
    /// With `$1` where it has an argument.
    pub query: String,
    pub argument: Option<i32>,
    pub needs: Needs,
    /// How often it is asked, relative to the others.
    pub weight: u32,
}

const PLAIN: &[(&str, &str)] = &[
    ("items_all", "SELECT id, grp, n, note FROM items ORDER BY id"),
    ("items_sums", "SELECT grp, count(*) AS c, sum(n) AS s FROM items GROUP BY grp ORDER BY grp"),
    ("items_const", "SELECT id, n, note FROM items WHERE grp = 3 ORDER BY id"),
    ("items_in", "SELECT id, grp, n FROM items WHERE grp IN (1, 4) ORDER BY id"),
    ("items_or", "SELECT id, grp, n FROM items WHERE grp = 1 OR n = 7 ORDER BY id"),
    (
        "items_left",
        "SELECT i.id, p.n FROM items i LEFT JOIN pets p ON p.id = i.id AND p.owner = 2 \
         ORDER BY i.id",
    ),
    (
        "items_exists",
        "SELECT o.id FROM owners o WHERE EXISTS (SELECT FROM items i \
         WHERE i.grp = o.id AND i.n % 3 = 0) ORDER BY o.id",
    ),
    (
        "pets_all",
        "SELECT p.id, p.name, o.name AS owner FROM pets p JOIN owners o ON o.id = p.owner \
         ORDER BY p.id",
    ),
    (
        "pets_ranked",
        "SELECT id, rank() OVER (PARTITION BY owner ORDER BY n DESC, id) AS r \
         FROM pets ORDER BY id",
    ),
    ("parts_all", "SELECT id, region, n, note FROM parts ORDER BY id, region, n"),
    ("parts_leaf", "SELECT id, n FROM parts_b3 ORDER BY id, n"),
    (
        "parts_sums",
        "SELECT region, count(*) AS c, sum(n) AS s FROM parts GROUP BY region \
         ORDER BY region",
    ),
    ("base_all", "SELECT id, n FROM base ORDER BY id, n"),
    ("base_only", "SELECT id, n FROM ONLY base ORDER BY id, n"),
    ("child_all", "SELECT id, n, extra FROM child ORDER BY id, n"),
    ("summary", "SELECT grp, c, s FROM summary ORDER BY grp"),
    ("shown", "SELECT id, n FROM shown ORDER BY id"),
    ("scaled", "SELECT id, scale(v) AS n FROM wide ORDER BY id"),
    ("wide", "SELECT id, v FROM wide ORDER BY id"),
    ("habits", "SELECT id, n FROM habits ORDER BY id"),
    ("extras", "SELECT id, n FROM extras ORDER BY id"),
    ("twin", "SELECT id, n FROM twin_a ORDER BY id"),
    ("moods", "SELECT id, m::text AS m FROM moods ORDER BY id"),
    ("secrets", "SELECT id, n FROM secrets ORDER BY id"),
    (
        "union",
        "SELECT id, n FROM wide JOIN twin_a USING (id) UNION ALL \
         SELECT grp, max(n) FROM items WHERE grp = 5 GROUP BY grp ORDER BY 1, 2",
    ),
];

const WITH_GROUP: &[(&str, &str)] = &[
    ("items_of", "SELECT id, n, note FROM items WHERE grp = $1 ORDER BY id"),
    ("items_sum_of", "SELECT count(*) AS c, sum(n) AS s FROM items WHERE grp = $1"),
    (
        "pets_of",
        "SELECT o.name AS owner, p.id, p.name, p.n FROM owners o \
         JOIN pets p ON p.owner = o.id WHERE o.id = $1 ORDER BY p.id",
    ),
    ("parts_of", "SELECT id, n, note FROM parts WHERE region = $1 ORDER BY id, n"),
    (
        "joined_of",
        "SELECT i.id, p.n FROM items i JOIN pets p ON p.owner = i.grp AND p.id = i.id \
         WHERE i.grp = $1 ORDER BY i.id",
    ),
];

const USER: &str = "SELECT id, version, payload FROM users WHERE id = $1";

/// Long enough in the making that a commit often falls into it.
const SLOW_USER: &str = "SELECT id, version, payload, \
    (SELECT count(*) FROM generate_series(1, 20000)) AS work FROM users WHERE id = $1";

/// All of them. Rows with a trigger that names their key come first, `ROWS` of them.
pub fn all() -> Vec<Question> {
    let mut all = Vec::new();
    for id in 0..ROWS {
        let query = if id % 4 == 0 { SLOW_USER } else { USER };
        all.push(question(user_key(id), query, Some(id as i32), 2));
    }
    for (name, query) in PLAIN {
        let plain = question(format!("{name}:x"), query, None, 3);
        // A leaf that is detached now and then, asked by its own name.
        let needs = if *name == "parts_leaf" { Needs::Exact } else { Needs::Nothing };
        all.push(Question { needs, ..plain });
    }
    for (name, query) in WITH_GROUP {
        for group in 0..GROUPS {
            all.push(question(format!("{name}:{group}"), query, Some(group), 2));
        }
    }
    let blinking = question("blinking:x".into(), "SELECT id, n FROM blinking ORDER BY id", None, 3);
    all.push(Question { needs: Needs::Tracked, ..blinking });
    all
}

/// The key under which a plain client finds a row.
pub fn user_key(id: usize) -> String {
    format!("user:{id}")
}

fn question(key: String, query: &str, argument: Option<i32>, weight: u32) -> Question {
    Question { key, query: query.to_owned(), argument, needs: Needs::Nothing, weight }
}

impl Question {
    /// Yields `same boolean, cached text, computed text`, the latter two null where they are equal.
    pub fn check(&self) -> String {
        self.over(&format!("'{}'", self.key), "", "")
    }

    /// The same in each of five rows, which the caller may fetch one after the other: the snapshot
    /// grows old between them. Where they differ, a fourth column names it for others.
    pub fn check_by_rows(&self) -> String {
        // The key depends on the row, so that it is asked anew for each; the computed side need
        // not be: its snapshot is the same.
        let key = format!("'{}' || left(g::text, 0)", self.key);
        let snapshot = ", CASE WHEN t.same THEN NULL ELSE pg_export_snapshot() END";
        self.over(&key, "generate_series(1, 5) AS g, LATERAL", snapshot)
    }

    fn over(&self, key: &str, rows: &str, more: &str) -> String {
        let cached = match self.argument {
            Some(value) => {
                format!("redis_cached({key}, {TTL_SECONDS}, $q${}$q$, {value})", self.query)
            }
            None => format!("redis_cached({key}, {TTL_SECONDS}, $q${}$q$)", self.query),
        };
        let computed = self.computed();
        // OFFSET 0 keeps the planner from asking twice.
        format!(
            "SELECT t.same, CASE WHEN t.same THEN NULL ELSE t.c::text END, \
                    CASE WHEN t.same THEN NULL ELSE t.d::text END {more} \
               FROM {rows} (SELECT s.c, s.d, s.c::jsonb = s.d AS same \
                       FROM (SELECT {cached} AS c, \
                                    ({computed}) AS d OFFSET 0) AS s OFFSET 0) AS t"
        )
    }

    /// The query's own rows, as one jsonb.
    pub fn computed(&self) -> String {
        let direct = match self.argument {
            Some(value) => self.query.replace("$1", &value.to_string()),
            None => self.query.clone(),
        };
        format!("SELECT coalesce(jsonb_agg(to_jsonb(x)), '[]') FROM ({direct}) AS x")
    }

    /// What the extension says about it, for the details of a violation.
    pub fn explain(&self) -> String {
        match self.argument {
            Some(value) => {
                format!("SELECT redis_explain('{}', $q${}$q$, {value})::text", self.key, self.query)
            }
            None => format!("SELECT redis_explain('{}', $q${}$q$)::text", self.key, self.query),
        }
    }
}

/// Draws a question by its weight.
pub fn draw(questions: &[Question], random: &mut fastrand::Rng) -> usize {
    let sum: u32 = questions.iter().map(|question| question.weight).sum();
    let mut left = random.u32(..sum);
    for (index, question) in questions.iter().enumerate() {
        if left < question.weight {
            return index;
        }
        left -= question.weight;
    }
    0
}
