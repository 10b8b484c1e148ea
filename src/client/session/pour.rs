//! A long request in parts: the answers to each are taken while the server works on the next.
//!
//! Invariant: each answer is taken once, in order, before the connection is good for anything else.
//! Sent as a whole, a transaction of many messages would have Redis keep all answers to them;
//! sent part by part with a wait for each, Redis and the backend would work by turns.

use std::time::Duration;

use redis::RedisResult;

use super::Session;

impl Session {
    /// `pack` writes the next part and says how many commands it has, none at the end; `left` is
    /// the time for all of it; `take` gets each answer as it stands, errors among them.
    pub fn pour(
        &mut self,
        room: &mut Vec<u8>,
        mut pack: impl FnMut(&mut Vec<u8>) -> usize,
        left: impl Fn() -> Duration,
        mut take: impl FnMut(&[u8]),
    ) -> RedisResult<()> {
        self.begin()?;
        let mut waiting = 0;
        loop {
            room.clear();
            let replies = pack(room);
            if replies == 0 {
                break;
            }
            self.go_on(left());
            self.transport.send(room)?;
            self.take_replies(std::mem::replace(&mut waiting, replies), &mut take)?;
        }
        self.go_on(left());
        self.take_replies(waiting, &mut take)?;
        self.open = true;
        Ok(())
    }

    fn take_replies(&mut self, count: usize, take: &mut impl FnMut(&[u8])) -> RedisResult<()> {
        for _ in 0..count {
            let used = self.reply()?;
            take(self.inbox.last(used));
        }
        Ok(())
    }

    /// Bounds what comes next of a request that is under way.
    fn go_on(&mut self, left: Duration) {
        self.transport.begin(left, self.reply_bytes_max);
    }
}
