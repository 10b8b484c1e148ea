//! Owns the decision when a table in which nothing is left is truncated for the room that it takes.
//!
//! Invariant: while standbys replay, only a table is truncated that is clearly too large. The lock
//! that this takes is replayed too: there it waits for whoever reads the table, and all replay with
//! it, or it ends them.

/// What is clearly too large.
pub const LARGE_BYTES: u64 = 64 * 1024 * 1024;

/// Whether to truncate a table that takes so much: from `bytes_min` on, and while standbys replay
/// from [`LARGE_BYTES`] on.
pub fn is_too_much(bytes: u64, bytes_min: u64, is_replayed: impl FnOnce() -> bool) -> bool {
    bytes >= bytes_min && (bytes >= LARGE_BYTES || !is_replayed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standbys_are_spared_but_for_what_is_clearly_too_large() {
        // Danger: each burst of debts has replay wait for a pg_dump on the standby; or, with one, a
        // table grows for ever.
        for (bytes, alone, beside_standbys) in
            [(7, false, false), (8, true, false), (LARGE_BYTES, true, true)]
        {
            assert_eq!(is_too_much(bytes, 8, || false), alone, "{bytes}");
            assert_eq!(is_too_much(bytes, 8, || true), beside_standbys, "{bytes}");
        }
        assert!(!is_too_much(7, 8, || unreachable!("standbys are looked for, for nothing")));
    }
}
