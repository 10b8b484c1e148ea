//! Transactions of pgbench: its own TPC-B, and a bare update of one row.
//!
//! Owns the running of the program. The invariant: every way runs the same script for the same time
//! with the same number of clients, and no transaction failed. Break it and errors count as speed.

use std::fs;
use std::process::Command;

use pg_cache_testbed::process::{Directory, run_well};
use pg_cache_testbed::{Pair, Postgres};

use super::{
    Asked, GROUPED, GROUPED_IN_MEMORY, Goal, INVALIDATED, INVALIDATED_IN_MEMORY, PLAIN, Result,
    Row, SCALE, TRACKED, TRACKED_IN_MEMORY, Way, await_ends, compare, turns,
};
use crate::Outcome;
use crate::affinity::Layout;

/// Short, so that the ways of a round meet the same machine; long beside a session's start.
const SECONDS: u32 = 1;

/// How many clients, and where they run: `Some` pins them and PostgreSQL to one core and Redis to
/// another. Free, one client and its backend may run on one core as long as there is no third
/// process: then a wake-up costs a tenth of one across, and a ratio tells of that.
const PLACES: [(u32, Option<&str>); 3] = [(1, Some("redis_across")), (1, None), (4, None)];

/// At least this much of the throughput without.
const TPC_B_GOAL: Goal = Goal::AtLeast(0.9);
const UPDATE_GOAL: Goal = Goal::AtLeast(0.75);

const UPDATE: &str = "\\set aid random(1, 100000 * :scale)
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
";

/// A script and the ways it is run in.
pub struct Kind {
    title: &'static str,
    /// pgbench's own if there is none.
    script: Option<&'static str>,
    ways: Vec<(Way, Option<Goal>)>,
}

/// A script, how many clients run it, and the id of the layout that they are pinned by.
pub struct Case {
    kind: Kind,
    clients: u32,
    layout: Option<&'static str>,
}

impl Case {
    fn what(&self) -> String {
        let plural = if self.clients == 1 { "" } else { "s" };
        let place = if self.layout.is_some() { "Redis across" } else { "not pinned" };
        format!("{}, {} client{plural}, {place}", self.kind.title, self.clients)
    }

    /// Free and with one client, placements are compared: no goal then.
    fn goal(&self, goal: Option<Goal>) -> Option<Goal> {
        goal.filter(|_| self.layout.is_some() || self.clients > 1)
    }
}

pub fn initialise(postgres: &Postgres, database: &str, scale: u32) -> Outcome<()> {
    let mut command = program(postgres, database);
    command.args(["--initialize", "--quiet", "--scale"]).arg(scale.to_string());
    run_well(command, postgres.socket_dir());
    Ok(())
}

/// Every script with every number of clients, in every place there is.
pub fn all(layouts: &[Layout]) -> Vec<Case> {
    let tpc_b = || Kind {
        title: "TPC-B of pgbench",
        script: None,
        ways: vec![
            (PLAIN, None),
            (TRACKED, Some(TPC_B_GOAL)),
            (GROUPED, Some(TPC_B_GOAL)),
            (TRACKED_IN_MEMORY, Some(TPC_B_GOAL)),
            (GROUPED_IN_MEMORY, Some(TPC_B_GOAL)),
        ],
    };
    let update = || Kind {
        title: "UPDATE of one row",
        script: Some(UPDATE),
        ways: vec![
            (PLAIN, None),
            (TRACKED, None),
            (GROUPED, None),
            (INVALIDATED, Some(UPDATE_GOAL)),
            (TRACKED_IN_MEMORY, None),
            (GROUPED_IN_MEMORY, None),
            (INVALIDATED_IN_MEMORY, Some(UPDATE_GOAL)),
        ],
    };
    let is_there = |layout: &&str| layouts.iter().any(|known| known.id == *layout);
    let places = PLACES.iter().filter(|(_, layout)| layout.as_ref().is_none_or(is_there));
    let cases = |kind: fn() -> Kind| {
        places.clone().map(move |(clients, layout)| Case {
            kind: kind(),
            clients: *clients,
            layout: *layout,
        })
    };
    cases(tpc_b).chain(cases(update)).collect()
}

/// Runs the case where it belongs; whoever comes after it finds nothing pinned.
pub fn measure(pair: &Pair, layouts: &[Layout], case: &Case, rounds: usize) -> Outcome<Row> {
    let place = |id: &str| -> Outcome<()> {
        match layouts.iter().find(|layout| layout.id == id) {
            Some(layout) => layout.apply(pair.postgres.pid(), pair.redis.pid()),
            None => Ok(()),
        }
    };
    case.layout.map_or(Ok(()), place)?;
    let row = in_turns(pair, case, rounds);
    place("not_pinned")?;
    row
}

fn in_turns(pair: &Pair, case: &Case, rounds: usize) -> Outcome<Row> {
    let Case { kind, clients, .. } = case;
    let mut results: Vec<Result> =
        kind.ways.iter().map(|(way, goal)| Result::new(way, case.goal(*goal))).collect();
    for round in 0..rounds {
        for turn in turns(kind.ways.len(), round) {
            let per_second = once(pair, &kind.ways[turn].0, kind.script, *clients)?;
            results[turn].rounds.push(per_second);
        }
        compare(&mut results);
    }
    Ok(Row { what: case.what(), results })
}

/// Transactions in a second.
fn once(pair: &Pair, way: &Way, script: Option<&str>, clients: u32) -> Outcome<f64> {
    let directory = Directory::new();
    let mut command = program(&pair.postgres, way.id);
    command.args(["--no-vacuum", "--protocol=prepared", "--time"]).arg(SECONDS.to_string());
    command.arg("--client").arg(clients.to_string()).arg("--jobs").arg(clients.to_string());
    if let Some(script) = script {
        let file = directory.path().join("script.sql");
        fs::write(&file, script)?;
        command.arg("--define").arg(format!("scale={SCALE}")).arg("--file").arg(file);
    }
    let before = Asked::so_far(pair)?;
    let printed = run_well(command, directory.path());
    await_ends(pair);
    let after = |head: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(head));
        line.and_then(|line| line.split_whitespace().next())
            .ok_or_else(|| format!("pgbench does not tell {head:?}:\n{printed}"))
    };
    if after("number of failed transactions: ")? != "0" {
        return Err(format!("{}: transactions failed:\n{printed}", way.title).into());
    }
    let transactions = after("number of transactions actually processed: ")?.parse()?;
    Asked::prove(before, pair, way, transactions)?;
    Ok(after("tps = ")?.parse()?)
}

fn program(postgres: &Postgres, database: &str) -> Command {
    let mut command = Command::new(postgres.bin("pgbench"));
    command.env("PGHOST", postgres.socket_dir()).env("PGPORT", "5432");
    command.env("PGUSER", "postgres").env("PGDATABASE", database);
    command
}
