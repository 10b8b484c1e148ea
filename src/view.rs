//! `redis_cached_view`: a view over `redis_cached_rows`, so that an ORM reads through the cache
//! without knowing it.

use pg_cache_core::error::Error;

use crate::pg::error::Outcome;
use crate::pg::plan::{self, Column};
use crate::pg::{classify, quote, text, utility};

/// Creates the view with the query's own column names and types. The key is `view:` and its
/// qualified name.
///
/// A view means the same objects whoever reads it. So the query is first made a plain view, for
/// PostgreSQL to resolve its names, and read back with each name qualified.
pub fn create(our_schema: String, name: &str, ttl_ms: u64, query: &[u8]) -> Outcome<()> {
    let plan = plan::get(query, &[])?;
    if let Some(error) = &plan.analysis.refusal {
        return Err(error.clone().into());
    }
    if plan.columns.is_empty() {
        return Err(Error::ColumnNotReturned { name: "*".to_owned(), returned: Vec::new() }.into());
    }
    for (index, column) in plan.columns.iter().enumerate() {
        if plan.columns[..index].iter().any(|before| before.name == column.name) {
            return Err(Error::DuplicateColumn { name: column.name.clone() }.into());
        }
    }
    let view =
        quote::qualified_name(name).ok_or_else(|| Error::ViewName { name: name.to_owned() })?;
    utility::run(&format!("CREATE VIEW {view} AS {}", text::string(query)))?;
    let resolved = utility::view_definition(&view)?;
    utility::run(&format!("DROP VIEW {view}"))?;
    let columns: Vec<_> = plan.columns.iter().map(definition).collect();
    utility::run(&format!(
        "CREATE VIEW {view} AS SELECT * FROM {schema}.redis_cached_rows({key}, \
         interval '{ttl_ms} milliseconds', {query}) AS t({columns})",
        schema = quote::identifier(&our_schema),
        key = quote::literal(&format!("view:{view}")),
        query = quote::literal(resolved.trim().trim_end_matches(';')),
        columns = columns.join(", "),
    ))
}

fn definition(column: &Column) -> String {
    let type_name = classify::type_name_with_modifier(column.type_oid, column.type_modifier);
    format!("{} {type_name}", quote::identifier(&column.name))
}
