//! A long request in parts: the answers to each are taken while the server works on the next.
//!
//! Invariant: each answer is taken once, in order, before the connection is good for anything else.
//! Sent as a whole, a transaction of many messages would have Redis keep all answers to them;
//! sent part by part with a wait for each, Redis and the backend would work by turns.

use std::time::Duration;

use redis::{Parser, RedisResult, Value};

use super::Session;

impl Session {
    /// `left` is the time for all of it; `take` gets each answer, errors among them.
    pub fn pour<'a>(
        &mut self,
        parts: impl Iterator<Item = (&'a [u8], usize)>,
        left: impl Fn() -> Duration,
        mut take: impl FnMut(Value),
    ) -> RedisResult<()> {
        self.begin()?;
        self.parser = Parser::new();
        let mut waiting = 0;
        for (bytes, replies) in parts {
            self.go_on(left());
            self.transport.send(bytes)?;
            for _ in 0..std::mem::replace(&mut waiting, replies) {
                take(self.receive()?);
            }
        }
        self.go_on(left());
        for _ in 0..waiting {
            take(self.receive()?);
        }
        self.open = true;
        Ok(())
    }

    /// Bounds what comes next of a request that is under way.
    fn go_on(&mut self, left: Duration) {
        self.transport.begin(left, self.reply_bytes_max);
    }
}
