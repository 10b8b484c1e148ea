//! A relay between clients and a server that cuts and delays connections, or holds them still.
//!
//! Owns its listening socket and two threads for each connection. The invariant: it changes no
//! byte and no order; it only stops early, in the middle of a reply too, or comes late. Break it
//! and a test blames the client for what a network cannot do.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::process::Directory;

const CHUNK_BYTES: usize = 16 * 1024;
const STALL_LOOK: Duration = Duration::from_millis(2);

/// Where the relay listens.
pub struct Proxy {
    shared: Arc<Shared>,
    place: Place,
    // Holds the socket of a relay on a path.
    _directory: Directory,
}

enum Place {
    Path(PathBuf),
    Port(u16),
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    stalled: AtomicBool,
    cut_per_10000: AtomicU32,
    delay_per_10000: AtomicU32,
    delay_ms_max: AtomicU32,
    /// xorshift state: the chances of a run follow from its seed.
    random: AtomicU64,
    open: Mutex<Vec<Stream>>,
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn another(&self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(buffer),
            Stream::Tcp(stream) => stream.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tcp(stream) => stream.write_all(bytes),
        }
    }

    fn close(&self) {
        let _ = match self {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Proxy {
    /// Listens on a Unix socket of its own and relays to the one at `target`.
    pub fn unix(target: &Path) -> Proxy {
        let directory = Directory::new();
        let path = directory.path().join("proxy.sock");
        let listener = UnixListener::bind(&path).expect("a socket of ours");
        let everybody = fs::Permissions::from_mode(0o777);
        fs::set_permissions(&path, everybody).expect("a socket of ours");
        let shared = Arc::new(Shared::default());
        let (ours, target) = (shared.clone(), target.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if ours.over.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(server) = UnixStream::connect(&target) {
                    relay(&ours, Stream::Unix(client), Stream::Unix(server));
                }
            }
        });
        Proxy { shared, place: Place::Path(path), _directory: directory }
    }

    /// Listens on a loopback port and relays to another.
    pub fn tcp(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared::default());
        let ours = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if ours.over.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(server) = TcpStream::connect(("127.0.0.1", target)) {
                    relay(&ours, Stream::Tcp(client), Stream::Tcp(server));
                }
            }
        });
        Proxy { shared, place: Place::Port(port), _directory: Directory::new() }
    }

    /// The socket of a relay made by `unix`.
    pub fn path(&self) -> &Path {
        match &self.place {
            Place::Path(path) => path,
            Place::Port(port) => panic!("this relay listens on port {port}"),
        }
    }

    /// The port of a relay made by `tcp`.
    pub fn port(&self) -> u16 {
        match &self.place {
            Place::Port(port) => *port,
            Place::Path(path) => panic!("this relay listens on {path:?}"),
        }
    }

    /// From now on a piece passed on is, of 10,000, so often cut off in its middle, and so often
    /// late by up to `delay_ms_max`.
    pub fn disturb(&self, seed: u64, cut: u32, delay: u32, delay_ms_max: u32) {
        self.shared.random.store(seed | 1, Ordering::SeqCst);
        self.shared.cut_per_10000.store(cut, Ordering::SeqCst);
        self.shared.delay_per_10000.store(delay, Ordering::SeqCst);
        self.shared.delay_ms_max.store(delay_ms_max, Ordering::SeqCst);
    }

    /// Holds everything back, connections stay open; or lets it go on.
    pub fn stall(&self, stalled: bool) {
        self.shared.stalled.store(stalled, Ordering::SeqCst);
    }

    /// Cuts every connection.
    pub fn cut_all(&self) {
        let mut open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.drain(..) {
            stream.close();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.stalled.store(false, Ordering::SeqCst);
        // The listener sees the end when it accepts once more.
        match &self.place {
            Place::Path(path) => drop(UnixStream::connect(path)),
            Place::Port(port) => drop(TcpStream::connect(("127.0.0.1", *port))),
        }
        self.cut_all();
    }
}

impl Shared {
    fn chance(&self, per_10000: &AtomicU32) -> bool {
        let wanted = u64::from(per_10000.load(Ordering::Relaxed));
        wanted > 0 && self.random() % 10_000 < wanted
    }

    fn random(&self) -> u64 {
        let mut x = self.random.load(Ordering::Relaxed) | 1;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.store(x, Ordering::Relaxed);
        x
    }
}

fn relay(shared: &Arc<Shared>, client: Stream, server: Stream) {
    let copies = (client.another(), server.another(), client.another(), server.another());
    let (Ok(client2), Ok(server2), Ok(client3), Ok(server3)) = copies else { return };
    let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
    open.extend([client3, server3]);
    drop(open);
    let (there, back) = (shared.clone(), shared.clone());
    thread::spawn(move || pump(&there, client, server));
    thread::spawn(move || pump(&back, server2, client2));
}

fn pump(shared: &Shared, mut from: Stream, mut to: Stream) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(count) = from.read(&mut buffer) {
        while shared.stalled.load(Ordering::SeqCst) {
            thread::sleep(STALL_LOOK);
        }
        if shared.chance(&shared.delay_per_10000) {
            let max = u64::from(shared.delay_ms_max.load(Ordering::Relaxed).max(1));
            thread::sleep(Duration::from_millis(shared.random() % max));
        }
        let cut = shared.chance(&shared.cut_per_10000);
        let passed = if cut { count / 2 } else { count };
        if count == 0 || to.write_all(&buffer[..passed]).is_err() || cut {
            break;
        }
    }
    from.close();
    to.close();
}
