//! Owns the bytes that stand beside a value and say whose value it is.
//!
//! Invariant: a sidecar binds exactly one value, by length and hash, and its first byte is the
//! version of its format. If decoding guessed at bytes it does not know, an entry of another
//! release could be served as this one's; if a value were served unbound, anybody's SET under the
//! user's key would be an answer.

use xxhash_rust::xxh3::xxh3_64;

use crate::fields::Fields;

/// The format that this release writes, and the only one it reads.
pub const FORMAT: u8 = 1;

/// The most dependencies that a sidecar may name: bounds what decoding allocates for bytes that
/// anybody may have written.
pub const DEPS_MAX: usize = 4096;

const HEAD_BYTES: usize = 1 + 16 + 16 + 4 * 8 + 4;
const DEP_BYTES: usize = 4 + 8;

/// The longest one.
pub const BYTES_MAX: usize = HEAD_BYTES + DEPS_MAX * DEP_BYTES;

/// What pg_cache knows about a value in Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// Entries of another generation are void.
    pub generation: u128,
    /// Which query, arguments, settings and relations made the value.
    pub fingerprint: [u8; 16],
    pub value_bytes: u64,
    pub value_hash: u64,
    /// Milliseconds since the Unix epoch, by the clock of the backend that filled.
    pub filled_at_ms: u64,
    /// How long the query took.
    pub cost_us: u64,
    /// The versions of the tags that the value depends on.
    pub deps: Vec<Dep>,
}

/// A tag's bucket and the version it had when the value was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dep {
    pub bucket: u32,
    pub version: u64,
}

/// Why bytes are not a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// Of a format that this release does not read.
    Version(u8),
    /// Too short, too long, or more dependencies than allowed.
    Malformed,
}

impl Sidecar {
    /// Little endian, fixed order. A sidecar with more than `DEPS_MAX` dependencies encodes to
    /// bytes that decode as malformed: such an entry is a miss, never a hit with some of its
    /// dependencies forgotten.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.deps.len() * DEP_BYTES);
        bytes.push(FORMAT);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.fingerprint);
        for number in [self.value_bytes, self.value_hash, self.filled_at_ms, self.cost_us] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let count = u32::try_from(self.deps.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&count.to_le_bytes());
        for dep in &self.deps {
            bytes.extend_from_slice(&dep.bucket.to_le_bytes());
            bytes.extend_from_slice(&dep.version.to_le_bytes());
        }
        bytes
    }

    /// The inverse of `encode`, for any bytes whatever.
    pub fn decode(bytes: &[u8]) -> Result<Sidecar, DecodeError> {
        match bytes.first() {
            None => return Err(DecodeError::Malformed),
            Some(&FORMAT) => {}
            Some(&version) => return Err(DecodeError::Version(version)),
        }
        let mut fields = Fields { rest: &bytes[1..] };
        let sidecar = fields.sidecar().ok_or(DecodeError::Malformed)?;
        if fields.rest.is_empty() { Ok(sidecar) } else { Err(DecodeError::Malformed) }
    }

    /// Whether `value` is the value that this sidecar was written for.
    pub fn binds(&self, value: &[u8]) -> bool {
        self.value_bytes == value.len() as u64 && self.value_hash == value_hash(value)
    }
}

/// The hash by which a sidecar knows its value.
pub fn value_hash(value: &[u8]) -> u64 {
    xxh3_64(value)
}

