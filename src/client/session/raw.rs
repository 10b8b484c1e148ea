//! One command and its reply as it stands: for those who want all that it holds.
//!
//! Invariant: as for every request: until the last byte of the reply is here, the connection is not
//! to be used for anything else.

use std::io;

use pg_cache_core::reply::{Progress, Skim};
use redis::{Cmd, RedisResult};

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
                    return Ok(self.inbox.last(used).to_vec());
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
