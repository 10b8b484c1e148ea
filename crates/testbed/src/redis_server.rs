//! A running Redis of the tests' own.
//!
//! Owns one redis-server and its temporary directory. The invariant: it listens on its Unix socket
//! only (a loopback port is opened by `start_tcp` alone), persists nothing, and is killed and
//! reaped when the value is dropped, also while frozen. Break it and a test talks to the machine's
//! Redis or leaves one behind.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use redis::{ConnectionAddr, IntoConnectionInfo};

use crate::eventually;
use crate::process::{Directory, Server, give_to_service, run_well};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const PORT_ATTEMPTS: usize = 10;

/// A running redis-server on a private Unix socket: `port 0`, `save ""`, `appendonly no`.
pub struct Redis {
    // The process is stopped before its directory is removed: fields drop in this order.
    server: Option<Server>,
    directory: Directory,
    socket: PathBuf,
    args: Vec<String>,
    port: Option<u16>,
    kept: bool,
}

impl Redis {
    /// Starts a server with the settings above and no others.
    pub fn start() -> Redis {
        Redis::start_with(&[])
    }

    /// Starts a server with further command line arguments, e.g. `&["--requirepass", "x"]`.
    pub fn start_with(args: &[&str]) -> Redis {
        Redis::launch(args, None, false).unwrap_or_else(|why| panic!("{why}"))
    }

