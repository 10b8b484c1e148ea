//! What this transaction read of sessions: the text that its writes must still find there.
//!
//! Invariant: it never outlives its transaction, and it is bounded. What is forgotten is read anew
//! by whoever writes, so that the price of a bound is a change that is not noticed, never a wrong
//! one that is.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;

use lru::LruCache;

use crate::pg::xact::Listener;

const SESSIONS_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);
const BYTES_MAX: usize = 16 * 1024 * 1024;

struct Seen {
    texts: LruCache<Vec<u8>, Rc<[u8]>>,
    bytes: usize,
}

thread_local! {
    static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

/// Forgets at the end of the transaction.
pub fn listener() -> Listener {
    Listener {
        before_commit: || Ok(()),
        before_prepare: || Ok(()),
        released: |_| {},
        rolled_back: |_| {},
        committed: || {},
        ended: || {
            SEEN.with(|seen| {
                if let Ok(mut seen) = seen.try_borrow_mut() {
                    *seen = None;
                }
            });
        },
        let_go: || {},
    }
}

pub fn remember(key: Vec<u8>, text: Vec<u8>) {
    SEEN.with_borrow_mut(|seen| {
        let seen =
            seen.get_or_insert_with(|| Seen { texts: LruCache::new(SESSIONS_MAX), bytes: 0 });
        seen.bytes += text.len();
        if let Some((_, gone)) = seen.texts.push(key, text.into()) {
            seen.bytes -= gone.len();
        }
        while seen.bytes > BYTES_MAX
            && let Some((_, gone)) = seen.texts.pop_lru()
        {
            seen.bytes -= gone.len();
        }
    });
}

pub fn recall(key: &[u8]) -> Option<Rc<[u8]>> {
    SEEN.with_borrow_mut(|seen| seen.as_mut()?.texts.get(key).cloned())
}

pub fn forget(key: &[u8]) {
    SEEN.with_borrow_mut(|seen| {
        if let Some(seen) = seen
            && let Some(gone) = seen.texts.pop(key)
        {
            seen.bytes -= gone.len();
        }
    });
}
