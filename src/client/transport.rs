//! Unix and TCP streams under one deadline, interruptible.
//!
//! The only sockets of the extension. They are waited for by poll, in slices of [`SLICE`]: a signal
//! ends a slice with EINTR in spite of SA_RESTART (signal(7)), and a signal that arrives between a
//! check for interrupts and the system call is seen when the slice ends. So a cancel takes effect
//! at once, or after a slice at worst. A read or write that blocks would need no poll, but on a
//! Unix socket it is woken by what it does not wait for too: a reader when Redis takes its request,
//! a writer by every answer. Each time it puts Redis aside if that runs on the same core.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use pg_cache_core::eager::Eagerness;
use pg_cache_core::target::Endpoint;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with, sockopt::set_socket_linger,
};

use super::{Host, Wait};

/// The longest wait without a look at interrupts and the deadline.
const SLICE: Duration = Duration::from_millis(25);
const SLICE_SPEC: Timespec = Timespec { tv_sec: 0, tv_nsec: SLICE.subsec_nanos() as i64 };

/// How long to look for a reply before sleeping for it, where that is faster.
const EAGER: Duration = Duration::from_micros(60);

/// A turn of others that took so long and was not Redis': they want this core.
const CROWDED: Duration = Duration::from_micros(5);

/// Between two tries at a Unix socket whose backlog is full: such a socket cannot be polled.
const BACKLOG_PAUSE: Duration = Duration::from_millis(2);

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connected stream. Every wait ends at the deadline set by [`Transport::begin`].
pub struct Transport {
    stream: Stream,
    host: Host,
    deadline: Instant,
    /// How many bytes the reply at hand may still take.
    allowance: usize,
    /// System calls for the reply at hand so far.
    reads: u32,
    /// When the request at hand began.
    began: Instant,
    eagerness: Eagerness,
}

impl Transport {
    pub fn connect(endpoint: &Endpoint, timeout: Duration, host: Host) -> io::Result<Self> {
        (host.fault_point)("client.connect");
        (host.wait_started)(Wait::Connect);
        let began = Instant::now();
        let deadline = began + timeout;
        let stream = match endpoint {
            Endpoint::Unix { path } => connect_unix(path, deadline, host).map(Stream::Unix),
            Endpoint::Tcp { host: name, port } => {
                connect_tcp(name, *port, deadline, host).map(Stream::Tcp)
            }
        };
        (host.wait_ended)();
        let eagerness = Eagerness::default();
        Ok(Self { stream: stream?, host, deadline, allowance: 0, reads: 0, began, eagerness })
    }

    /// Bounds everything until the next `begin`: the time, and the bytes that may come back.
    pub fn begin(&mut self, timeout: Duration, reply_bytes_max: usize) {
        self.began = Instant::now();
        self.deadline = self.began + timeout;
        self.allowance = reply_bytes_max;
        self.reads = 0;
    }

    /// Whether the reply at hand may still bring so many bytes.
    pub fn permit(&self, bytes: usize) -> io::Result<()> {
        if bytes > self.allowance {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the reply is too large"));
        }
        Ok(())
    }

    /// Whether the peer has hung up: looks without waiting, and takes nothing.
    pub fn is_closed(&self) -> bool {
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        let mut byte = [0];
        let found = recv(&self.stream, &mut byte, flags).map(|(got, _)| got);
        !matches!(found, Ok(1..) | Err(Errno::AGAIN | Errno::INTR))
    }

    /// Has the system forget what it has not delivered yet. It would go on trying for minutes after
    /// the end of the connection, and whoever has written since would be overwritten.
    pub fn abandon(&self) {
        if let Stream::Tcp(stream) = &self.stream {
            _ = set_socket_linger(stream, Some(Duration::ZERO));
        }
    }

