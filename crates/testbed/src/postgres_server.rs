//! A running PostgreSQL of the tests' own.
//!
//! Owns one postmaster and its data directory. The invariant: the server listens on a Unix socket
//! in its own temporary directory and nowhere else, and is gone, directory and all, when the value
//! is dropped. Break it and tests meet each other's servers.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

use crate::Cluster;
use crate::cluster::copy_data;
use crate::process::{Directory, Server, run_well};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Only the name of the socket file: nothing listens on TCP.
const PORT: u16 = 5432;

/// A running server: database `test` with the extension created, superuser `postgres`, trust
/// authentication, `fsync=off`, locale C, UTF8, time zone UTC.
pub struct Postgres {
    // The process is stopped before its directory is removed: fields drop in this order.
    server: Server,
    directory: Directory,
    cluster: Cluster,
    data_dir: PathBuf,
    kept: bool,
}

impl Postgres {
    /// Starts a server with the settings above and no others.
    pub fn start() -> Postgres {
        Postgres::start_with(&[])
    }

    /// Starts a server with `conf` appended to `postgresql.conf` (values unquoted: they are quoted
    /// here).
    pub fn start_with(conf: &[(&str, &str)]) -> Postgres {
        Postgres::start_in(Cluster::from_env(), conf, false)
    }

    /// As `start_with`, in an installation of the caller's choice. One that is `keepable` does not
    /// die with us, so that `keep` may leave it running.
    pub fn start_in(cluster: Cluster, conf: &[(&str, &str)], keepable: bool) -> Postgres {
        let directory = Directory::new();
        let data_dir = directory.path().join("data");
        copy_data(&cluster.template(), &data_dir);
        Postgres::launch(cluster, directory, data_dir, conf, keepable)
    }

    /// As `start_with`, but from an `initdb` of its own. The others are copies of one data
    /// directory and share its system identifier; take this where two clusters must differ.
    pub fn start_fresh(conf: &[(&str, &str)]) -> Postgres {
        let cluster = Cluster::from_env();
        let directory = Directory::new();
        let data_dir = directory.path().join("data");
        initdb(&cluster, &data_dir);
        let postgres = Postgres::launch(cluster, directory, data_dir, conf, false);
        postgres.create_test_database();
        postgres
    }

    /// Makes the data directory that every other server of `cluster` starts from.
    pub(crate) fn make_template(cluster: &Cluster) {
        let directory = Directory::new();
        let data_dir = directory.path().join("data");
        initdb(cluster, &data_dir);
        let pristine = fs::read(data_dir.join("postgresql.conf")).expect("initdb wrote it");
        // The worker that the extension starts must not find a Redis of this machine.
        let nowhere = [("pg_cache.url", "unix:///nonexistent.sock")];
        let mut postgres =
            Postgres::launch(cluster.clone(), directory, data_dir.clone(), &nowhere, false);
        postgres.create_test_database();
        postgres.server.stop(libc::SIGINT, STOP_TIMEOUT);
        fs::write(data_dir.join("postgresql.conf"), pristine).expect("a file of ours");
        copy_data(&data_dir, &cluster.template());
    }

    pub(crate) fn launch(
        cluster: Cluster,
        directory: Directory,
        data_dir: PathBuf,
        conf: &[(&str, &str)],
        kept: bool,
    ) -> Postgres {
        configure(&data_dir, directory.path(), conf);
        let server = launch_process(&cluster, &directory, &data_dir, kept);
        let mut postgres = Postgres { server, directory, cluster, data_dir, kept };
        postgres.wait_until_ready();
        postgres
    }

    fn create_test_database(&self) {
        let mut client = self.connect_as("postgres", "postgres");
        client.batch_execute("CREATE DATABASE test").expect("CREATE DATABASE");
        self.create_extension("test");
    }

