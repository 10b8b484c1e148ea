//! `redis_cached_view`: a view over `redis_cached_rows`, so that an ORM reads through the cache
//! without knowing it.

use pg_cache_core::error::Error;

use crate::pg::error::Outcome;
use crate::pg::plan::{self, Column};
use crate::pg::{classify, quote, text, utility};

/// Creates the view with the query's own column names and types. The key is `view:` and its
/// qualified name.
pub fn create(our_schema: String, name: &str, ttl_ms: u64, query: &[u8]) -> Outcome<()> {
    let plan = plan::get(query, &[])?;
    if let Some(error) = &plan.analysis.refusal {
        return Err(error.clone().into());
    }
    for (index, column) in plan.columns.iter().enumerate() {
        if plan.columns[..index].iter().any(|before| before.name == column.name) {
            return Err(Error::DuplicateColumn { name: column.name.clone() }.into());
        }
    }
    let view =
        quote::qualified_name(name).ok_or_else(|| Error::ViewName { name: name.to_owned() })?;
    let columns: Vec<_> = plan.columns.iter().map(definition).collect();
    let statement = format!(
        "CREATE VIEW {view} AS SELECT * FROM {schema}.redis_cached_rows({key}, \
         interval '{ttl_ms} milliseconds', {query}) AS t({columns})",
        schema = quote::identifier(&our_schema),
        key = quote::literal(&format!("view:{view}")),
        query = quote::literal(&text::string(query)),
        columns = columns.join(", "),
    );
    utility::run(&statement)
}

fn definition(column: &Column) -> String {
    let type_name = classify::type_name_with_modifier(column.type_oid, column.type_modifier);
    format!("{} {type_name}", quote::identifier(&column.name))
}
