//! Two applications, each a process with a client for PostgreSQL and one for Redis.
//!
//! Owns the processes. The invariant: what an application measures is a call from its own code to
//! the answer in its own values; what passes between it and us is not in any time. Break it and the
//! pipe to the harness is measured.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use pg_cache_testbed::Pair;
use serde_json::{Value, json};

use crate::Outcome;

/// redis-py is pure Python; psycopg's fast half is made for one version of Python.
const WHEELS: [[&str; 3]; 5] = [
    ["redis", "5.2.1", "ee7e1056b9aea0f04c6c2ed59452947f34c4940ee025f5dd83e6a6418b6989e4"],
    ["async-timeout", "4.0.3", "7405140ff1230c310e51dc27b3145b9092d659ce68ff733fb0cefe3ee42be028"],
    ["psycopg", "3.2.3", "644d3973fe26908c73d4be746074f6e5224b03c1101d302d9a53bf565ad64907"],
    ["psycopg-binary", "3.2.3", "7d784f614e4d53050cbe8abf2ae9d1aaacf8ed31ce57b42ce3bf2a48a66c3a5c"],
    [
        "typing-extensions",
        "4.12.2",
        "04e5ca0351e0f3f85c6853954072df659d0d13fac324d0072316b67d7794700d",
    ],
];

/// What an application that limits by itself sends, and pg_cache too.
const SCRIPT: &str = "src/client/lua/limit_1.lua";

const NODE: &str = "Node";

pub struct App {
    pub title: &'static str,
    /// Whether it can wait for two answers.
    pub is_concurrent: bool,
    process: Child,
    asked: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// Those whose packages can be had.
pub fn start(pair: &Pair) -> Outcome<Vec<App>> {
    let mut apps = Vec::new();
    for (title, app) in [("Python", python(pair)), (NODE, node(pair))] {
        match app {
            Ok(app) => apps.push(app),
            Err(why) => println!("DOUBTFUL    the application in {title} is left out: {why}"),
        }
    }
    if apps.is_empty() { Err("no application could be started".into()) } else { Ok(apps) }
}

fn python(pair: &Pair) -> Outcome<App> {
    let root = root();
    let mut wheels = Vec::new();
    for [name, version, sum] in WHEELS {
        wheels.push(printed(Command::new(root.join("scripts/fetch")).args([
            name,
            version,
            sum,
            "--only-binary=:all:",
        ]))?);
    }
    // A compiled module cannot be imported from a wheel as it is.
    let directory = unpacked(&wheels)?;
    let mut command = Command::new("python3");
    command.arg(root.join("benches/apps/app.py")).arg(pair.postgres.conninfo("test"));
    command.env("PYTHONPATH", directory);
    App::spawn("Python", command, pair)
}

fn unpacked(wheels: &[String]) -> Outcome<PathBuf> {
    let directory = root().join("target/downloads/bench-python");
    for wheel in wheels {
        let mut unpack = Command::new("python3");
        unpack.args(["-m", "zipfile", "-e", wheel]).arg(&directory);
        printed(&mut unpack)?;
    }
    Ok(directory)
}

fn node(pair: &Pair) -> Outcome<App> {
    let (root, app) = (root(), root().join("benches/apps/node"));
    let modules = printed(Command::new(root.join("scripts/fetch-node")).arg(&app))?;
    let mut command = Command::new("node");
    command.arg(app.join("app.mjs")).arg(modules);
    command.arg(pair.postgres.socket_dir()).arg("test");
    App::spawn(NODE, command, pair)
}

impl App {
    fn spawn(title: &'static str, mut command: Command, pair: &Pair) -> Outcome<App> {
        command.arg(pair.redis.socket()).arg(root().join(SCRIPT));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let asked = process.stdin.take().ok_or("no pipe to the application")?;
        let answers = process.stdout.take().ok_or("no pipe from the application")?;
        let answers = BufReader::new(answers).lines();
        let is_concurrent = title == NODE;
        let mut app = App { title, is_concurrent, process, asked, answers };
        match app.answer()? {
            Value::String(word) if word == "ready" => Ok(app),
            other => Err(format!("it said {other}").into()),
        }
    }

    /// How many microseconds each of so many calls took.
    pub fn measure(&mut self, case: &str, way: &str, calls: usize) -> Outcome<Vec<f64>> {
        writeln!(self.asked, "{}", json!({ "case": case, "way": way, "calls": calls }))?;
        let answer = self.answer().map_err(|why| format!("{} {case} {way}: {why}", self.title))?;
        Ok(serde_json::from_value(answer)?)
    }

    fn answer(&mut self) -> Outcome<Value> {
        let line = self.answers.next().ok_or("the application ended; see above")??;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn printed(command: &mut Command) -> Outcome<String> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}
