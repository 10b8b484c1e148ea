//! The answers to a request, one after the other: plain ones as they stand, the others by the full
//! parser.
//!
//! Invariant: once the full parser has begun with a request, it reads all that is left of it, as
//! it keeps bytes that it has read beyond an answer. What it kept of the request before is no
//! answer to this one, so each request begins without it.

use std::io;

use pg_cache_core::resp::{Plain, read_plain};
use redis::{Parser, RedisResult, Value};

use super::super::inbox::Inbox;
use super::super::transport::Transport;

#[derive(Default)]
pub struct Answers {
    parser: Option<Parser>,
}

impl Answers {
    /// Before the first answer to a request.
    pub fn begin(&mut self) {
        self.parser = None;
    }

    /// The next one, an error or not.
    pub fn next(&mut self, inbox: &mut Inbox, transport: &mut Transport) -> RedisResult<Value> {
        if self.parser.is_none()
            && let Some(plain) = next_plain(inbox, transport)?
        {
            return Ok(plain);
        }
        let parser = self.parser.get_or_insert_with(Parser::new);
        loop {
            match parser.parse_value(inbox.reader(transport))? {
                // RESP3 may push (a script's `redis.setresp`, tracking): not an answer to anything.
                Value::Push { .. } => continue,
                value => return Ok(value),
            }
        }
    }
}

/// The next answer, if it is a plain one and there whole. Most are, and the full parser takes ten
/// thousand instructions for one, which a commit finds cold.
fn next_plain(inbox: &mut Inbox, transport: &mut Transport) -> io::Result<Option<Value>> {
    inbox.expect(transport)?;
    let bytes = inbox.pending();
    let Some((plain, used)) = read_plain(bytes) else { return Ok(None) };
    let value = match plain {
        Plain::Number(number) => Value::Int(number),
        Plain::Okay => Value::Okay,
        Plain::Nothing => Value::Nil,
        Plain::Bulk(place) => Value::BulkString(bytes[place].to_vec()),
    };
    inbox.consume(used);
    Ok(Some(value))
}
