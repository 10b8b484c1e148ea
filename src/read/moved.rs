//! Whether the tag table is to be elsewhere, for readers, who ask at each call.
//!
//! A look for standbys takes a lock that all backends share, and walks through all of them, where a
//! subscriber streams. Nothing hangs on noticing one at once: until the worker has registered the
//! database anew, by what it finds itself, a standby computes and this server's table counts.

use std::cell::Cell;

use pg_cache_core::lately::Lately;

use crate::pg::host;
use crate::registry::Home;

thread_local! {
    static LATELY: Cell<Lately<Home>> = const { Cell::new(Lately::new()) };
}

/// As of a moment ago.
pub fn is_outmoded(home: Home) -> bool {
    let mut lately = LATELY.get();
    let answer = lately.answer(home, host::monotonic_ms(), || home.is_outmoded());
    LATELY.set(lately);
    answer
}
