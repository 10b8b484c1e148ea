//! The lease of an entry while its query runs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::client::scripts;
use crate::client::session::Session;
use crate::connection;
use crate::entry::Entry;
use crate::pg::host;

/// Held while the query runs. Dropped by an error of the query too: the next one need not wait.
pub struct Lease<'a> {
    pub entry: &'a Entry,
    pub token: &'a [u8],
    pub held: bool,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if self.held {
            release(self.entry, self.token);
        }
    }
}

/// Gives a lease back as well as it can be done in a moment: it ends by itself otherwise. This runs
/// while an error unwinds, so interrupts wait and nothing may come out of it.
pub fn release(entry: &Entry, token: &[u8]) {
    let _held = host::HoldInterrupts::start();
    let ask = || {
        connection::tell(|session: &mut Session| {
            Ok(scripts::release(session, &entry.keys.lease(), token)?)
        })
    };
    let _ = catch_unwind(AssertUnwindSafe(ask));
}
