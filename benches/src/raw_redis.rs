//! The least that a client of Redis can do: one write, reads until the reply is whole.
//!
//! Owns the yardstick of the goal. The invariant: it adds nothing to the round trip that a client
//! could leave out. Break it and the yardstick grows until every hit looks good.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

const BUFFER_BYTES: usize = 2 * 1024 * 1024;

/// A connection over the Unix socket.
pub struct RawRedis {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl RawRedis {
    pub fn connect(socket: &Path) -> Result<RawRedis> {
        Ok(RawRedis { stream: UnixStream::connect(socket)?, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Sends a packed command and returns the whole reply.
    pub fn ask(&mut self, command: &[u8]) -> Result<&[u8]> {
        self.ask_all(command, 1)
    }

    /// Sends so many packed commands at once and returns their replies.
    pub fn ask_all(&mut self, commands: &[u8], replies: usize) -> Result<&[u8]> {
        self.stream.write_all(commands)?;
        let mut filled = 0;
        loop {
            match self.stream.read(&mut self.buffer[filled..])? {
                0 => return Err(Error::new(ErrorKind::UnexpectedEof, "the reply does not end")),
                more => filled += more,
            }
            match replies_bytes(&self.buffer[..filled], replies) {
                Some(whole) if whole == filled => return Ok(&self.buffer[..filled]),
                Some(_) => return Err(Error::new(ErrorKind::InvalidData, "more than a reply")),
                None => {}
            }
        }
    }
}

/// A command as it goes over the wire.
pub fn pack(words: &[&str]) -> Vec<u8> {
    let mut packed = format!("*{}\r\n", words.len());
    for word in words {
        packed += &format!("${}\r\n{word}\r\n", word.len());
    }
    packed.into_bytes()
}

/// The length of so many replies.
fn replies_bytes(bytes: &[u8], replies: usize) -> Option<usize> {
    (0..replies).try_fold(0, |at, _| Some(at + reply_bytes(&bytes[at..])?))
}

/// The length of the reply that `bytes` begin with, once it is whole: a bulk string, an array of
/// them, or a line.
fn reply_bytes(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || std::str::from_utf8(&bytes[1..line - 2]).ok()?.parse::<usize>().ok();
    match bytes[0] {
        b'$' => {
            let whole = number().map_or(line, |length| line + length + 2);
            (bytes.len() >= whole).then_some(whole)
        }
        b'*' => (0..number()?).try_fold(line, |at, _| Some(at + reply_bytes(&bytes[at..])?)),
        _ => Some(line),
    }
}

#[cfg(test)]
mod tests {
    use super::{pack, replies_bytes, reply_bytes};

    #[test]
    fn a_reply_is_whole_only_with_its_last_byte() {
        // A yardstick that stops reading early is too short, and the next reply is out of step.
        for reply in ["$3\r\nabc\r\n", "*2\r\n$1\r\na\r\n$-1\r\n", "+OK\r\n", "$-1\r\n"] {
            for cut in 0..reply.len() {
                assert_eq!(reply_bytes(&reply.as_bytes()[..cut]), None, "{reply:?} at {cut}");
            }
            assert_eq!(reply_bytes(reply.as_bytes()), Some(reply.len()), "{reply:?}");
            let twice = reply.repeat(2);
            assert_eq!(replies_bytes(reply.as_bytes(), 2), None, "{reply:?}");
            assert_eq!(replies_bytes(twice.as_bytes(), 2), Some(twice.len()), "{reply:?}");
        }
    }

    #[test]
    fn a_command_is_packed_as_an_array_of_bulk_strings() {
        // Redis also takes inline commands, and parses them on another path.
        assert_eq!(pack(&["GET", "a:1"]), b"*2\r\n$3\r\nGET\r\n$3\r\na:1\r\n");
    }
}