    /// `CREATE EXTENSION pg_cache` in database `db`.
    pub fn create_extension(&self, db: &str) {
        let mut client = self.connect_as("postgres", db);
        client.batch_execute("CREATE EXTENSION pg_cache").unwrap_or_else(|error| {
            panic!("CREATE EXTENSION pg_cache: {error:?}\n{}", self.log());
        });
    }

    /// Waits until a database is registered with its Redis, so that its queries are cached.
    pub fn register(&self, db: &str) {
        let mut client = self.connect_as("postgres", db);
        client.batch_execute("SELECT * FROM redis_repair()").unwrap_or_else(|error| {
            panic!("redis_repair(): {error:?}\n{}", self.log());
        });
    }

    /// The postmaster writes `ready` into its pid file when it accepts connections.
    fn wait_until_ready(&mut self) {
        let start = Instant::now();
        let pid = self.server.pid().to_string();
        let pid_file = self.data_dir.join("postmaster.pid");
        loop {
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            let mut lines = text.lines();
            if lines.next() == Some(&pid) && lines.nth(6).is_some_and(|s| s.trim() == "ready") {
                return;
            }
            if let Some(status) = self.server.ended() {
                panic!("PostgreSQL did not start ({status}):\n{}", self.log());
            }
            if start.elapsed() > START_TIMEOUT {
                panic!("PostgreSQL not ready within {START_TIMEOUT:?}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops the server (fast shutdown) and starts it again on the same data and socket.
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Ends it as a crash of the machine would, but for the disk: every process of it is killed.
    pub fn crash(&mut self) {
        let children = children_of(self.pid());
        self.server.stop(libc::SIGKILL, STOP_TIMEOUT);
        for pid in &children {
            // SAFETY: kill() takes no pointers; children of our postmaster, listed just now.
            let _ = unsafe { libc::kill(*pid as libc::pid_t, libc::SIGKILL) };
        }
        // The next postmaster refuses to start while a process is attached to the old memory.
        let gone = || !children.iter().any(|pid| runs(*pid));
        crate::eventually(STOP_TIMEOUT, "the killed backends are gone", gone);
    }

    /// Kills one process of it, as the kernel does when memory runs out.
    pub fn kill(&self, pid: u32) {
        assert!(self.children().contains(&pid), "{pid} is no process of this server");
        // SAFETY: kill() takes no pointers; a child of our postmaster, listed just now.
        assert_eq!(unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) }, 0);
    }

    /// Stops it (fast shutdown).
    pub fn stop(&mut self) {
        self.server.stop(libc::SIGINT, STOP_TIMEOUT);
    }

    /// Stops it at once, as `pg_ctl stop -m immediate` does.
    pub fn stop_now(&mut self) {
        self.server.stop(libc::SIGQUIT, STOP_TIMEOUT);
    }

    /// Starts it again on the same data and socket, after `crash` or one of the stops.
    pub fn start_again(&mut self) {
        self.server = launch_process(&self.cluster, &self.directory, &self.data_dir, self.kept);
        self.wait_until_ready();
    }

    /// A server of its own on a copy of this one's files, made while this one is stopped.
    pub fn copy(&mut self, conf: &[(&str, &str)]) -> Postgres {
        self.server.stop(libc::SIGINT, STOP_TIMEOUT);
        let directory = Directory::new();
        let data_dir = directory.path().join("data");
        copy_data(&self.data_dir, &data_dir);
        self.server = launch_process(&self.cluster, &self.directory, &self.data_dir, self.kept);
        self.wait_until_ready();
        Postgres::launch(self.cluster.clone(), directory, data_dir, conf, false)
    }

    /// Starts it again if it has ended by itself: a postmaster that loses its startup process does.
    pub fn revive(&mut self) {
        if self.server.ended().is_some() {
            self.start_again();
        }
    }

    /// The processes of the server besides the postmaster.
    pub fn children(&self) -> Vec<u32> {
        children_of(self.pid())
    }

    /// Leaves the server running and its directory in place. Only for a keepable one.
    pub fn keep(self) {
        assert!(self.kept, "this server dies with us");
        self.server.keep();
        self.directory.keep();
    }

    /// A connection to database `test` as the superuser.
    pub fn connect(&self) -> Client {
        self.connect_as("postgres", "test")
    }

    /// A connection to database `db` as `user`.
    pub fn connect_as(&self, user: &str, db: &str) -> Client {
        let mut config = postgres::Config::new();
        config.host_path(self.socket_dir()).port(PORT).user(user).dbname(db);
        config.connect(NoTls).unwrap_or_else(|error| {
            panic!("cannot connect to {db} as {user}: {error:?}\n{}", self.log());
        })
    }

    /// `host=… port=… user=postgres dbname=DB`, as libpq and the postgres crate read it.
    pub fn conninfo(&self, db: &str) -> String {
        format!("host={} port={PORT} user=postgres dbname={db}", self.socket_dir().display())
    }

    /// Runs `sql` in database `test` with psql and `args`, and returns what it printed.
    pub fn psql(&self, args: &[&str], sql: &str) -> String {
        let mut command = Command::new(self.bin("psql"));
        command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1"]).args(args);
        command.arg("-d").arg(self.conninfo("test")).arg("-c").arg(sql);
        run_well(command, self.socket_dir())
    }

    /// The directory of the socket `.s.PGSQL.5432`.
    pub fn socket_dir(&self) -> &Path {
        self.directory.path()
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The postmaster.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// The path of a program of this server's installation.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.cluster.bin(name)
    }

    /// The installation this server runs from.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The server log so far, from its first start on.
    pub fn log(&self) -> String {
        let bytes = fs::read(log_file(&self.directory)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let list = format!("/proc/{parent}/task/{parent}/children");
    let pids = fs::read_to_string(list).unwrap_or_default();
    pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// A zombie holds nothing any more; whoever inherited it only has not looked yet.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn log_file(directory: &Directory) -> PathBuf {
    directory.path().join("postgres.log")
}

fn launch_process(cluster: &Cluster, directory: &Directory, data_dir: &Path, kept: bool) -> Server {
    let mut command = Command::new(cluster.bin("postgres"));
    // A copy's own libraries: those that it was built for may be others, of another release.
    command.env("LD_LIBRARY_PATH", cluster.own_libraries());
    // What is given back is overwritten: who uses it nevertheless shall not be lucky. Not where
    // time is measured.
    if cfg!(debug_assertions) {
        command.env("MALLOC_PERTURB_", "85");
    }
    command.arg("-D").arg(data_dir).current_dir(directory.path());
    // SIGQUIT: the postmaster quits its children and leaves without a checkpoint.
    Server::spawn(command, &log_file(directory), libc::SIGQUIT, kept).expect("postgres starts")
}

fn initdb(cluster: &Cluster, data_dir: &Path) {
    let mut command = Command::new(cluster.bin("initdb"));
    command.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
    // Small WAL segments: the directory is copied for every server.
    command.args(["--no-sync", "--wal-segsize=1", "--pgdata"]).arg(data_dir);
    run_well(command, data_dir.parent().expect("a directory of ours"));
}

fn configure(data_dir: &Path, socket_dir: &Path, conf: &[(&str, &str)]) {
    let socket_dir = socket_dir.display().to_string();
    let port = PORT.to_string();
    let ours = [
        ("listen_addresses", ""),
        ("unix_socket_directories", &socket_dir),
        ("port", &port),
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("logging_collector", "off"),
        ("log_line_prefix", "%m [%p] %u@%d "),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
    ];
    let mut text = String::from("\n# testbed\n");
    for (name, value) in ours.iter().chain(conf) {
        text += &format!("{name} = '{}'\n", value.replace('\'', "''"));
    }
    let file = fs::OpenOptions::new().append(true).open(data_dir.join("postgresql.conf"));
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("postgresql.conf is ours");
}
