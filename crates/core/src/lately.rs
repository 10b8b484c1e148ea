//! An answer that is remembered for a moment, where it costs more to ask than to know it late.
//!
//! Invariant: it is of the same question, and no older than [`AGE_MS_MAX`]. Kept for longer, nobody
//! would notice what has changed.

/// How old an answer may be.
pub const AGE_MS_MAX: u64 = 100;

#[derive(Debug, Clone, Copy)]
pub struct Lately<Q> {
    /// What was asked, when, and the answer.
    known: Option<(Q, u64, bool)>,
}

impl<Q: Copy + PartialEq> Lately<Q> {
    pub const fn new() -> Self {
        Self { known: None }
    }

    /// The answer as of some moment in the last [`AGE_MS_MAX`], by a clock that never goes back.
    pub fn answer(&mut self, question: Q, now_ms: u64, ask: impl FnOnce() -> bool) -> bool {
        match self.known {
            Some((of, at, answer)) if of == question && now_ms.saturating_sub(at) < AGE_MS_MAX => {
                answer
            }
            _ => {
                let answer = ask();
                self.known = Some((question, now_ms, answer));
                answer
            }
        }
    }
}

impl<Q: Copy + PartialEq> Default for Lately<Q> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_lasts_for_a_moment() {
        // Danger: what costs a lock is asked at every call.
        let mut lately = Lately::new();
        assert!(lately.answer('a', 1000, || true));
        for now_ms in [1000, 1001, 1099] {
            assert!(lately.answer('a', now_ms, || unreachable!("asked again")), "{now_ms}");
        }
    }

    #[test]
    fn then_it_is_asked_anew() {
        // Danger: a session that reads all the time never notices, as each reading lets the answer
        // last on.
        let mut lately = Lately::new();
        lately.answer('a', 1000, || false);
        assert!(!lately.answer('a', 1060, || true));
        assert!(lately.answer('a', 1100, || true), "by the time when it was asked");
        assert!(lately.answer('a', 1199, || false));
        assert!(!lately.answer('a', 5000, || false));
    }

    #[test]
    fn another_question_has_another_answer() {
        // Danger: what was said of the former registration is taken for said of this one.
        let mut lately = Lately::new();
        assert!(lately.answer('a', 1000, || true));
        assert!(!lately.answer('b', 1000, || false));
        assert!(!lately.answer('a', 1000, || false));
    }
}
