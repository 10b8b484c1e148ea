//! Owns the bytes of the tag table: one hash in Redis for each database and shard.
//!
//! Its fields are the generation `R`, the base `B`, the version counter `V`, a `claim` while the
//! worker makes it, and one field for each bucket that was ever bumped: `version:xid,xid,…`, all in
//! decimal. A field that is not there is version 0 without writers.
//!
//! Invariant: bytes that we did not write are malformed, never a shorter list. A writer that was
//! overlooked in a list is a stale read; a malformed list costs a computation.

use crate::decimal;

/// The field that names the generation, 32 hexadecimal digits.
pub const GENERATION: &str = "R";

/// The field with the transaction ID of the worker that made the table. It belongs to every list.
pub const BASE: &str = "B";

/// The field that counts versions.
pub const VERSION: &str = "V";

/// The field with the nonce of the worker that makes the table.
pub const CLAIM: &str = "claim";

/// The field of the catalogue's bucket.
pub const CATALOGUE: &str = "C";

/// The name of the table. The braces put it into a slot of its own choice on a cluster.
pub fn key(system: u64, database: u32, shard: u32) -> Vec<u8> {
    format!("pgc:t:{{{system}.{database}.{shard}}}").into_bytes()
}

/// A generation as it stands in `R`: 32 digits in lower case.
pub fn generation_text(generation: u128) -> [u8; 32] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|place| HEX[(generation >> (124 - 4 * place)) as usize & 0xf])
}

/// The inverse of [`generation_text`]; None for any other spelling.
pub fn parse_generation(bytes: &[u8]) -> Option<u128> {
    if bytes.len() != 32 {
        return None;
    }
    bytes.iter().try_fold(0u128, |generation, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(generation << 4 | u128::from(digit))
    })
}

/// A transaction ID as it stands in `B`.
pub fn parse_xid(bytes: &[u8]) -> Option<u64> {
    decimal::parse(bytes)
}

/// A bucket: its version, and who wrote it lately.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Field {
    pub version: u64,
    pub xids: Vec<u64>,
}

impl Field {
    /// A field that is not there is version 0 without writers. None: not bytes of ours, so nobody
    /// can say who wrote the bucket.
    pub fn parse(bytes: Option<&[u8]>) -> Option<Field> {
        let mut field = Field::default();
        field.version = scan(bytes, |xid| field.xids.push(xid))?;
        Some(field)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        decimal::write(&mut out, self.version);
        for (place, xid) in self.xids.iter().enumerate() {
            out.push(if place == 0 { b':' } else { b',' });
            decimal::write(&mut out, *xid);
        }
        if self.xids.is_empty() {
            out.push(b':');
        }
        out
    }
}

/// The version of a bucket, and whether all its writers are complete; None if it is malformed.
pub fn all_complete(bytes: Option<&[u8]>, complete: impl Fn(u64) -> bool) -> Option<(u64, bool)> {
    let mut all = true;
    let version = scan(bytes, |xid| all = all && complete(xid))?;
    Some((version, all))
}

/// The version of a bucket; None if it is malformed.
pub fn version(bytes: Option<&[u8]>) -> Option<u64> {
    scan(bytes, |_| ())
}

/// Reads a field to its end and reports each writer. Allocates nothing.
fn scan(bytes: Option<&[u8]>, mut writer: impl FnMut(u64)) -> Option<u64> {
    let Some(bytes) = bytes else { return Some(0) };
    let (version, rest) = decimal::split(bytes)?;
    let mut rest = rest.strip_prefix(b":")?;
    if rest.is_empty() {
        return Some(version);
    }
    loop {
        let (xid, behind) = decimal::split(rest)?;
        writer(xid);
        if behind.is_empty() {
            return Some(version);
        }
        rest = behind.strip_prefix(b",")?;
    }
}

/// What BUMP makes of a bucket, as the script does it: keeps the writers that are in progress in the
/// snapshot P of transaction `x`, appends `x`, and takes the next version. Writers that are
/// complete in P may go: who sees `x` as complete sees them too.
pub fn bump(field: &Field, version: u64, x: u64, in_progress: &dyn Fn(u64) -> bool) -> Field {
    let kept = field.xids.iter().copied().filter(|&xid| xid != x && in_progress(xid));
    Field { version, xids: kept.chain([x]).collect() }
}
