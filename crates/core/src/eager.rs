//! Whether to look for a reply at once, again and again, before going to sleep for it.
//!
//! A reply from the same machine comes within tens of microseconds, and a process that sleeps for
//! it pays as much again to be woken. One from farther away takes longer than anybody should spin
//! for. So: be eager as long as that pays, and try it again rarely when it did not. Invariant:
//! replies that come late cost at most one eager look in [`REST_MAX`].

/// After this many late replies in a row, only every so many requests are tried eagerly.
pub const REST_MAX: u32 = 64;

/// The memory of one connection.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Eagerness {
    /// Requests to go without.
    resting: u32,
    /// How long the next rest is.
    rest: u32,
}

impl Eagerness {
    /// Asked once a request.
    pub fn is_worth_it(&mut self) -> bool {
        if self.resting == 0 {
            return true;
        }
        self.resting -= 1;
        false
    }

    /// The reply came while we looked.
    pub fn paid(&mut self) {
        self.rest = 0;
    }

    /// We looked in vain and went to sleep.
    pub fn was_in_vain(&mut self) {
        self.rest = (self.rest * 2).clamp(1, REST_MAX);
        self.resting = self.rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Danger: every hit through a slow network burns a core for nothing.
    #[test]
    fn late_replies_are_soon_slept_for() {
        let mut eagerness = Eagerness::default();
        let mut tried = 0;
        for _ in 0..10_000 {
            if eagerness.is_worth_it() {
                tried += 1;
                eagerness.was_in_vain();
            }
        }
        assert!((10_000 / 65..10_000 / 50).contains(&tried), "{tried}");
    }

    /// Danger: one slow reply makes all later ones slow.
    #[test]
    fn one_prompt_reply_restores_trust() {
        let mut eagerness = Eagerness::default();
        for _ in 0..1_000 {
            if eagerness.is_worth_it() {
                eagerness.was_in_vain();
            }
        }
        while !eagerness.is_worth_it() {}
        eagerness.paid();
        assert!((0..1_000).all(|_| eagerness.is_worth_it()));
        eagerness.was_in_vain();
        assert!(!eagerness.is_worth_it());
        assert!(eagerness.is_worth_it(), "after one late reply, one request goes without");
    }
}