impl Fields<'_> {
    fn sidecar(&mut self) -> Option<Sidecar> {
        Some(Sidecar {
            generation: u128::from_le_bytes(self.take()?),
            fingerprint: self.take()?,
            value_bytes: u64::from_le_bytes(self.take()?),
            value_hash: u64::from_le_bytes(self.take()?),
            filled_at_ms: u64::from_le_bytes(self.take()?),
            cost_us: u64::from_le_bytes(self.take()?),
            deps: self.deps()?,
        })
    }

    fn deps(&mut self) -> Option<Vec<Dep>> {
        let count = u32::from_le_bytes(self.take()?) as usize;
        if count > DEPS_MAX {
            return None;
        }
        (0..count).map(|_| self.dep()).collect()
    }

    fn dep(&mut self) -> Option<Dep> {
        Some(Dep {
            bucket: u32::from_le_bytes(self.take()?),
            version: u64::from_le_bytes(self.take()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> Sidecar {
        Sidecar {
            generation: 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210,
            fingerprint: *b"fingerprint-of-q",
            value_bytes: 15,
            value_hash: value_hash(b"[{\"answer\":42}]"),
            filled_at_ms: 1_700_000_000_123,
            cost_us: 98_765,
            deps: vec![Dep { bucket: 7, version: 1 }, Dep { bucket: 65_535, version: u64::MAX }],
        }
    }

    #[test]
    fn format_1_is_frozen() {
        // Danger: a changed layout under an unchanged version is read as somebody else's entry.
        // This file is never written anew: a new layout is a new FORMAT and a file of its own.
        let golden = include_bytes!("../tests/golden/sidecar-1.bin");
        assert_eq!(example().encode(), golden, "{}", example().encode().escape_ascii());
        assert_eq!(Sidecar::decode(golden), Ok(example()));
    }

    #[test]
    fn the_hash_of_a_value_is_frozen() {
        // Danger: after an upgrade of the hash crate every entry is foreign.
        assert_eq!(value_hash(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(value_hash(b"[]"), 0x8311_5411_0e30_ac6a);
    }

    #[test]
    fn other_bytes_are_not_a_sidecar() {
        // Danger: half an entry, or one of another release, taken for a whole one of ours.
        let bytes = example().encode();
        for length in 0..bytes.len() {
            assert_eq!(Sidecar::decode(&bytes[..length]), Err(DecodeError::Malformed), "{length}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Sidecar::decode(&longer), Err(DecodeError::Malformed));
        for version in (0..=u8::MAX).filter(|&version| version != FORMAT) {
            let mut other = bytes.clone();
            other[0] = version;
            assert_eq!(Sidecar::decode(&other), Err(DecodeError::Version(version)));
        }
    }

    #[test]
    fn dependencies_are_bounded() {
        // Danger: a count of four billion in a few bytes that anybody can write into Redis.
        let deps = vec![Dep { bucket: 1, version: 1 }; DEPS_MAX];
        let most = Sidecar { deps, ..example() };
        assert_eq!(Sidecar::decode(&most.encode()), Ok(most.clone()));
        assert_eq!(most.encode().len(), BYTES_MAX);
        let mut more = most;
        more.deps.push(Dep { bucket: 1, version: 1 });
        assert_eq!(Sidecar::decode(&more.encode()), Err(DecodeError::Malformed));
        let mut liar = example().encode();
        liar[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Sidecar::decode(&liar), Err(DecodeError::Malformed));
    }

    #[test]
    fn a_sidecar_binds_its_value_and_no_other() {
        // Danger: what another program put under the key is served as the answer.
        let value = b"[{\"answer\":42}]";
        let hash = value_hash(value);
        let sidecar = Sidecar { value_bytes: value.len() as u64, value_hash: hash, ..example() };
        assert!(sidecar.binds(value));
        assert!(!sidecar.binds(b"[{\"answer\":43}]"));
        assert!(!sidecar.binds(b""));
        assert!(!Sidecar { value_bytes: 14, ..sidecar.clone() }.binds(value));
        assert!(!Sidecar { value_hash: hash ^ 1, ..sidecar }.binds(value));
    }

    prop_compose! {
        fn sidecars()(
            generation in any::<u128>(),
            fingerprint in any::<[u8; 16]>(),
            numbers in any::<[u64; 4]>(),
            deps in prop::collection::vec(any::<(u32, u64)>(), 0..20),
        ) -> Sidecar {
            let [value_bytes, value_hash, filled_at_ms, cost_us] = numbers;
            let deps = deps.into_iter().map(|(bucket, version)| Dep { bucket, version }).collect();
            Sidecar {
                generation, fingerprint, value_bytes, value_hash, filled_at_ms, cost_us, deps,
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(sidecar in sidecars()) {
            // Danger: a field that is lost or swapped with its neighbour.
            prop_assert_eq!(Sidecar::decode(&sidecar.encode()), Ok(sidecar));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            // Danger: a value in Redis that crashes every backend that looks at it.
            if let Ok(sidecar) = Sidecar::decode(&bytes) {
                prop_assert_eq!(sidecar.encode(), bytes);
            }
        }

        #[test]
        fn damage_is_read_as_damage_or_as_another(
            sidecar in sidecars(), at in any::<prop::sample::Index>(), flip in 1u8..,
        ) {
            // Danger: two byte strings that mean the same sidecar, or a panic on a damaged count.
            let mut bytes = sidecar.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert_ne!(Sidecar::decode(&bytes), Ok(sidecar));
        }
    }
}
