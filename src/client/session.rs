//! This backend's one connection: handshake, requests, replies.
//!
//! A session that fails in any way is dropped by its owner ([`super::link::Link`]), never mended:
//! a reply that comes late would otherwise answer the next question.

use std::io::{self, BufReader};
use std::time::Duration;

use pg_cache_core::reason::Reason;
use pg_cache_core::target::Target;
use redis::{Cmd, ConnectionLike, Parser, Pipeline, RedisError, RedisResult, Value};

use super::Host;
use super::failure::Failure;
use super::transport::Transport;

/// Replies of the handshake: INFO server and INFO replication are a few kilobytes.
const HANDSHAKE_BYTES_MAX: usize = 256 * 1024;

/// redis-rs' parser asks for 8 kB at a time; a megabyte takes a sixteenth of the system calls so.
const READ_BUFFER_BYTES: usize = 128 * 1024;

/// Scripts with flags, and BUMP's `allow-oom`, need these.
const REDIS_AT_LEAST: (u32, u32) = (7, 0);
const VALKEY_AT_LEAST: (u32, u32) = (7, 2);

/// What the server said of itself when we connected.
#[derive(Clone, Debug)]
pub struct Server {
    pub run_id: String,
    pub name: &'static str,
    pub version: String,
    pub role: String,
}

/// Bounds of one request.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub connect_timeout: Duration,
    pub timeout: Duration,
    pub reply_bytes_max: usize,
}

pub struct Session {
    transport: BufReader<Transport>,
    parser: Parser,
    timeout: Duration,
    reply_bytes_max: usize,
    db: i64,
    open: bool,
    server: Server,
}

impl Session {
    pub fn open(target: &Target, name: &str, bounds: Bounds, host: Host) -> Result<Self, Failure> {
        let transport = Transport::connect(&target.endpoint, bounds.connect_timeout, host)
            .map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => Failure::new(Reason::Timeout, error.to_string()),
                _ => Failure::new(Reason::Connect, error.to_string()),
            })?;
        let mut session = Self {
            transport: BufReader::with_capacity(READ_BUFFER_BYTES, transport),
            parser: Parser::new(),
            timeout: bounds.connect_timeout,
            reply_bytes_max: HANDSHAKE_BYTES_MAX,
            db: target.db,
            open: true,
            server: Server {
                run_id: String::new(),
                name: "redis",
                version: String::new(),
                role: String::new(),
            },
        };
        session.server = session.handshake(target, name)?;
        session.set_bounds(bounds);
        Ok(session)
    }

    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.timeout = bounds.timeout;
        self.reply_bytes_max = bounds.reply_bytes_max;
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    fn handshake(&mut self, target: &Target, name: &str) -> Result<Server, Failure> {
        let mut hello = redis::cmd("HELLO");
        hello.arg(3);
        if let Some(password) = &target.password {
            hello.arg("AUTH").arg(target.user.as_deref().unwrap_or("default")).arg(password);
        }
        let mut pipeline = Pipeline::new();
        pipeline.add_command(hello).ignore();
        pipeline.cmd("CLIENT").arg("SETNAME").arg(name).ignore();
        pipeline.cmd("SELECT").arg(target.db).ignore();
        pipeline.cmd("INFO").arg("server");
        pipeline.cmd("INFO").arg("replication");
        let (server, replication): (String, String) =
            pipeline.query(self).map_err(|error| refused(error, target))?;
        let server = read_server(&server, &replication);
        check_version(&server)?;
        Ok(server)
    }

    fn receive(&mut self) -> RedisResult<Value> {
        loop {
            match self.parser.parse_value(&mut self.transport)? {
                // RESP3 may push (a script's `redis.setresp`, tracking): not an answer to anything.
                Value::Push { .. } => continue,
                value => return Ok(value),
            }
        }
    }
}

/// An unknown HELLO is a server before 6; a wrong password answers every command with an error, of
/// which the first one tells.
fn refused(error: RedisError, target: &Target) -> Failure {
    let failure = Failure::from(error);
    if failure.reason == Reason::ServerError && failure.detail.contains("unknown command") {
        let found = format!("the server at {} does not know RESP3", target.describe());
        return Failure::new(Reason::Version, found);
    }
    failure
}

fn read_server(server: &str, replication: &str) -> Server {
    let valkey = info(server, "valkey_version");
    let (name, version) = match valkey {
        Some(version) => ("valkey", version),
        None => ("redis", info(server, "redis_version").unwrap_or_default()),
    };
    Server {
        run_id: info(server, "run_id").unwrap_or_default().to_owned(),
        name,
        version: version.to_owned(),
        role: info(replication, "role").unwrap_or_default().to_owned(),
    }
}

/// The value of `name:value` in an INFO reply.
pub fn info<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn check_version(server: &Server) -> Result<(), Failure> {
    let mut numbers = server.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let wanted = if server.name == "valkey" { VALKEY_AT_LEAST } else { REDIS_AT_LEAST };
    if found >= wanted {
        return Ok(());
    }
    let (name, version) = (server.name, &server.version);
    Err(Failure::new(Reason::Version, format!("the server is {name} {version}")))
}

impl ConnectionLike for Session {
    fn req_packed_command(&mut self, cmd: &[u8]) -> RedisResult<Value> {
        let mut replies = self.req_packed_commands(cmd, 0, 1)?;
        replies.pop().ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof).into())
    }

    fn req_packed_commands(
        &mut self,
        cmd: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        self.open = false;
        self.transport.get_mut().begin(self.timeout, self.reply_bytes_max);
        self.transport.get_mut().send(cmd)?;
        let mut replies = Vec::with_capacity(count);
        let mut refused = None;
        for position in 0..offset + count {
            match self.receive()? {
                Value::ServerError(error) => refused = refused.or(Some(error)),
                reply if position >= offset => replies.push(reply),
                _ => {}
            }
        }
        self.open = true;
        // The first error speaks for the pipeline: redis-rs would hide its code among the others.
        refused.map_or(Ok(replies), |error| Err(error.into()))
    }

    fn req_command(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        self.req_packed_command(&cmd.get_packed_command())
    }

    fn get_db(&self) -> i64 {
        self.db
    }

    fn check_connection(&mut self) -> bool {
        redis::cmd("PING").exec(self).is_ok()
    }

    fn is_open(&self) -> bool {
        self.open
    }
}
