//! One command and its reply as it stands: for those who want all that it holds.
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
        let mut skim = Skim::default();
        loop {
            match skim.go_on(self.inbox.pending()) {
                Progress::Complete { used } => {
                    self.inbox.consume(used);
                    self.open = true;
                    let reply = self.inbox.last(used);
                    return match reply.strip_prefix(b"-") {
                        Some(words) => Err(refusal(words)),
                        None => Ok(reply.to_vec()),
                    };
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
fn refusal(words: &[u8]) -> RedisError {
    let words = String::from_utf8_lossy(words);
    let (code, detail) = words.trim_end().split_once(' ').unwrap_or((words.trim_end(), ""));
    make_extension_error(code.to_owned(), Some(detail.to_owned()))
}
