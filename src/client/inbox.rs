//! Bytes that came from Redis and are not read yet.
//!
//! Owns the one buffer of a session. Invariant: between two requests it is empty; a byte that
//! nobody asked for would be read as the beginning of the next answer.

use std::io::{self, Read};

use super::transport::Transport;

/// What one system call may bring.
const READ_BYTES: usize = 16 * 1024;

/// A larger buffer is given back after the reply that needed it.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

#[derive(Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Marks bytes as read. They stay where they are until the next call of `prepare` or `fill`.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// The bytes of the reply that was just consumed.
    pub fn last(&self, count: usize) -> &[u8] {
        &self.bytes[self.start - count.min(self.start)..self.start]
    }

    /// Before a request: what is left over belongs to no question of ours.
    pub fn prepare(&mut self) -> io::Result<()> {
        if !self.pending().is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes that nobody asked for"));
        }
        (self.start, self.end) = (0, 0);
        if self.bytes.len() > KEPT_BYTES_MAX {
            self.bytes = Vec::new();
        }
        Ok(())
    }

    /// Reads once, with room for `at_least` pending bytes: as the server announced it, so only as
    /// far as the transport would read at all.
    pub fn fill(&mut self, transport: &mut Transport, at_least: usize) -> io::Result<()> {
        transport.permit(at_least.saturating_sub(self.end - self.start))?;
        let room = at_least.max(self.end - self.start + READ_BYTES);
        if self.start + room > self.bytes.len() {
            // Of many replies, those that were read give their room to those that come.
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            self.bytes.resize(room.max(self.bytes.len()), 0);
        }
        self.end += transport.read(&mut self.bytes[self.end..])?;
        Ok(())
    }

    /// Waits until something is pending.
    pub fn expect(&mut self, transport: &mut Transport) -> io::Result<()> {
        if self.pending().is_empty() {
            self.prepare()?;
            self.fill(transport, 0)?;
        }
        Ok(())
    }

    /// The pending bytes and then the transport's, for the full parser.
    pub fn reader<'a>(&'a mut self, transport: &'a mut Transport) -> Reader<'a> {
        Reader { inbox: self, transport }
    }
}

pub struct Reader<'a> {
    inbox: &'a mut Inbox,
    transport: &'a mut Transport,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inbox.expect(self.transport)?;
        let pending = self.inbox.pending();
        let count = pending.len().min(buffer.len());
        buffer[..count].copy_from_slice(&pending[..count]);
        self.inbox.consume(count);
        Ok(count)
    }
}
