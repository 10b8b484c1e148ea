//! This backend's one connection: handshake, requests, replies.
//!
//! A session that fails in any way is dropped by its owner ([`super::link::Link`]), never mended:
//! a reply that comes late would otherwise answer the next question.

mod answers;
mod pour;
pub mod raw;

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pg_cache_core::fence;
use pg_cache_core::key::EntryKeys;
use pg_cache_core::reason::Reason;
use pg_cache_core::resp::{self, Look};
use pg_cache_core::settlement::Settlement;
use pg_cache_core::tag::Bucket;
use pg_cache_core::tagtable::Field;
use pg_cache_core::target::Target;
use redis::{Cmd, ConnectionLike, ErrorKind, Pipeline, RedisError, RedisResult, Value};

use super::Host;
use super::failure::Failure;
use super::inbox::Inbox;
use super::server::Server;
use super::transport::Transport;

use self::answers::Answers;

/// Replies of the handshake: INFO server and INFO replication are a few kilobytes.
const HANDSHAKE_BYTES_MAX: usize = 256 * 1024;

/// What a look asks of an entry: value and sidecar.
pub const ENTRY_PARTS: usize = 2;

/// What it asks of the table besides buckets: generation and base.
pub const TABLE_PARTS: usize = 2;

/// For how long a server is taken for what it last said it is, where no exactness hangs on it.
const PROOF_LASTS: Duration = Duration::from_millis(20);

/// How many connections this process has opened.
static OPENED: AtomicU64 = AtomicU64::new(1);

/// The generation of a tag table, once for each call of BUMP.
pub type Generations = Vec<Option<Vec<u8>>>;

/// Bounds of one request.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For opening a connection, handshake included.
    pub connect_timeout: Duration,
    /// For all answers to one request, a pipeline too.
    pub timeout: Duration,
    /// For all of them, connecting included.
    pub until: Option<Instant>,
    pub reply_bytes_max: usize,
}

/// What is left for the next answer.
fn left_of(timeout: Duration, until: Option<Instant>) -> Duration {
    until.map_or(timeout, |until| timeout.min(until.saturating_duration_since(Instant::now())))
}

/// What a look asks for.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    pub value: &'a [u8],
    pub sidecar: &'a [u8],
    /// Its key and what to look at there, if the tag table is in Redis.
    pub table: Option<(&'a [u8], &'a [Bucket])>,
}

impl<'a> Ask<'a> {
    pub fn new(keys: &'a EntryKeys, table: Option<(&'a [u8], &'a [Bucket])>) -> Self {
        Self { value: keys.value(), sidecar: keys.sidecar(), table }
    }
}

/// What a look found, as far as it is there.
pub struct Found<'a> {
    /// Who answered, by the last proof.
    pub server: &'a Server,
    pub value: Option<&'a [u8]>,
    pub sidecar: Option<&'a [u8]>,
    pub generation: Option<&'a [u8]>,
    pub base: Option<&'a [u8]>,
    pub fields: Vec<Option<&'a [u8]>>,
}

impl<'a> Found<'a> {
    /// Of the parts in the order in which they were asked for.
    pub fn new(server: &'a Server, mut parts: impl Iterator<Item = Option<&'a [u8]>>) -> Self {
        let mut next = || parts.next().flatten();
        let (value, sidecar, generation, base) = (next(), next(), next(), next());
        Self { server, value, sidecar, generation, base, fields: parts.collect() }
    }

    /// As it is judged: with the table that is in memory, or the one that was found.
    pub fn beside<'b>(&'b self, memory: Option<&'b [Field]>) -> fence::Look<'b> {
        let (generation, base, fields) = (self.generation, self.base, &self.fields[..]);
        let table = match memory {
            Some(fields) => fence::Table::Memory(fields),
            None => fence::Table::Redis { generation, base, fields },
        };
        fence::Look { value: self.value, sidecar: self.sidecar, table }
    }
}