    /// As `start_with`, for a server that `keep` may leave running: it does not die with us.
    pub fn start_keepable(args: &[&str]) -> Redis {
        Redis::launch(args, None, true).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Starts a server that also listens on a free port of 127.0.0.1; its `url` is then
    /// `redis://127.0.0.1:PORT`.
    pub fn start_tcp(args: &[&str]) -> Redis {
        let mut why = String::new();
        for _ in 0..PORT_ATTEMPTS {
            // Somebody may take the port between this look and the server's bind: try again then.
            let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
            let port = free.expect("a loopback port is free").port();
            match Redis::launch(args, Some(port), false) {
                Ok(redis) => return redis,
                Err(failure) => why = failure,
            }
        }
        panic!("{why}");
    }

    fn launch(args: &[&str], port: Option<u16>, kept: bool) -> Result<Redis, String> {
        let directory = Directory::new();
        let socket = directory.path().join("redis.sock");
        let args = args.iter().map(|arg| arg.to_string()).collect();
        let mut redis = Redis { server: None, directory, socket, args, port, kept };
        redis.launch_process()?;
        Ok(redis)
    }

    fn launch_process(&mut self) -> Result<(), String> {
        let path = self.directory.path();
        let mut command = Command::new("redis-server");
        command.current_dir(path);
        command.args(["--port", &self.port.unwrap_or(0).to_string(), "--bind", "127.0.0.1"]);
        command.arg("--unixsocket").arg(&self.socket).args(["--unixsocketperm", "777"]);
        command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
        command.arg("--dir").arg(path);
        command.args(&self.args);
        let server = Server::spawn(command, &self.log_file(), libc::SIGKILL, self.kept);
        self.server = Some(server.map_err(|e| format!("redis-server does not start: {e}"))?);
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let start = Instant::now();
        loop {
            if answers(&self.socket) {
                return Ok(());
            }
            let ended = self.server.as_mut().and_then(Server::ended);
            let what = match ended {
                Some(status) => format!("Redis did not start ({status})"),
                None if start.elapsed() > START_TIMEOUT => "Redis does not answer".to_owned(),
                None => {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
            };
            return Err(format!("{what}:\n{}", self.log()));
        }
    }

    /// The address for `pg_cache.url`, `unix:///….sock`, without credentials.
    pub fn url(&self) -> String {
        match self.port {
            Some(port) => format!("redis://127.0.0.1:{port}"),
            None => format!("unix://{}", self.socket.display()),
        }
    }

    /// The same with the password that it was started with, if there is one.
    pub fn url_with_password(&self) -> String {
        let url = self.url();
        match (self.password(), self.port) {
            (None, _) => url,
            (Some(password), None) => format!("{url}?password={password}"),
            (Some(password), Some(_)) => url.replace("://", &format!("://:{password}@")),
        }
    }

    /// The path of the Unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The loopback port, if it was started by `start_tcp`.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The password it was started with.
    fn password(&self) -> Option<&str> {
        let option = self.args.iter().position(|arg| arg == "--requirepass")?;
        self.args.get(option + 1).map(String::as_str)
    }

    /// A connection, authenticated when the server was started with `--requirepass`. Panics if the
    /// server is not up.
    pub fn client(&self) -> redis::Connection {
        let address = ConnectionAddr::Unix(self.socket.clone()).into_connection_info();
        let mut address = address.expect("a path is an address");
        if let Some(password) = self.password() {
            let settings = address.redis_settings().clone().set_password(password);
            address = address.set_redis_settings(settings);
        }
        let client = redis::Client::open(address).expect("the address is well formed");
        client.get_connection().unwrap_or_else(|error| panic!("Redis is not up: {error}"))
    }

    /// Runs redis-cli against this server (authenticated as `client` is) and returns what it
    /// printed, without the last line end.
    pub fn cli(&self, args: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(&self.socket);
        if let Some(password) = self.password() {
            command.args(["--no-auth-warning", "-a", password]);
        }
        command.args(args);
        let mut printed = run_well(command, self.directory.path());
        if printed.ends_with('\n') {
            printed.pop();
        }
        printed
    }

    /// The process; panics while the server is stopped.
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// SIGSTOP; returns when the process has stopped. The socket still accepts, nothing answers.
    pub fn freeze(&self) {
        self.running().signal(libc::SIGSTOP);
        let pid = self.pid();
        eventually(Duration::from_secs(10), "Redis stops on SIGSTOP", || state(pid) == Some('T'));
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.running().signal(libc::SIGCONT);
    }

    /// Kills the server and waits for its end. Its data is lost; connecting is refused from here.
    pub fn stop(&mut self) {
        self.server = None;
        let _ = fs::remove_file(self.dump());
    }

    /// What the server holds now, as it would write it to disk.
    pub fn snapshot(&self) -> Vec<u8> {
        assert_eq!(self.cli(&["SAVE"]), "OK");
        let dump = fs::read(self.dump()).expect("SAVE wrote it");
        let _ = fs::remove_file(self.dump());
        dump
    }

    /// Starts the stopped server with what `snapshot` gave, with another run_id.
    pub fn start_again_from(&mut self, snapshot: &[u8]) {
        fs::write(self.dump(), snapshot).expect("a directory of ours");
        give_to_service(&self.dump());
        self.start_again();
    }

    /// Whether it is a replica whose copy follows its master.
    pub fn follows(&self) -> bool {
        self.cli(&["INFO", "replication"]).contains("master_link_status:up")
    }

    /// Whether it takes writes, as far as it knows.
    pub fn is_master(&self) -> bool {
        self.cli(&["INFO", "replication"]).contains("role:master")
    }

    /// Makes it a replica of the server on that loopback port, and returns when the copy is there.
    pub fn follow(&self, port: u16) {
        assert_eq!(self.cli(&["REPLICAOF", "127.0.0.1", &port.to_string()]), "OK");
        eventually(Duration::from_secs(20), "the replica follows", || self.follows());
    }

    fn dump(&self) -> PathBuf {
        self.directory.path().join("dump.rdb")
    }

    /// Starts the stopped server on the same socket (and port), empty, with another run_id.
    pub fn start_again(&mut self) {
        assert!(self.server.is_none(), "stop() comes before start_again()");
        self.launch_process().unwrap_or_else(|why| panic!("{why}"));
    }

    /// Leaves the server running and its directory in place. Only for a keepable one.
    pub fn keep(mut self) {
        assert!(self.kept, "this server dies with us");
        if let Some(server) = self.server.take() {
            server.keep();
        }
        self.directory.keep();
    }

    /// The server log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("redis.log")
    }

    fn running(&self) -> &Server {
        self.server.as_ref().expect("Redis is stopped")
    }
}

/// Any reply but LOADING counts: without a password the answer is -NOAUTH, and the server is up.
fn answers(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let mut reply = [0; 8];
    let asked = stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .and_then(|()| stream.write_all(b"PING\r\n"))
        .and_then(|()| stream.read_exact(&mut reply[..5]));
    asked.is_ok() && !reply.starts_with(b"-LOAD")
}

/// The state letter of /proc/PID/stat, which follows the parenthesised name.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
