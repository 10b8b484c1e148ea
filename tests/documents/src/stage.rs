//! Where documents run: a PostgreSQL and its Redis, a database for each document.
//!
//! Owns the servers. The invariant: a document begins with an empty database and an empty Redis, so
//! that its outputs do not hang on the documents before it. Its blocks are one psql session, in
//! order.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::process::Command;

use pg_cache_testbed::{Pair, process};

use crate::Document;
use crate::block::{Block, Kind};

pub struct Stage {
    pair: Pair,
    databases: usize,
}

impl Stage {
    pub fn start() -> Stage {
        Stage { pair: Pair::start(), databases: 0 }
    }

    /// A connection as the superuser to a database with the extension.
    pub fn connect(&self) -> postgres::Client {
        self.pair.postgres.connect()
    }

    /// What each block of the document prints.
    pub fn run(&mut self, document: &Document) -> Vec<String> {
        let blocks = document.blocks();
        let database = self.fresh_database(document);
        let marker = |index: usize| format!("--- end of block {index} of {database} ---");
        let mut script = String::new();
        for (index, block) in blocks.iter().enumerate() {
            script += &self.as_psql(document, block);
            script += &format!("\\echo {}\n", marker(index));
        }
        let printed = self.psql(&database, &script);
        let mut rest = printed.as_str();
        let outputs = blocks.iter().enumerate().map(|(index, block)| {
            let end = format!("{}\n", marker(index));
            let Some((output, after)) = rest.split_once(&end) else {
                panic!("{}:{}: psql ended in this block:\n{rest}", document.path, block.line);
            };
            rest = after;
            output.to_owned()
        });
        outputs.collect()
    }

    fn fresh_database(&mut self, document: &Document) -> String {
        self.databases += 1;
        let name = format!("document_{}", self.databases);
        self.pair.redis.cli(&["FLUSHALL"]);
        let mut admin = self.connect();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).expect("CREATE DATABASE");
        // Some documents show how to do it.
        if !document.text.contains("\nCREATE EXTENSION pg_cache") {
            self.pair.postgres.create_extension(&name);
            self.pair.postgres.register(&name);
        }
        name
    }

    fn as_psql(&self, document: &Document, block: &Block) -> String {
        if block.kind != Kind::Redis {
            let text = block.text.trim_end();
            let ends = text.ends_with(';') || text.lines().last().is_some_and(is_psql_command);
            assert!(ends, "{}:{}: a statement without its ;", document.path, block.line);
            return block.text.clone();
        }
        let socket = self.pair.redis.socket().display();
        let asked = |line: &str| {
            // psql itself prints what a command in backticks wrote, so that the order is kept.
            format!(
                "\\echo `{}`\n",
                line.replacen("redis-cli", &format!("redis-cli -s {socket}"), 1)
            )
        };
        block.text.lines().map(asked).collect()
    }

    /// Runs a script as from a terminal: errors and results in one stream, in order.
    fn psql(&self, database: &str, script: &str) -> String {
        let file = || tempfile::tempfile().expect("a temporary file");
        let (mut input, mut output) = (file(), file());
        input.write_all(script.as_bytes()).and_then(|()| input.rewind()).expect("a file of ours");
        let share = |file: &File| file.try_clone().expect("a file of ours");
        let mut command = Command::new(self.pair.postgres.bin("psql"));
        command.args(["-X", "-q", "-d", &self.pair.postgres.conninfo(database)]);
        process::as_service(&mut command);
        command.current_dir(self.pair.postgres.socket_dir());
        command.stdin(share(&input)).stdout(share(&output)).stderr(share(&output));
        let status = command.status().expect("psql starts");
        let mut printed = String::new();
        output.seek(SeekFrom::Start(0)).expect("a file of ours");
        output.read_to_string(&mut printed).expect("psql prints UTF-8");
        assert!(status.success(), "psql: {status}\n{printed}");
        printed
    }
}

fn is_psql_command(line: &str) -> bool {
    line.starts_with('\\')
}
