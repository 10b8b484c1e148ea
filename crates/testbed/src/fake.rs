//! A server that misbehaves like no real one: every reply is decided byte for byte.
//!
//! Owns a listening Unix socket and its threads. The invariant: it sends what the closure said and
//! nothing else, and counts every connection. Use it only where the test is about a server that
//! misbehaves; a promise about Redis is tested against Redis.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::process::Directory;

/// One command as the client sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which connection, counted from 0 in the order of accepting.
    pub connection: usize,
    /// Which command of that connection, counted from 0.
    pub index: usize,
    /// The command and its arguments.
    pub words: Vec<Vec<u8>>,
}

impl Request {
    /// Whether the command is `name`, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.words.first().is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// A word as text, lossily; empty when there is none.
    pub fn word(&self, index: usize) -> String {
        self.words.get(index).map(|w| String::from_utf8_lossy(w).into_owned()).unwrap_or_default()
    }

    /// What a healthy Redis 7 answers to the commands that open a connection: HELLO (RESP3 map),
    /// AUTH, SELECT, PING, CLIENT and INFO. None for every other command.
    pub fn handshake(&self) -> Option<Vec<u8>> {
        let ok = || b"+OK\r\n".to_vec();
        match self.word(0).to_ascii_uppercase().as_str() {
            "HELLO" => Some(hello()),
            "AUTH" | "SELECT" => Some(ok()),
            "PING" => Some(b"+PONG\r\n".to_vec()),
            "CLIENT" if self.word(1).eq_ignore_ascii_case("ID") => Some(b":1\r\n".to_vec()),
            "CLIENT" => Some(ok()),
            "INFO" => Some(bulk(&info())),
            _ => None,
        }
    }
}

fn hello() -> Vec<u8> {
    let mut map = b"%7\r\n".to_vec();
    for (name, value) in [
        ("server", bulk("redis")),
        ("version", bulk("7.0.15")),
        ("proto", b":3\r\n".to_vec()),
        ("id", b":1\r\n".to_vec()),
        ("mode", bulk("standalone")),
        ("role", bulk("master")),
        ("modules", b"*0\r\n".to_vec()),
    ] {
        map.extend(bulk(name));
        map.extend(value);
    }
    map
}

fn info() -> String {
    let run_id = "fa".repeat(20);
    format!("# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:{run_id}\r\n")
}

/// A bulk string as RESP writes it.
pub fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

/// What the fake does with one command.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Sends these bytes.
    Bytes(Vec<u8>),
    /// Sends these bytes and closes.
    BytesThenClose(Vec<u8>),
    /// Closes without a byte.
    Close,
    /// Sends nothing and goes on reading.
    Silence,
}

impl Reply {
    /// Sends these bytes.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply::Bytes(bytes.into())
    }
}

struct Seen {
    connections: AtomicUsize,
    requests: Mutex<Vec<Request>>,
    ending: AtomicBool,
}

/// The listening fake. Dropped, it accepts no more; open connections end with their clients.
pub struct FakeRedis {
    socket: PathBuf,
    seen: Arc<Seen>,
    // Connections that fill the queue of `never_accepts`, and its listener.
    _held: Vec<UnixStream>,
    _unaccepting: Option<UnixListener>,
    accepts: bool,
    _directory: Directory,
}

impl FakeRedis {
    /// Listens and answers each command by `reply`, called from one thread per connection. A
    /// closure that blocks holds its connection only.
    pub fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> FakeRedis {
        let (listener, mut fake) = FakeRedis::listen();
        let seen = Arc::clone(&fake.seen);
        let reply: Arc<Answer> = Arc::new(reply);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if seen.ending.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let connection = seen.connections.fetch_add(1, Ordering::SeqCst);
                let (seen, reply) = (Arc::clone(&seen), Arc::clone(&reply));
                std::thread::spawn(move || serve(connection, stream, &seen, reply.as_ref()));
            }
        });
        fake.accepts = true;
        fake
    }

    /// Opens a connection properly (`Request::handshake`) and answers all the rest by `reply`.
    pub fn after_handshake(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> FakeRedis {
        FakeRedis::start(move |request| match request.handshake() {
            Some(bytes) => Reply::Bytes(bytes),
            None => reply(request),
        })
    }

    /// A socket whose queue of waiting connections is full: a blocking connect hangs, a
    /// non-blocking one says EAGAIN.
    pub fn never_accepts() -> FakeRedis {
        let (listener, mut fake) = FakeRedis::listen();
        // SAFETY: listen() on a socket of ours only changes the length of its queue.
        let shortened = unsafe { libc::listen(listener.as_raw_fd(), 0) };
        assert_eq!(shortened, 0, "listen: {}", std::io::Error::last_os_error());
        // A queue of length 0 holds one connection.
        fake._held.push(UnixStream::connect(&fake.socket).expect("the queue takes one"));
        fake._unaccepting = Some(listener);
        fake
    }

    /// The same for so long; then it accepts, and says nothing.
    pub fn accepts_late(after: Duration) -> FakeRedis {
        let mut fake = FakeRedis::never_accepts();
        if let Some(listener) = fake._unaccepting.take() {
            let seen = Arc::clone(&fake.seen);
            std::thread::spawn(move || {
                std::thread::sleep(after);
                let mut held = Vec::new();
                while !seen.ending.load(Ordering::SeqCst) {
                    held.extend(listener.accept());
                }
            });
            fake.accepts = true;
        }
        fake
    }

    fn listen() -> (UnixListener, FakeRedis) {
        let directory = Directory::new();
        let socket = directory.path().join("fake.sock");
        let listener = UnixListener::bind(&socket).expect("a socket in a directory of ours");
        // The backends that connect may run as another user.
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).expect("a file of ours");
        let seen = Arc::new(Seen {
            connections: AtomicUsize::new(0),
            requests: Mutex::new(Vec::new()),
            ending: AtomicBool::new(false),
        });
        let fake = FakeRedis {
            socket,
            seen,
            _held: Vec::new(),
            _unaccepting: None,
            accepts: false,
            _directory: directory,
        };
        (listener, fake)
    }

    /// The address for `pg_cache.url`.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Every command received so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FakeRedis {
    fn drop(&mut self) {
        self.seen.ending.store(true, Ordering::SeqCst);
        if self.accepts {
            // Wakes the accepting thread, which then sees the flag. A full queue would hang.
            let _ = UnixStream::connect(&self.socket);
        }
    }
}

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;

