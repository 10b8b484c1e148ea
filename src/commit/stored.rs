//! Keys that `redis_store` names: deleted before the commit like all others, and set after it.
//!
//! Invariant: they are kept apart from those that are to be gone, on stacks of the same kind. What
//! is owed for them is another thing: see `debt`.

use pg_cache_core::debt::Owing;
use pg_cache_core::pending::{Owed, Pending};

/// The keys by the way in which they are set.
#[derive(Default)]
pub struct Stored {
    inline: Option<Pending>,
    durable: Option<Pending>,
}

impl Stored {
    pub fn note(&mut self, level: u32, durable: bool, key: &[u8]) {
        let pending = if durable { &mut self.durable } else { &mut self.inline };
        pending.get_or_insert_default().note_key(level, key);
    }

    /// How many keys are held.
    pub fn keys(&self) -> usize {
        [&self.inline, &self.durable].into_iter().flatten().map(Pending::keys).sum()
    }

    pub fn each(&mut self) -> impl Iterator<Item = &mut Pending> {
        [&mut self.inline, &mut self.durable].into_iter().flatten()
    }

    /// Takes all keys, to be settled with others.
    pub fn take_with(&mut self, owed: Owed) -> Owing {
        let take = |pending: &mut Option<Pending>| {
            pending.as_mut().map(Pending::take_keys).unwrap_or_default()
        };
        Owing::new(owed, take(&mut self.inline), take(&mut self.durable))
    }
}
