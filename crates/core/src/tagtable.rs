//! Owns the bytes of the tag table: one hash in Redis for each database and shard.
//!
//! Its fields are the generation `R`, the base `B`, the version counter `V`, a `claim` while the
//! worker makes it, and one field for each bucket that was ever bumped: `version:xid,xid,…`, all in
//! decimal. A field that is not there is version 0 without writers.
//!
//! Invariant: bytes that we did not write are malformed, never a shorter list. A writer that was
//! overlooked in a list is a stale read; a malformed list costs a computation.

pub mod memory;

use smallvec::SmallVec;

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

/// The name of the set of generations whose entries may still be there. A slot of its own, too.
pub fn generations_key(system: u64, database: u32, shard: u32) -> Vec<u8> {
    format!("pgc:g:{{{system}.{database}.{shard}}}").into_bytes()
}

/// The name of the sorted set of those whose entries were swept, by the time of that. Whoever
/// looked under one of them may fill an entry all the same, behind the sweep.
pub fn swept_key(system: u64, database: u32, shard: u32) -> Vec<u8> {
    format!("pgc:f:{{{system}.{database}.{shard}}}").into_bytes()
}

/// How many generations that were swept are remembered; the oldest give way.
pub const SWEPT_MAX: usize = 4096;

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

/// Those of one entry: few, so that a hit asks nobody for memory.
pub type Fields = SmallVec<[Field; 8]>;

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

/// The version of a bucket; None if it is malformed.
pub fn version(bytes: Option<&[u8]>) -> Option<u64> {
    scan(bytes, |_| ())
}

