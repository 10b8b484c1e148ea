//! What a query came to, its text or its SQLSTATE, and the comparison with PostgreSQL's own answer.
//!
//! Owns the one definition of "the right answer": `json_agg(row_to_json())` by the same session at
//! the same moment. Break it and every comparison of the suite is against something else.

use postgres::{Client, Error};

/// The text, or the SQLSTATE.
pub type Outcome = Result<String, String>;

/// The SQLSTATE of an error; panics with the error when the server did not raise it.
#[track_caller]
pub fn sqlstate(error: &Error) -> String {
    match error.code() {
        Some(code) => code.code().to_owned(),
        None => panic!("not an error of the server: {error:?}"),
    }
}

/// The message, detail and hint of an error in one text.
pub fn words(error: &Error) -> String {
    match error.as_db_error() {
        Some(error) => format!(
            "{} | {} | {}",
            error.message(),
            error.detail().unwrap_or(""),
            error.hint().unwrap_or("")
        ),
        None => format!("{error:?}"),
    }
}

#[track_caller]
fn outcome(result: Result<postgres::Row, Error>) -> Outcome {
    match result {
        Ok(row) => Ok(row.get(0)),
        Err(error) => Err(sqlstate(&error)),
    }
}

/// `redis_cached(key, 60, query)`.
#[track_caller]
pub fn cached(client: &mut Client, key: &str, query: &str) -> Outcome {
    outcome(client.query_one("SELECT redis_cached($1, 60, $2)::text", &[&key, &query]))
}

/// PostgreSQL's own answer.
#[track_caller]
pub fn direct(client: &mut Client, query: &str) -> Outcome {
    // An alias that no column of the query has: row_to_json would take the column.
    let sql = format!(
        "SELECT coalesce(json_agg(row_to_json(of_all)), '[]')::text FROM (\n{query}\n) AS of_all"
    );
    outcome(client.query_one(&sql, &[]))
}

/// Asserts that the cached answer is PostgreSQL's own, and returns it.
#[track_caller]
pub fn same_as_direct(client: &mut Client, key: &str, query: &str) -> Outcome {
    let expected = direct(client, query);
    let got = cached(client, key, query);
    assert_eq!(got, expected, "redis_cached('{key}') against PostgreSQL's own answer: {query}");
    got
}

/// The word under `status` in `redis_explain(key, query)`.
#[track_caller]
pub fn status(client: &mut Client, key: &str, query: &str) -> String {
    explained(client, key, query, "status").expect("redis_explain names a status")
}

/// A field of `redis_explain(key, query)` as text.
#[track_caller]
pub fn explained(client: &mut Client, key: &str, query: &str, field: &str) -> Option<String> {
    let row = client
        .query_one("SELECT redis_explain($1, $2)->>$3::text", &[&key, &query, &field])
        .unwrap_or_else(|error| panic!("redis_explain('{key}'): {error:?}"));
    row.get(0)
}