fn serve(connection: usize, mut stream: UnixStream, seen: &Seen, answer: &Answer) {
    let mut pending = Vec::new();
    let mut chunk = [0; 65536];
    let mut index = 0;
    loop {
        while let Some((words, used)) = parse(&pending) {
            pending.drain(..used);
            let request = Request { connection, index, words };
            index += 1;
            let mut requests = seen.requests.lock().unwrap_or_else(PoisonError::into_inner);
            requests.push(request.clone());
            drop(requests);
            let (bytes, close) = match answer(&request) {
                Reply::Bytes(bytes) => (bytes, false),
                Reply::BytesThenClose(bytes) => (bytes, true),
                Reply::Close => (Vec::new(), true),
                Reply::Silence => (Vec::new(), false),
            };
            if stream.write_all(&bytes).is_err() || close {
                return;
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(length) => pending.extend_from_slice(&chunk[..length]),
        }
    }
}

/// The first whole command in `bytes` and its length; None while it is not all there. Clients send
/// arrays of bulk strings only; anything else is taken as one inline command, a line.
fn parse(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let (line, mut at) = line(bytes, 0)?;
    let Some(count) = number(line, b'*') else {
        let words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        return Some((words.map(<[u8]>::to_vec).collect(), at));
    };
    let mut words = Vec::new();
    for _ in 0..count {
        let (header, body) = self::line(bytes, at)?;
        let end = body + number(header, b'$')?;
        words.push(bytes.get(body..end)?.to_vec());
        at = end + 2;
    }
    (at <= bytes.len()).then_some((words, at))
}

/// The line that begins at `from`, without its end, and where the next begins.
fn line(bytes: &[u8], from: usize) -> Option<(&[u8], usize)> {
    let rest = bytes.get(from..)?;
    let length = rest.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&rest[..length], from + length + 2))
}

fn number(line: &[u8], sigil: u8) -> Option<usize> {
    let digits = line.strip_prefix(&[sigil])?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_answered_only_when_all_of_it_has_arrived() {
        // A fake that answers half a command would hide a client that sends too little.
        let whole = b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n".as_slice();
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None, "{length} bytes");
        }
        let words = vec![b"GET".to_vec(), b"a\r\nb".to_vec()];
        assert_eq!(parse(whole), Some((words, whole.len())));
    }

    #[test]
    fn commands_sent_in_one_piece_are_told_apart() {
        // A pipeline taken for one command would be answered once, and the client would hang.
        let two = b"PING\r\n*1\r\n$4\r\nPING\r\n".as_slice();
        let (first, used) = parse(two).unwrap();
        assert_eq!((first, used), (vec![b"PING".to_vec()], 6));
        assert_eq!(parse(&two[used..]), Some((vec![b"PING".to_vec()], two.len() - 6)));
    }

    #[test]
    fn a_real_client_opens_a_connection_to_the_fake() {
        // Were the handshake wrong, every test of a misbehaving server would test that instead.
        let fake = FakeRedis::after_handshake(|_| Reply::bytes("$5\r\nhello\r\n"));
        let client = redis::Client::open(format!("{}?protocol=resp3", fake.url())).unwrap();
        let mut connection = client.get_connection().unwrap();
        let answer: String = redis::cmd("GET").arg("k").query(&mut connection).unwrap();
        assert_eq!(answer, "hello");
        assert_eq!(fake.connections(), 1);
        assert!(fake.requests().iter().any(|request| request.is("get")));
    }
}