pub struct Session {
    transport: Transport,
    inbox: Inbox,
    outbox: Vec<u8>,
    /// Room for where the parts of an answer stand.
    ranges: Vec<Option<Range<usize>>>,
    answers: Answers,
    timeout: Duration,
    until: Option<Instant>,
    reply_bytes_max: usize,
    db: i64,
    open: bool,
    /// It leads to a server that is not, or no longer, the one to write to.
    is_outdated: bool,
    /// What the full parser read of a look that was not plain.
    other: Vec<Option<Vec<u8>>>,
    server: Server,
    proved_at: Instant,
    posted: Posted,
    posts: u64,
    /// Tells this connection from any other that this process opened.
    pub(super) number: u64,
}

/// Requests that were sent and whose answers are taken later: those of one post, and whatever asks
/// next takes them first.
#[derive(Default)]
struct Posted {
    ticket: u64,
    waiting: usize,
    answers: Vec<Value>,
}

impl Session {
    pub fn open(target: &Target, name: &str, bounds: Bounds, host: Host) -> Result<Self, Failure> {
        let timeout = left_of(bounds.connect_timeout, bounds.until);
        let until = Instant::now().checked_add(timeout);
        let transport = Transport::connect(&target.endpoint, timeout, host).map_err(|error| {
            match error.kind() {
                io::ErrorKind::TimedOut => Failure::new(Reason::Timeout, error.to_string()),
                _ => Failure::new(Reason::Connect, error.to_string()),
            }
        })?;
        let mut session = Self {
            transport,
            inbox: Inbox::default(),
            outbox: Vec::new(),
            ranges: Vec::new(),
            answers: Answers::default(),
            timeout,
            until,
            reply_bytes_max: HANDSHAKE_BYTES_MAX,
            db: target.db,
            open: true,
            is_outdated: false,
            other: Vec::new(),
            server: Server::default(),
            proved_at: Instant::now(),
            posted: Posted::default(),
            posts: 0,
            number: OPENED.fetch_add(1, Ordering::Relaxed),
        };
        session.server = session.handshake(target, name)?;
        session.set_bounds(bounds);
        Ok(session)
    }

    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.timeout = bounds.timeout;
        self.until = bounds.until;
        self.reply_bytes_max = bounds.reply_bytes_max;
    }

    /// Whether the server has hung up meanwhile, as far as this machine knows, or the name may lead
    /// to another one by now.
    pub fn is_closed(&self) -> bool {
        self.is_outdated || self.transport.is_closed()
    }

    /// The server takes no writes: a primary that was demoted keeps its connections.
    pub fn outdate(&mut self) {
        self.is_outdated = true;
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Asks the server again who it is.
    pub fn identify(&mut self) -> RedisResult<Server> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("INFO").arg("server").cmd("INFO").arg("replication");
        let (server, replication): (String, String) = pipeline.query(self)?;
        self.server = Server::read(&server, &replication, self.db);
        Ok(self.server.clone())
    }

    /// Adds the question for the server's identity, behind all that hangs on the answer. Where the
    /// tag table is in Redis it is asked every time: a demoted primary keeps its connections, its
    /// run_id and its old answers, and can be demoted and resynchronized within milliseconds; only
    /// its role and replication id tell.
    pub fn ask_for_proof(pipeline: &mut Pipeline) {
        pipeline.cmd("INFO").arg("replication");
    }

    /// Where nothing that is exact hangs on it, it is asked now and then, so that a failover is
    /// noticed, and what it brought back is swept.
    pub fn is_proof_due(&self) -> bool {
        self.proved_at.elapsed() > PROOF_LASTS
    }

    /// Takes the answer.
    pub fn prove(&mut self, reply: Option<Value>) -> RedisResult<()> {
        let text: String = redis::from_redis_value(reply.unwrap_or(Value::Nil))?;
        self.server.take_proof(&text);
        self.proved_at = Instant::now();
        Ok(())
    }

    /// Takes the answer from where it stands in the reply just consumed.
    fn take_proof(&mut self, used: usize, range: Option<Option<Range<usize>>>) {
        let text = range.flatten().map(|range| &self.inbox.last(used)[range]);
        // Whatever is no text proves nothing.
        self.server.take_proof(text.and_then(|text| str::from_utf8(text).ok()).unwrap_or_default());
        self.proved_at = Instant::now();
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
        let server = Server::read(&server, &replication, target.db);
        server.check_version()?;
        Ok(server)
    }

    /// The hit path: an entry and its part of the tag table, borrowed from the buffer that they
    /// came into. Asks the server for its identity on the way: each time if it has the table.
    pub fn look(&mut self, ask: &Ask<'_>) -> RedisResult<Found<'_>> {
        let fields = ask.table.map(|(_, buckets)| buckets.len());
        let proof = fields.is_some() || self.is_proof_due();
        let mut out = std::mem::take(&mut self.outbox);
        out.clear();
        resp::write_look(&mut out, ask.value, ask.sidecar, ask.table, proof);
        let mut ranges = std::mem::take(&mut self.ranges);
        let read = |bytes: &[u8], ranges: &mut _| resp::read_look(bytes, fields, proof, ranges);
        let Some(used) = self.exchange(&out, read, &mut ranges)? else {
            self.outbox = out;
            return self.look_at_other(fields, proof);
        };
        self.outbox = out;
        if proof {
            self.take_proof(used, ranges.pop());
        }
        let reply = self.inbox.last(used);
        let parts = ranges.drain(..).map(|range| range.map(|range| &reply[range]));
        let found = Found::new(&self.server, parts);
        self.ranges = ranges;
        Ok(found)
    }

    /// Sends a request, and reads answers of the expected shape: how many bytes they took, and in
    /// `ranges` where their parts stand. None: something else came, which nobody has read yet.
    fn exchange(
        &mut self,
        packed: &[u8],
        read: impl Fn(&[u8], &mut Vec<Option<Range<usize>>>) -> Look,
        ranges: &mut Vec<Option<Range<usize>>>,
    ) -> RedisResult<Option<usize>> {
        self.begin()?;
        self.transport.send(packed)?;
        self.inbox.fill(&mut self.transport, 0)?;
        let used = loop {
            match read(self.inbox.pending(), ranges) {
                Look::Complete { used } => break used,
                Look::Incomplete { at_least } => self.inbox.fill(&mut self.transport, at_least)?,
                Look::Other => return Ok(None),
            }
        };
        self.inbox.consume(used);
        self.open = true;
        Ok(Some(used))
    }

    /// The commit path: BUMP and DEL. Returns the generations that the table had.
    pub fn settle(&mut self, settlement: &Settlement) -> RedisResult<Generations> {
        let mut ranges = Vec::with_capacity(settlement.replies());
        let read = |bytes: &[u8], ranges: &mut _| settlement.read(bytes, ranges);
        let Some(used) = self.exchange(settlement.packed(), read, &mut ranges)? else {
            let answers = (0..settlement.replies()).map(|_| self.receive());
            let answers = answers.collect::<RedisResult<Vec<Value>>>()?;
            self.open = true;
            return self.settled(settlement, answers);
        };
        if settlement.proves() {
            self.take_proof(used, ranges.pop());
        }
        let reply = self.inbox.last(used);
        Ok(ranges.into_iter().map(|range| Some(reply[range?].to_vec())).collect())
    }

    /// The same of answers that the full parser read.
    pub fn settled(
        &mut self,
        settlement: &Settlement,
        answers: Vec<Value>,
    ) -> RedisResult<Generations> {
        let answers: Result<Vec<Value>, _> =
            answers.into_iter().map(Value::extract_error).collect();
        let mut answers = answers?;
        if settlement.proves() {
            self.prove(answers.pop())?;
        }
        let generations = answers.into_iter().take(settlement.bumps());
        generations.map(|answer| Ok(redis::from_redis_value(answer)?)).collect()
    }

    /// An error, or a push before the answer: the full parser reads it from the first byte on.
    fn look_at_other(&mut self, fields: Option<usize>, proof: bool) -> RedisResult<Found<'_>> {
        let entry = self.receive()?;
        let table = fields.map(|_| self.receive()).transpose()?;
        let info = proof.then(|| self.receive()).transpose()?;
        self.open = true;
        let mut other = parts(entry.extract_error()?, ENTRY_PARTS)?;
        match table.map(Value::extract_error).transpose() {
            Ok(Some(table)) => {
                other.append(&mut parts(table, TABLE_PARTS + fields.unwrap_or(0))?);
            }
            Ok(None) => {}
            // Somebody put something else in the table's place: then it is as good as missing.
            Err(error) if error.code() == Some("WRONGTYPE") => {}
            Err(error) => return Err(error),
        }
        if proof {
            self.prove(info)?;
        }
        self.other = other;
        Ok(Found::new(&self.server, self.other.iter().map(Option::as_deref)))
    }

    /// Sends requests and does not wait for their answers; the ticket is for [`Session::collect`].
    /// One post at a time: another forgets the answers to the one before.
    pub fn post(&mut self, packed: &[u8], replies: usize) -> RedisResult<u64> {
        self.begin()?;
        self.transport.send(packed)?;
        self.posts += 1;
        self.posted = Posted { ticket: self.posts, waiting: replies, answers: Vec::new() };
        Ok(self.posts)
    }

    /// The answers to a post of this session, errors among them.
    pub fn collect(&mut self, ticket: u64) -> RedisResult<Vec<Value>> {
        if self.posted.ticket != ticket || ticket == 0 {
            return Err(io::Error::from(io::ErrorKind::NotConnected).into());
        }
        self.begin()?;
        self.open = true;
        Ok(std::mem::take(&mut self.posted).answers)
    }

    /// Sends requests, and takes the answers to all of them, errors among them.
    pub fn ask_each(&mut self, requests: &Pipeline) -> RedisResult<Vec<Value>> {
        let ticket = self.post(&requests.get_packed_pipeline(), requests.len())?;
        self.collect(ticket)
    }

    /// Takes the answers to a post, so that none is read as the answer to what is asked next.
    pub fn take_posted(&mut self) -> RedisResult<()> {
        if self.posted.waiting == 0 {
            return Ok(());
        }
        self.transport.begin(self.left(), self.reply_bytes_max);
        while self.posted.waiting > 0 {
            let answer = self.receive()?;
            self.posted.answers.push(answer);
            self.posted.waiting -= 1;
        }
        Ok(())
    }

    fn left(&self) -> Duration {
        left_of(self.timeout, self.until)
    }

    /// From here until the complete reply, the connection is not to be used for anything else.
    fn begin(&mut self) -> RedisResult<()> {
        self.open = false;
        self.take_posted()?;
        self.answers.begin();
        self.inbox.prepare()?;
        self.transport.begin(self.left(), self.reply_bytes_max);
        Ok(())
    }

    fn receive(&mut self) -> RedisResult<Value> {
        self.answers.next(&mut self.inbox, &mut self.transport)
    }
}

impl Drop for Session {
    /// Nothing of what nobody waits for any more is to arrive later.
    fn drop(&mut self) {
        if !self.open {
            self.transport.abandon();
        }
    }
}

/// The parts of one reply to a look. With one too few or too many, each behind it would be taken
/// for another.
pub fn parts(reply: Value, count: usize) -> RedisResult<Vec<Option<Vec<u8>>>> {
    let parts: Vec<_> = redis::from_redis_value(reply)?;
    match parts.len() == count {
        true => Ok(parts),
        false => Err((ErrorKind::UnexpectedReturnType, "a reply of another length").into()),
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
        self.begin()?;
        self.transport.send(cmd)?;
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
