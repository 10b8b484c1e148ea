//! What this transaction owes Redis, and its delivery before the commit record.

use pg_cache_core::tag::Tag;

/// Notes that what hangs on a tag changes with this transaction.
pub fn note(_tag: Tag) {}

/// Notes a row group; beyond a limit the relation's groups become its `whole` tag.
pub fn note_group(_relation: u32, _tag: Tag) {}

/// Notes a key, without the database's prefix, that is to be gone before the commit returns.
pub fn note_key(_key: &[u8]) {}
