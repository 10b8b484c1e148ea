//! Starting a server so that it cannot outlive us, and stopping it.
//!
//! Owns every child process of the testbed and the temporary directories they work in. The
//! invariant: a child dies with the process that started it. `Drop` stops it while we live; when
//! we are killed, the kernel sends the child its `PR_SET_PDEATHSIG` signal. That signal fires when
//! the *thread* that forked ends, and a test thread ends long before its shared server may, so all
//! children are forked by one thread that lives as long as the process. Break it and a killed test
//! run leaves servers behind.
//!
//! PostgreSQL refuses to run as root, so root starts everything as the account `postgres`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Unix socket paths end at 107 bytes; what is left must hold `/.s.PGSQL.5432.lock`.
const DIRECTORY_BYTES_MAX: usize = 80;

/// Whether a server ends with the process that started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// It is sent this signal when we die.
    Ours(i32),
    /// It stays: for servers that a person asked to keep.
    ItsOwn,
}

/// A child process that is stopped when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    quit_signal: i32,
    ended: bool,
}

impl Server {
    /// Starts `command` in its own process group (a Ctrl-C at the terminal is ours to handle, not
    /// the server's) under the service account, printing into `log`: a kept server must not hold
    /// open the pipe that we print into. `quit_signal` ends it at once.
    pub fn spawn(
        mut command: Command,
        log: &Path,
        quit_signal: i32,
        kept: bool,
    ) -> io::Result<Server> {
        as_service(&mut command);
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let lifetime = if kept { Lifetime::ItsOwn } else { Lifetime::Ours(quit_signal) };
        Ok(Server {
            child: fork_from_lasting_thread(command, lifetime)?,
            quit_signal,
            ended: false,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill() takes no pointers; the child is not reaped yet, so the pid is still its.
        let _ = unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten();
        self.ended |= status.is_some();
        status
    }

    /// Sends `signal` and waits for the end; after `patience`, SIGKILL.
    pub fn stop(&mut self, signal: i32, patience: Duration) -> ExitStatus {
        let start = Instant::now();
        self.signal(signal);
        // A frozen process takes its signal only when it runs again.
        self.signal(libc::SIGCONT);
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            if start.elapsed() > patience {
                self.signal(libc::SIGKILL);
                let waited = self.child.wait();
                self.ended = true;
                return waited.unwrap_or_else(|_| ExitStatus::from_raw(libc::SIGKILL));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lets it run on without us.
    pub fn keep(mut self) {
        self.ended = true;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.ended {
            self.stop(self.quit_signal, Duration::from_secs(15));
        }
    }
}

type Order = (Command, Lifetime, Sender<io::Result<Child>>);

fn fork_from_lasting_thread(command: Command, lifetime: Lifetime) -> io::Result<Child> {
    static ORDERS: OnceLock<Sender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (sender, receiver): (Sender<Order>, Receiver<Order>) = channel();
        std::thread::Builder::new()
            .name("testbed-fork".into())
            .spawn(move || {
                for (mut command, lifetime, answer) in receiver {
                    let _ = answer.send(fork(&mut command, lifetime));
                }
            })
            .expect("a thread can be started");
        sender
    });
    let (sender, receiver) = channel();
    orders.send((command, lifetime, sender)).expect("the forking thread lives");
    receiver.recv().expect("the forking thread answers")
}

fn fork(command: &mut Command, lifetime: Lifetime) -> io::Result<Child> {
    if let Lifetime::Ours(signal) = lifetime {
        let parent = std::process::id();
        let die_with_us = move || {
            // SAFETY: prctl() with an integer argument; safe between fork and exec.
            if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong) } != 0 {
                return Err(io::Error::last_os_error());
            }
            // Had we died before the call above, no signal would ever come.
            if std::os::unix::process::parent_id() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        };
        // SAFETY: the closure makes two system calls and allocates nothing. It runs after the
        // change of user, which would clear the setting.
        unsafe { command.pre_exec(die_with_us) };
    }
    command.spawn()
}

/// Makes `command` run under the service account, without the caller's `PG*` variables but those
/// that it was given itself.
pub fn as_service(command: &mut Command) {
    let is_given = |name: &OsString| command.get_envs().any(|(given, _)| given == name);
    let inherited: Vec<OsString> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_str().is_some_and(|n| n.starts_with("PG") && n != "PG_MAJOR"))
        .filter(|name| !is_given(name))
        .collect();
    for name in inherited {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").env("TZ", "UTC");
    if let Some(account) = service_account() {
        command.uid(account.uid).gid(account.gid);
        // The caller's directory may be one that the account cannot enter.
        command.env("HOME", "/nonexistent").env("USER", &account.name);
    }
}

/// Runs a program to its end under the service account, in `directory`.
pub fn run(mut command: Command, directory: &Path) -> Output {
    as_service(&mut command);
    command.current_dir(directory).stdin(Stdio::null());
    let output = command.output();
    output.unwrap_or_else(|error| panic!("{:?} does not start: {error}", command.get_program()))
}

/// As `run`, and panics with what it printed unless it succeeded. Returns its standard output.
pub fn run_well(command: Command, directory: &Path) -> String {
    let shown = format!("{command:?}");
    let output = run(command, directory);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        panic!("{shown}: {}\n{stdout}{stderr}", output.status);
    }
    stdout
}

/// Whom servers run as when we are root.
#[derive(Clone, Debug)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// The account `postgres`, or `nobody` where there is none; `None` when we are not root.
pub fn service_account() -> Option<Account> {
    static FOUND: OnceLock<Option<Account>> = OnceLock::new();
    FOUND.get_or_init(find_service_account).clone()
}

fn find_service_account() -> Option<Account> {
    // SAFETY: geteuid() takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
    let account = |wanted: &str| {
        passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
            (fields[0] == wanted).then(|| Account { name: wanted.into(), uid, gid })
        })
    };
    let found = account("postgres").or_else(|| account("nobody"));
    Some(found.expect("root needs the account postgres or nobody to run the servers as"))
}

/// A directory of ours that the service account owns; removed with the value.
#[derive(Debug)]
pub struct Directory(Option<tempfile::TempDir>, PathBuf);

impl Directory {
    /// Under `PG_CACHE_TMPDIR` or else `/tmp`: never inside the repository, which the service
    /// account may be unable to enter, and short, because socket paths are.
    pub fn new() -> Directory {
        let parent = std::env::var_os("PG_CACHE_TMPDIR").unwrap_or_else(|| "/tmp".into());
        let made = tempfile::Builder::new()
            .prefix("pgc.")
            .tempdir_in(&parent)
            .unwrap_or_else(|error| panic!("no directory in {parent:?}: {error}"));
        let path = made.path().to_owned();
        assert!(
            path.as_os_str().len() <= DIRECTORY_BYTES_MAX,
            "{path:?} is too long for a socket: set PG_CACHE_TMPDIR to something shorter"
        );
        give_to_service(&path);
        Directory(Some(made), path)
    }

    pub fn path(&self) -> &Path {
        &self.1
    }

    /// Leaves it where it is.
    pub fn keep(mut self) {
        let _ = self.0.take().map(tempfile::TempDir::keep);
    }
}

impl Default for Directory {
    fn default() -> Directory {
        Directory::new()
    }
}

/// Makes the service account the owner of a file or directory of ours.
pub fn give_to_service(path: &Path) {
    if let Some(account) = service_account() {
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid))
            .unwrap_or_else(|error| panic!("cannot chown {path:?}: {error}"));
    }
}

/// What a process's address space grew to, in kB. Shared memory stands in it from the start.
pub fn memory_peak_kb(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no VmPeak: {status}"))
}
