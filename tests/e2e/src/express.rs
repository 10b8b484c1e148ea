//! A real application beside the database: Express with express-session and connect-redis.
//!
//! Owns its process and the little HTTP that the tests speak. The invariant: the packages are those
//! that the lock pins, and the process ends with the value. Break it and the tests show what some
//! other release does, or leave a server behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use pg_cache_testbed::Redis;
use serde_json::Value;

const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

pub struct Express {
    process: Child,
    /// It ends when this is closed.
    input: Option<ChildStdin>,
    port: u16,
}

/// A browser: it keeps one cookie.
pub struct Browser<'a> {
    express: &'a Express,
    pub cookie: Option<String>,
}

impl Express {
    pub fn start(redis: &Redis) -> Express {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        let directory = root.join("tests/e2e/consumers/express");
        let modules = modules(root, &directory);
        let mut process = Command::new("node")
            .arg(directory.join("app.mjs"))
            .arg(redis.socket())
            .arg(modules)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts; 'make setup' installs it");
        let input = process.stdin.take();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().expect("the application says its port");
        Express { process, input, port }
    }

    pub fn browser(&self) -> Browser<'_> {
        Browser { express: self, cookie: None }
    }
}

impl Drop for Express {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

impl Browser<'_> {
    pub fn get(&mut self, path: &str) -> Value {
        self.ask("GET", path)
    }

    pub fn post(&mut self, path: &str) -> Value {
        self.ask("POST", path)
    }

    #[track_caller]
    fn ask(&mut self, method: &str, path: &str) -> Value {
        let answer = self.send(method, path).rest();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        assert!(head.starts_with("HTTP/1.1 200 "), "{method} {path}: {answer}");
        let set = head.lines().find_map(|line| line.strip_prefix("Set-Cookie: "));
        if let Some((cookie, _)) = set.and_then(|set| set.split_once(';')) {
            self.cookie = Some(cookie.to_owned());
        }
        serde_json::from_str(body).unwrap_or_else(|_| panic!("{method} {path}: {answer}"))
    }

    /// Sends a request whose answer is read later.
    pub fn send(&self, method: &str, path: &str) -> Pending {
        let mut stream = TcpStream::connect(("127.0.0.1", self.express.port)).unwrap();
        stream.set_read_timeout(Some(ANSWER_TIME_MAX)).unwrap();
        let cookie = self.cookie.as_ref().map(|cookie| format!("Cookie: {cookie}\r\n"));
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\r\n",
            cookie.unwrap_or_default()
        );
        stream.write_all(head.as_bytes()).unwrap();
        Pending(BufReader::new(stream))
    }
}

/// An answer on its way.
pub struct Pending(BufReader<TcpStream>);

impl Pending {
    /// Waits until the application has written this line of it.
    pub fn wait_for(&mut self, line: &str) {
        let mut read = String::new();
        while self.0.read_line(&mut read).expect("the application answers") > 0 {
            if read.trim_end() == line {
                return;
            }
            read.clear();
        }
        panic!("the answer ended without {line}");
    }

    /// What is left of it, when it is complete.
    pub fn rest(mut self) -> String {
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).expect("the application answers");
        answer
    }
}

fn modules(root: &Path, directory: &Path) -> PathBuf {
    let output = Command::new(root.join("scripts/fetch-node")).arg(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}
