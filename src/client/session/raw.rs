//! Replies as they stand: for those who want all that one holds, or of very many next to nothing.
//!
//! Invariant: as for every request: until the last byte of the reply is here, the connection is not
//! to be used for anything else. A refusal is an error like that to any other request, whatever
//! bytes it quotes.

use std::io;

use pg_cache_core::reply::{Progress, Skim};
use redis::{Cmd, RedisError, RedisResult, make_extension_error};

use super::Session;

impl Session {
    /// Sends a command; the bytes of its reply, with pushes that came before it.
    pub fn raw(&mut self, command: &Cmd) -> RedisResult<Vec<u8>> {
        self.begin()?;
        self.transport.send(&command.get_packed_command())?;
        let used = self.reply()?;
        self.open = true;
        let reply = self.inbox.last(used);
        match reply.strip_prefix(b"-") {
            Some(words) => Err(refusal(words)),
            None => Ok(reply.to_vec()),
        }
    }

    /// Waits for the next reply. It takes so many bytes, the last that were consumed, with pushes
    /// that came before it.
    pub(super) fn reply(&mut self) -> RedisResult<usize> {
        let mut skim = Skim::default();
        loop {
            match skim.go_on(self.inbox.pending()) {
                Progress::Complete { used } => {
                    self.inbox.consume(used);
                    return Ok(used);
                }
                Progress::Incomplete { at_least } => {
                    self.inbox.fill(&mut self.transport, at_least)?;
                }
                Progress::Malformed(why) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why).into());
                }
            }
        }
    }
}

/// redis-rs reads no refusal that is not UTF-8, and Redis cuts what it quotes where it likes.
pub fn refusal(words: &[u8]) -> RedisError {
    let words = String::from_utf8_lossy(words);
    let (code, detail) = words.trim_end().split_once(' ').unwrap_or((words.trim_end(), ""));
    make_extension_error(code.to_owned(), Some(detail.to_owned()))
}