    pub fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        (self.host.fault_point)("client.send");
        // The first write takes a small command whole: nothing to wait for, nothing to name.
        bytes = &bytes[self.stream.write_now(bytes)?..];
        if bytes.is_empty() {
            return Ok(());
        }
        (self.host.wait_started)(Wait::Send);
        let outcome = loop {
            // A peer that takes a few bytes a slice must not stretch the deadline either.
            let waited = self.wait_a_slice(PollFlags::OUT);
            match waited.and_then(|()| self.stream.write_now(bytes)) {
                Ok(sent) if sent == bytes.len() => break Ok(()),
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) => break Err(error),
            }
        };
        (self.host.wait_ended)();
        outcome
    }
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.permit(1)?;
        let wanted = buffer.len().min(self.allowance);
        (self.host.fault_point)("client.receive");
        // Also before a read that will find something, but for the first: a peer that drips must
        // not stretch the deadline, nor hold off a cancel.
        if self.reads > 0 {
            still_waiting(io::ErrorKind::WouldBlock.into(), self.deadline, self.host)?;
        }
        self.reads += 1;
        let is_first = self.reads == 1;
        let looks = is_first && self.eagerness.is_worth_it();
        if looks && let Some(got) = self.look(&mut buffer[..wanted]) {
            self.eagerness.took(looks, self.began.elapsed());
            self.allowance -= got;
            return Ok(got);
        }
        (self.host.wait_started)(Wait::Reply);
        let outcome = loop {
            match self.stream.read_now(&mut buffer[..wanted]) {
                Ok(0) => {
                    let why = "the server closed the connection";
                    break Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
                }
                Ok(got) => break Ok(got),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => break Err(error.into()),
            }
            if let Err(error) = self.wait_a_slice(PollFlags::IN) {
                break Err(error);
            }
        };
        (self.host.wait_ended)();
        if is_first {
            self.eagerness.took(looks, self.began.elapsed());
        }
        self.allowance -= *outcome.as_ref().unwrap_or(&0);
        outcome
    }
}

impl Transport {
    /// Waits a slice at most, and looks at interrupts and the clock.
    fn wait_a_slice(&self, flags: PollFlags) -> io::Result<()> {
        self.stream.wait_for(flags)?;
        still_waiting(io::ErrorKind::WouldBlock.into(), self.deadline, self.host)
    }

    /// Looks again and again for the first bytes of a reply, giving way to whoever wants this core:
    /// to Redis, if it runs there; if somebody else does, it is theirs. Anything but bytes is left
    /// to the wait that follows.
    fn look(&self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            let gave_way = Instant::now();
            std::thread::yield_now();
            match self.stream.read_now(buffer) {
                Ok(got) if got > 0 => return Some(got),
                Err(Errno::AGAIN) => {}
                _ => return None,
            }
            let now = Instant::now();
            if now - self.began > EAGER || now - gave_way > CROWDED {
                return None;
            }
        }
    }
}

impl Stream {
    fn read_now(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        recv(self, buffer, RecvFlags::DONTWAIT).map(|(got, _)| got)
    }

    /// Writes what there is room for, which may be nothing.
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match send(self, bytes, flags) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            sent => Ok(sent?),
        }
    }

    /// Waits a slice at most.
    fn wait_for(&self, flags: PollFlags) -> io::Result<()> {
        let mut ready = [PollFd::new(self, flags)];
        match poll(&mut ready, Some(&SLICE_SPEC)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

/// A slice ended without progress: look at interrupts, then at the clock.
fn still_waiting(error: io::Error, deadline: Instant, host: Host) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => {
            (host.check_interrupts)();
            if Instant::now() < deadline { Ok(()) } else { Err(timed_out()) }
        }
        _ => Err(error),
    }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

fn connect_unix(path: &Path, deadline: Instant, host: Host) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    while let Err(error) = connect(&socket, &address).map_err(io::Error::from) {
        still_waiting(error, deadline, host)?;
        std::thread::sleep(BACKLOG_PAUSE);
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Tries each address of the name in turn within the one deadline. Resolving the name itself cannot
/// be interrupted: `getaddrinfo` has no such interface. Give an address where that matters.
fn connect_tcp(name: &str, port: u16, deadline: Instant, host: Host) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for address in (name, port).to_socket_addrs()? {
        match connect_address(&address, deadline, host) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_address(address: &SocketAddr, deadline: Instant, host: Host) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    if let Err(error) = connect(&socket, address)
        && error != Errno::INPROGRESS
    {
        return Err(error.into());
    }
    wait_connected(&socket, deadline, host)?;
    let stream = TcpStream::from(socket);
    match stream.take_error()? {
        Some(error) => Err(error),
        None => {
            stream.set_nonblocking(false)?;
            Ok(stream)
        }
    }
}

fn wait_connected(socket: &OwnedFd, deadline: Instant, host: Host) -> io::Result<()> {
    loop {
        let mut ready = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT)];
        match poll(&mut ready, Some(&SLICE_SPEC)) {
            Ok(0) => still_waiting(io::ErrorKind::WouldBlock.into(), deadline, host)?,
            Ok(_) => return Ok(()),
            Err(error) => still_waiting(error.into(), deadline, host)?,
        }
    }
}
