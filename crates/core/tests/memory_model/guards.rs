//! Owns the proof that every guard is needed.
