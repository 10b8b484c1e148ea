//! Owns the reading of fixed fields off bytes that anybody may have written.
//!
//! Invariant: a read takes exactly its bytes or is None, and nothing behind the end is ever looked
//! at. Without this, a sidecar or a recipe that somebody cut short would make a backend panic.

/// The bytes not read yet; every read is None at the end of them.
pub(crate) struct Fields<'a> {
    pub(crate) rest: &'a [u8],
}

impl Fields<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*field)
    }
}