/// Reads a field to its end and reports each writer: gives its version, or None if it is malformed.
/// Allocates nothing.
pub fn scan(bytes: Option<&[u8]>, mut writer: impl FnMut(u64)) -> Option<u64> {
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

/// What BUMP makes of a bucket, as the script does it: keeps the writers that are in progress in
/// the snapshot P of transaction `x`, puts `x` before them, and takes the next version. Writers
/// that are complete in P may go: who sees `x` as complete sees them too.
pub fn bump(field: &Field, version: u64, x: u64, in_progress: &dyn Fn(u64) -> bool) -> Field {
    let kept = field.xids.iter().copied().filter(|&xid| xid != x && in_progress(xid));
    Field { version, xids: [x].into_iter().chain(kept).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tag::Bucket;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn field(version: u64, xids: &[u64]) -> Field {
        Field { version, xids: xids.to_vec() }
    }

    #[test]
    fn the_names_and_bytes_never_change() {
        // Danger: during an upgrade, old and new backends write and read different tables.
        assert_eq!(key(7_101_234_567_890_123_456, 5, 0), b"pgc:t:{7101234567890123456.5.0}");
        assert_eq!(generations_key(7, 5, 0), b"pgc:g:{7.5.0}");
        assert_eq!(swept_key(7, 5, 0), b"pgc:f:{7.5.0}");
        assert_eq!([GENERATION, BASE, VERSION, CLAIM, CATALOGUE], ["R", "B", "V", "claim", "C"]);
        assert_eq!(Bucket::CATALOGUE.field(), CATALOGUE.as_bytes());
        assert_eq!(&generation_text(0xabc << 112), b"0abc0000000000000000000000000000");
        assert_eq!(field(7, &[]).encode(), b"7:");
        assert_eq!(field(u64::MAX, &[9, 800]).encode(), b"18446744073709551615:9,800");
    }

    #[test]
    fn a_missing_field_is_version_0_without_writers() {
        // Danger: nothing can be cached until everything was written once.
        assert_eq!(Field::parse(None), Some(Field::default()));
        assert_eq!(version(None), Some(0));
    }

    #[test]
    fn other_bytes_are_malformed_never_a_shorter_list() {
        // Danger: the writer behind the damage is overlooked, and what it wrote is not seen.
        for bytes in [
            "",
            ":",
            "7",
            "7,8",
            "x:8",
            "7:8,",
            "7:,8",
            "7:8,,9",
            "7:8 ",
            "7: 8",
            "7:8:9",
            "07:8",
            "7:08",
            "-7:8",
            "7:8,x",
            "7:8\n",
            "7:18446744073709551616",
        ] {
            let bytes = Some(bytes.as_bytes());
            assert_eq!(Field::parse(bytes), None, "{bytes:?}");
            assert_eq!(version(bytes), None, "{bytes:?}");
        }
        for bytes in ["", "ABC", &"0".repeat(31), &"0".repeat(33), &"A".repeat(32)] {
            assert_eq!(parse_generation(bytes.as_bytes()), None, "{bytes}");
        }
    }

    #[test]
    fn a_bump_keeps_who_is_in_progress_and_adds_the_writer() {
        // Danger: a list without a running writer, or one that grows for ever.
        let running = |xid| xid == 8 || xid >= 20;
        assert_eq!(bump(&field(3, &[7, 8, 9]), 4, 21, &running), field(4, &[21, 8]));
        assert_eq!(bump(&Field::default(), 1, 21, &running), field(1, &[21]));
        // Twice by the same writer: a reply was lost.
        assert_eq!(bump(&field(4, &[8, 21, 22]), 5, 21, &running), field(5, &[21, 8, 22]));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(version in any::<u64>(), xids in vec(any::<u64>(), 0..6)) {
            // Danger: a writer that comes back as another.
            let field = Field { version, xids };
            let bytes = field.encode();
            prop_assert_eq!(Field::parse(Some(&bytes)), Some(field.clone()));
            let mut told = Vec::new();
            prop_assert_eq!(scan(Some(&bytes), |xid| told.push(xid)), Some(version));
            prop_assert_eq!(told, field.xids);
            prop_assert_eq!(super::version(Some(&bytes)), Some(version));
        }

        #[test]
        fn only_what_we_write_is_read(bytes in "[0-9:,x]{0,12}") {
            // Danger: two byte strings that mean the same, or a panic on bytes from anywhere.
            if let Some(field) = Field::parse(Some(bytes.as_bytes())) {
                prop_assert_eq!(field.encode(), bytes.as_bytes());
            }
        }

        #[test]
        fn a_generation_has_one_spelling(generation in any::<u128>(), bytes in "[0-9a-fA-F]{32}") {
            // Danger: two generations that compare equal, or one that never equals itself.
            prop_assert_eq!(parse_generation(&generation_text(generation)), Some(generation));
            if let Some(generation) = parse_generation(bytes.as_bytes()) {
                prop_assert_eq!(&generation_text(generation)[..], bytes.as_bytes());
            }
        }

        /// The heart of the claim in `fence`: a snapshot in which every listed writer is complete
        /// sees every committed writer. Writers finish in some order; a snapshot is a prefix of it.
        #[test]
        fn who_sees_the_list_complete_sees_every_writer(
            // Each writer: when it takes P, when it bumps (not before), when it ends (not before).
            times in vec((0u8..20, 0u8..20, 0u8..20), 1..6), seen_at in 0u8..64,
        ) {
            // Danger: a writer dropped from the list whom some reader does not see yet.
            let writers: Vec<(u8, u8, u8)> = times
                .iter()
                .map(|(p, bump, end)| (*p, p + bump, p + bump + end))
                .collect();
            let complete_at = |xid: u64, moment: u8| writers[xid as usize].2 < moment;
            let mut bumps: Vec<u64> = (0..writers.len() as u64).collect();
            bumps.sort_by_key(|xid| writers[*xid as usize].1);
            let mut field = Field::default();
            let mut bumped = Vec::new();
            for x in bumps {
                let p = writers[x as usize].0;
                field = bump(&field, field.version + 1, x, &|xid| !complete_at(xid, p));
                bumped.push(x);
                let listed = field.xids.iter().all(|xid| complete_at(*xid, seen_at));
                let everyone = bumped.iter().all(|xid| complete_at(*xid, seen_at));
                prop_assert_eq!(listed, everyone);
            }
        }
    }
}
