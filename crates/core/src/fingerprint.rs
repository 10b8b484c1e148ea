//! Owns the hash that says which query, arguments, settings and relations made a value.
//!
//! Invariant: different sequences of pieces give different fingerprints; every piece is written
//! with its kind, its label and its length, so that pieces cannot run together. If two calls could
//! share a fingerprint, one would be served the other's rows.

/// Separates these hashes from every other use of BLAKE3 over the same bytes.
const CONTEXT: &str = "pg_cache fingerprint v1";
const SCOPE_CONTEXT: &str = "pg_cache scope v1";

#[derive(Clone, Copy)]
enum Kind {
    Text = 1,
    Bytes = 2,
    Number = 3,
}

/// Collects the pieces of a fingerprint. A clone continues from where it was made: what belongs
/// to a plan is hashed once, what belongs to a call is hashed by each call.
#[derive(Debug, Clone)]
pub struct FingerprintBuilder {
    hasher: blake3::Hasher,
}

impl Default for FingerprintBuilder {
    fn default() -> Self {
        FingerprintBuilder::new()
    }
}

impl FingerprintBuilder {
    pub fn new() -> Self {
        FingerprintBuilder { hasher: blake3::Hasher::new_derive_key(CONTEXT) }
    }

    pub fn text(&mut self, label: &'static str, text: &str) {
        self.piece(Kind::Text, label, text.as_bytes());
    }

    pub fn bytes(&mut self, label: &'static str, bytes: &[u8]) {
        self.piece(Kind::Bytes, label, bytes);
    }

    pub fn number(&mut self, label: &'static str, number: u64) {
        self.piece(Kind::Number, label, &number.to_le_bytes());
    }

    pub fn finish(self) -> [u8; 16] {
        let mut fingerprint = [0; 16];
        self.hasher.finalize_xof().fill(&mut fingerprint);
        fingerprint
    }

    fn piece(&mut self, kind: Kind, label: &str, bytes: &[u8]) {
        self.hasher.update(&[kind as u8]);
        for part in [label.as_bytes(), bytes] {
            self.hasher.update(&(part.len() as u64).to_le_bytes());
            self.hasher.update(part);
        }
    }
}

/// The scope of a row-secured entry: a hash of names and values such as the role and the settings
/// that its policies read. It picks the key only; name the same parts in the fingerprint too, which
/// alone decides whether an entry may be served.
pub fn scope_hash(parts: &[(&str, &str)]) -> u64 {
    let mut builder = FingerprintBuilder { hasher: blake3::Hasher::new_derive_key(SCOPE_CONTEXT) };
    for (name, value) in parts {
        builder.piece(Kind::Text, name, value.as_bytes());
    }
    let mut scope = [0; 8];
    builder.hasher.finalize_xof().fill(&mut scope);
    u64::from_le_bytes(scope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn hex(builder: FingerprintBuilder) -> String {
        builder.finish().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn fingerprints_are_frozen() {
        // Danger: an upgrade that silently empties every cache, or lets two releases that run
        // side by side replace each other's entries for ever.
        let mut builder = FingerprintBuilder::new();
        builder.text("query", "SELECT 1");
        builder.bytes("argument", b"\x00\xff");
        builder.number("type", 23);
        assert_eq!(hex(builder), "14b9697f64b435389f63d9a9e852c73d");
        assert_eq!(hex(FingerprintBuilder::new()), "5bf6a3e2f36e515d833c7836d66199dd");
        assert_eq!(scope_hash(&[("role", "alice"), ("app.tenant", "7")]), 0x9b58_6023_817f_49e1);
    }

    #[test]
    fn a_clone_goes_on_alone() {
        // Danger: one call's arguments stay in the plan's prefix and in the next call's key.
        let mut plan = FingerprintBuilder::new();
        plan.text("query", "SELECT $1");
        let call = |argument: u64| {
            let mut call = plan.clone();
            call.number("argument", argument);
            call.finish()
        };
        let first = call(1);
        assert_ne!(first, call(2));
        assert_eq!(first, call(1));
    }

    #[derive(Debug, Clone, PartialEq)]
    enum Piece {
        Text(&'static str, String),
        Bytes(&'static str, Vec<u8>),
        Number(&'static str, u64),
    }

    /// Few letters and short pieces, so that many sequences look alike when run together.
    fn pieces() -> impl Strategy<Value = Vec<Piece>> {
        let label = || select(vec!["", "a", "ab", "b", "\0"]);
        let piece = prop_oneof![
            (label(), "[ab\0]{0,3}").prop_map(|(label, text)| Piece::Text(label, text)),
            (label(), "[ab\0]{0,3}").prop_map(|(label, s)| Piece::Bytes(label, s.into_bytes())),
            (label(), 0u64..3).prop_map(|(label, number)| Piece::Number(label, number)),
        ];
        prop::collection::vec(piece, 0..4)
    }

    fn fingerprint(pieces: &[Piece]) -> [u8; 16] {
        let mut builder = FingerprintBuilder::new();
        for piece in pieces {
            match piece {
                Piece::Text(label, text) => builder.text(label, text),
                Piece::Bytes(label, bytes) => builder.bytes(label, bytes),
                Piece::Number(label, number) => builder.number(label, *number),
            }
        }
        builder.finish()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn different_pieces_give_different_fingerprints(left in pieces(), right in pieces()) {
            // Danger: ('ab', 'c') and ('a', 'bc') are one entry.
            prop_assert_eq!(fingerprint(&left) == fingerprint(&right), left == right);
        }

        #[test]
        fn a_moved_boundary_is_another_fingerprint(text in "[ab]{1,6}", at in 0usize..6) {
            // Danger: as above, aimed at the boundary itself.
            let at = at.min(text.len());
            let split = |at: usize| {
                let (left, right) = text.split_at(at);
                [Piece::Text("x", left.into()), Piece::Text("x", right.into())]
            };
            for other in (0..=text.len()).filter(|&other| other != at) {
                prop_assert_ne!(fingerprint(&split(at)), fingerprint(&split(other)));
            }
            let whole = [Piece::Text("x", text.clone())];
            prop_assert_ne!(fingerprint(&split(at)), fingerprint(&whole));
        }

        #[test]
        fn different_scopes_have_different_hashes(
            left in prop::collection::vec(("[ab]{0,2}", "[ab]{0,2}"), 0..3),
            right in prop::collection::vec(("[ab]{0,2}", "[ab]{0,2}"), 0..3),
        ) {
            // Danger: two tenants share the key of a row-secured entry and evict each other.
            fn scope(parts: &[(String, String)]) -> u64 {
                let parts: Vec<_> = parts.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                scope_hash(&parts)
            }
            prop_assert_eq!(scope(&left) == scope(&right), left == right);
        }
    }
}
