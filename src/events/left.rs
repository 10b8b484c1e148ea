//! Tokens that stand in Redis for nobody: what laid them was undone.
//!
//! Invariant: taking them away fails in no way that anybody hears of, and takes but a moment. It
//! runs where a transaction ends, aborted or not. What stays nevertheless (a session that
//! is ended while it waits for Redis has no connection any more) goes with the next change of its
//! row, or when the worker finds it in the way of a message.

use std::rc::Rc;

use pg_cache_core::token::Token;

use crate::client::tokens;
use crate::connection;

pub struct Left {
    pub prefix: Vec<u8>,
    pub tokens: Vec<Rc<Vec<Token>>>,
}

impl Left {
    /// But for those of what was prepared: the worker takes them away.
    pub fn take_away(&self) {
        let is_ours = |token: &&Token| !token.is_prepared;
        connection::tell(|session| {
            let tokens = self.tokens.iter().flat_map(|tokens| tokens.iter()).filter(is_ours);
            Ok(tokens::take_away(session, &self.prefix, tokens)?)
        });
    }
}
