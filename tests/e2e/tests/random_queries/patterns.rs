//! What the generator builds from: for each kind of value, its literals and its expressions.
//!
//! The invariant: each is deterministic and may be cached. Break it and two executions differ.

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Int,
    Numeric,
    Text,
    Bool,
    Float,
    Date,
    Time,
    Span,
    Texts,
    Ints,
    Json,
}

pub const KINDS: [Kind; 11] = [
    Kind::Int,
    Kind::Numeric,
    Kind::Text,
    Kind::Bool,
    Kind::Float,
    Kind::Date,
    Kind::Time,
    Kind::Span,
    Kind::Texts,
    Kind::Ints,
    Kind::Json,
];

/// Values of that kind that stand by themselves.
pub fn literals(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Int => &["0", "NULL::int", "2147483647", "(-1)"],
        Kind::Numeric => {
            &["0.0", "1.10", "NULL::numeric", "'NaN'::numeric", "1e20::numeric", "(-0.001)"]
        }
        Kind::Text => &[
            "''::text",
            "'it''s'::text",
            "NULL::text",
            "E'a\\nb'::text",
            "'ü😀'::text",
            "'{\"a\":1}'::text",
            "'\\'::text",
        ],
        Kind::Bool => &["true", "false", "NULL::bool"],
        Kind::Float => {
            &["0.1::float8", "'-Infinity'::float8", "NULL::float8", "1e-7::float8", "'-0'::float8"]
        }
        Kind::Date => {
            &["date '2024-02-29'", "NULL::date", "'infinity'::date", "date '0044-03-15 BC'"]
        }
        Kind::Time => {
            &["timestamptz '2024-01-01 00:00+00'", "NULL::timestamptz", "'-infinity'::timestamptz"]
        }
        Kind::Span => &["interval '1 day'", "NULL::interval", "interval '-1 mon 2 days 03:04'"],
        Kind::Texts => &[
            "'{}'::text[]",
            "ARRAY['a', NULL, '\"']::text[]",
            "NULL::text[]",
            "'{{a,b},{c,d}}'::text[]",
        ],
        Kind::Ints => &["'{}'::int[]", "ARRAY[1, 2]", "NULL::int[]", "'[0:1]={1,2}'::int[]"],
        Kind::Json => {
            &["'{\"b\": 2, \"a\": [1, {\"c\": null}]}'::jsonb", "NULL::jsonb", "'1.0'::jsonb"]
        }
    }
}

const INT: &[&str] = &[
    "(%i + %i)",
    "(%i %% 7)",
    "abs(%i)",
    "length(%t)",
    "cardinality(%I)",
    "nullif(%i, %i)",
    "(%i / nullif(%i, 0))",
    "(SELECT max(z.id) FROM grp z WHERE z.id < %i)",
    "extract(day FROM %d)::int",
    "greatest(%i, %i)",
    "(%i / %i)",
    "ascii(%t)",
];

const NUMERIC: &[&str] = &[
    "(%n + %n)",
    "(%n * 1.5)",
    "round(%n, 2)",
    "%i::numeric",
    "(%n / 3)",
    "trunc(%n)",
    "least(%n, %n)",
];

const TEXT: &[&str] = &[
    "upper(%t)",
    "(%t || %t)",
    "%i::text",
    "%n::text",
    "substr(%t, 2, 3)",
    "replace(%t, 'a', '\"')",
    "md5(%t)",
    "%j::text",
    "%T::text",
    "format('%%s-%%L', %i, %t)",
    "to_json(%t)::text",
    "quote_literal(%t)",
    "reverse(%t)",
];

const BOOL: &[&str] = &[
    "(%i < %i)",
    "(%t = %t)",
    "(%n IS NULL)",
    "(%b AND %b)",
    "(%b OR NOT %b)",
    "(%t LIKE '%%a%%')",
    "(%i = ANY ((%I)::int[]))",
    "(%i IN (1, 2, %i))",
    "EXISTS (SELECT FROM grp z WHERE z.id = %i)",
    "(%d BETWEEN %d AND %d)",
    "(%j @> '{\"a\": 1.10}')",
    "(%i IS DISTINCT FROM %i)",
    "(%t ~ '^[a-z]')",
    "(%f > %f)",
];

const FLOAT: &[&str] = &["(%f * 2)", "%i::float8", "sqrt(abs(%i))", "%n::float8", "-(%f)"];

const DATE: &[&str] =
    &["(%d + %i)", "%z::date", "date_trunc('month', %z)::date", "greatest(%d, %d)"];

const TIME: &[&str] =
    &["(%z + %s)", "date_trunc('hour', %z)", "(%z AT TIME ZONE 'Asia/Kolkata')::timestamptz"];

const SPAN: &[&str] =
    &["(%s * 2)", "make_interval(hours => %i)", "(%s + %s)", "justify_days(%s)", "(-%s)"];

const TEXTS: &[&str] = &[
    "(%T || %T)",
    "array_append(%T, %t)",
    "string_to_array(%t, 'a')",
    "array_remove(%T, '')",
    "ARRAY[%t, %t]",
];

const INTS: &[&str] = &[
    "ARRAY[%i, %i]",
    "array_prepend(%i, %I)",
    "(SELECT array_agg(z.id ORDER BY z.id) FROM grp z WHERE z.id > %i)",
];

const JSON: &[&str] = &[
    "to_jsonb(%t)",
    "jsonb_build_object('k', %i, 'l', %t)",
    "(%j -> 'b')",
    "to_jsonb(%T)",
    "jsonb_build_array(%n, %f, %z)",
    "to_jsonb(ROW(%i, %t))",
    "(%j || jsonb_build_object('x', %b))",
];

/// Expressions of that kind; `%x` stands for one of kind x.
pub fn patterns(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Int => INT,
        Kind::Numeric => NUMERIC,
        Kind::Text => TEXT,
        Kind::Bool => BOOL,
        Kind::Float => FLOAT,
        Kind::Date => DATE,
        Kind::Time => TIME,
        Kind::Span => SPAN,
        Kind::Texts => TEXTS,
        Kind::Ints => INTS,
        Kind::Json => JSON,
    }
}
