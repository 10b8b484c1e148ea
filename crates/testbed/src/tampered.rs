//! A real Redis whose replies somebody tampers with, command by command.
//!
//! A client takes it for the server behind it, whose identity and state it shows. The invariant:
//! each command reaches that server, whole and in order, before anybody decides about its reply.
//! Break it and a test of a tampered reply tests a server that is merely another one.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::Redis;
use crate::fake::{FakeRedis, Reply, Request};

impl FakeRedis {
    /// Stands before `redis` and answers each command with what `tamper` makes of the real reply.
    pub fn before(
        redis: &Redis,
        tamper: impl Fn(&Request, Vec<u8>) -> Reply + Send + Sync + 'static,
    ) -> FakeRedis {
        let socket = redis.socket().to_owned();
        let servers: Mutex<HashMap<usize, Server>> = Mutex::new(HashMap::new());
        FakeRedis::start(move |request| {
            let mut servers = servers.lock().unwrap_or_else(PoisonError::into_inner);
            let server = match servers.remove(&request.connection) {
                Some(server) => Some(server),
                None => Server::connect(&socket),
            };
            let answered = server.and_then(|mut server| {
                let reply = server.ask(&request.words)?;
                servers.insert(request.connection, server);
                Some(reply)
            });
            drop(servers);
            answered.map_or(Reply::Close, |reply| tamper(request, reply))
        })
    }
}

impl Request {
    /// Whether it belongs to the opening of a connection, or asks who the server is.
    pub fn is_introduction(&self) -> bool {
        self.handshake().is_some()
    }
}

/// A connection to the real server.
struct Server {
    stream: UnixStream,
    read: Vec<u8>,
}

impl Server {
    fn connect(socket: &Path) -> Option<Server> {
        UnixStream::connect(socket).ok().map(|stream| Server { stream, read: Vec::new() })
    }

    /// Sends one command and returns the bytes of its reply.
    fn ask(&mut self, words: &[Vec<u8>]) -> Option<Vec<u8>> {
        let mut command = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            command.extend(format!("${}\r\n", word.len()).into_bytes());
            command.extend(word);
            command.extend(b"\r\n");
        }
        self.stream.write_all(&command).ok()?;
        let mut chunk = [0; 65536];
        loop {
            if let Some(length) = reply_bytes(&self.read) {
                let rest = self.read.split_off(length);
                return Some(std::mem::replace(&mut self.read, rest));
            }
            match self.stream.read(&mut chunk) {
                Ok(0) | Err(_) => return None,
                Ok(length) => self.read.extend_from_slice(&chunk[..length]),
            }
        }
    }
}

/// The length of the reply at the beginning of `bytes`; None while it is not all there.
fn reply_bytes(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut left) = (0, 1_usize);
    while left > 0 {
        let end = at + bytes.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?;
        let number = std::str::from_utf8(&bytes[at + 1..end]).ok()?.parse::<usize>();
        let kind = bytes[at];
        (at, left) = (end + 2, left - 1);
        match (kind, number) {
            (b'$' | b'=' | b'!', Ok(length)) => at += length + 2,
            (b'*' | b'~' | b'>', Ok(items)) => left += items,
            (b'%', Ok(pairs)) => left += 2 * pairs,
            _ => {}
        }
    }
    (at <= bytes.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_ends_where_redis_ends_it() {
        // Danger: half a reply is tampered with, and its rest is the reply to the next command.
        let nested = b"*2\r\n%1\r\n+k\r\n$3\r\na\r\n\r\n*0\r\n".as_slice();
        for whole in [b"+OK\r\n".as_slice(), b"_\r\n", b"$-1\r\n", b"=5\r\ntxt:x\r\n", nested] {
            for length in 0..whole.len() {
                assert_eq!(reply_bytes(&whole[..length]), None, "{length} bytes");
            }
            let more = [whole, b"+next\r\n"].concat();
            assert_eq!(reply_bytes(&more), Some(whole.len()));
        }
    }

    #[test]
    fn what_nobody_tampers_with_is_the_servers_own_answer() {
        // Danger: a relay that loses bytes makes every test of a tampered reply pass.
        let redis = Redis::start();
        let fake = FakeRedis::before(&redis, |_, reply| Reply::Bytes(reply));
        let client = redis::Client::open(format!("{}?protocol=resp3", fake.url())).unwrap();
        let mut connection = client.get_connection().unwrap();
        let mut ask = redis::cmd("INFO");
        let info: String = ask.arg("server").query(&mut connection).unwrap();
        let direct: String = ask.query(&mut redis.client()).unwrap();
        let run_id =
            |text: &str| text.lines().find(|line| line.contains("run_id")).map(str::to_owned);
        assert_eq!(run_id(&info), run_id(&direct));
        let large = vec![b'x'; 1 << 20];
        let () = redis::cmd("SET").arg("k").arg(&large).query(&mut connection).unwrap();
        let read: Vec<u8> = redis::cmd("GET").arg("k").query(&mut connection).unwrap();
        assert!(read == large);
    }
}
