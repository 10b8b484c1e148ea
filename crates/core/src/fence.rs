//! Owns the judgement of what a look at Redis found: may this value be served?
//!
//! Invariant: a hit is a value that our sidecar binds, of our generation and our fingerprint.
//! Whatever else is found is a miss with its reason. Without this, somebody would receive what
//! another query, another role's row security or another program put under the same key.

use crate::reason::Reason;
use crate::sidecar::Sidecar;

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement<'a> {
    Hit { sidecar: Sidecar, value: &'a [u8] },
    Miss(Reason),
}

/// Judges the replies of one MGET of value and sidecar.
pub fn judge<'a>(
    value: Option<&'a [u8]>,
    sidecar: Option<&[u8]>,
    generation: u128,
    fingerprint: &[u8; 16],
) -> Judgement<'a> {
    let (value, sidecar) = match (value, sidecar) {
        (Some(value), Some(sidecar)) => (value, sidecar),
        // Somebody else's value: an entry of ours never stands without its sidecar for longer
        // than their common expiry takes.
        (Some(_), None) => return Judgement::Miss(Reason::Foreign),
        (None, _) => return Judgement::Miss(Reason::Cold),
    };
    let Ok(sidecar) = Sidecar::decode(sidecar) else { return Judgement::Miss(Reason::Format) };
    // First whose it is, then which: what another program put there must not be replaced.
    if !sidecar.binds(value) {
        return Judgement::Miss(Reason::Foreign);
    }
    if sidecar.generation != generation || sidecar.fingerprint != *fingerprint {
        return Judgement::Miss(Reason::Fingerprint);
    }
    Judgement::Hit { sidecar, value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::value_hash;
    use proptest::prelude::*;

    const VALUE: &[u8] = b"[{\"answer\":42}]";
    const OURS: (u128, [u8; 16]) = (7, [1; 16]);

    fn sidecar_of(value: &[u8]) -> Sidecar {
        Sidecar {
            generation: OURS.0,
            fingerprint: OURS.1,
            value_bytes: value.len() as u64,
            value_hash: value_hash(value),
            filled_at_ms: 1,
            cost_us: 2,
            deps: Vec::new(),
        }
    }

    fn judge_ours<'a>(value: Option<&'a [u8]>, sidecar: Option<&[u8]>) -> Judgement<'a> {
        judge(value, sidecar, OURS.0, &OURS.1)
    }

    #[test]
    fn our_entry_is_a_hit() {
        // Danger: a cache that never hits is still exact, and useless.
        for value in [VALUE, b""] {
            let sidecar = sidecar_of(value);
            let bytes = sidecar.encode();
            assert_eq!(judge_ours(Some(value), Some(&bytes)), Judgement::Hit { sidecar, value });
        }
    }

    #[test]
    fn everything_else_is_a_miss_with_its_reason() {
        // Danger: another query's rows served as ours, or a reason that sends people astray.
        let bytes = sidecar_of(VALUE).encode();
        let miss = |reason| Judgement::Miss(reason);
        assert_eq!(judge_ours(None, None), miss(Reason::Cold));
        assert_eq!(judge_ours(None, Some(&bytes)), miss(Reason::Cold));
        assert_eq!(judge_ours(Some(VALUE), None), miss(Reason::Foreign));
        assert_eq!(judge_ours(Some(VALUE), Some(b"")), miss(Reason::Format));
        assert_eq!(judge_ours(Some(VALUE), Some(&bytes[1..])), miss(Reason::Format));
        assert_eq!(judge_ours(Some(b"[]"), Some(&bytes)), miss(Reason::Foreign));
        let other_generation = judge(Some(VALUE), Some(&bytes), 8, &OURS.1);
        assert_eq!(other_generation, miss(Reason::Fingerprint));
        let other_fingerprint = judge(Some(VALUE), Some(&bytes), OURS.0, &[2; 16]);
        assert_eq!(other_fingerprint, miss(Reason::Fingerprint));
        let other_and_foreign = judge(Some(b"[]"), Some(&bytes), OURS.0, &[2; 16]);
        assert_eq!(other_and_foreign, miss(Reason::Foreign));
    }

    proptest! {
        #[test]
        fn a_hit_is_bound_to_generation_fingerprint_and_value(
            filled in (0u128..2, 0u8..2, 0u8..2), found in 0u8..2, wanted in (0u128..2, 0u8..2),
        ) {
            // Danger: one of the three conditions forgotten.
            let (generation, fingerprint, value) = (filled.0, [filled.1; 16], [filled.2]);
            let bytes = Sidecar { generation, fingerprint, ..sidecar_of(&value) }.encode();
            let found = [found];
            let judgement = judge(Some(&found), Some(&bytes), wanted.0, &[wanted.1; 16]);
            let is_hit = matches!(judgement, Judgement::Hit { .. });
            prop_assert_eq!(is_hit, (filled.0, filled.1) == wanted && value == found);
        }
    }
}
