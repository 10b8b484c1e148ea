//! Which process runs on which core.
//!
//! Owns the pinning of the harness and of both servers. The invariant: every thread of every
//! process involved is on the cores its layout says, also those that are started later (they
//! inherit). Break it and the scheduler decides what is measured: on two cores a wake-up across
//! costs more than the work.

use std::fs;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Outcome;

/// Where the three parties run.
pub struct Layout {
    pub id: &'static str,
    pub title: String,
    /// Else the scheduler places each case's processes anew, and a ratio compares two placements.
    pub is_pinned: bool,
    client: Vec<usize>,
    postgres: Vec<usize>,
    redis: Vec<usize>,
}

/// Everything on one core; Redis across; nothing pinned. One core allows the first only.
pub fn layouts() -> Outcome<Vec<Layout>> {
    let allowed = sched_getaffinity(None)?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
    let [first, rest @ ..] = &cores[..] else { return Err("no core is allowed".into()) };
    let here = vec![*first];
    let mut layouts = vec![Layout {
        id: "one_core",
        title: format!("client, PostgreSQL and Redis on core {first}"),
        is_pinned: true,
        client: here.clone(),
        postgres: here.clone(),
        redis: here.clone(),
    }];
    let Some(second) = rest.first() else {
        println!("only one core is allowed: the layouts with two are left out");
        return Ok(layouts);
    };
    layouts.push(Layout {
        id: "redis_across",
        title: format!("client and PostgreSQL on core {first}, Redis on core {second}"),
        is_pinned: true,
        client: here.clone(),
        postgres: here,
        redis: vec![*second],
    });
    layouts.push(Layout {
        id: "not_pinned",
        title: format!("nothing pinned, {} cores", cores.len()),
        is_pinned: false,
        client: cores.clone(),
        postgres: cores.clone(),
        redis: cores,
    });
    Ok(layouts)
}

impl Layout {
    /// Pins this process and both servers, with what they have started so far.
    pub fn apply(&self, postmaster: u32, redis: u32) -> Outcome<()> {
        pin(std::process::id(), &self.client)?;
        pin(redis, &self.redis)?;
        // The postmaster first: what it starts from here on inherits its cores.
        pin(postmaster, &self.postgres)?;
        for child in children(postmaster)? {
            pin_unless_gone(child, &self.postgres)?;
        }
        Ok(())
    }
}

fn pin(process: u32, cores: &[usize]) -> Outcome<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        let thread: i32 = entry?.file_name().to_string_lossy().parse()?;
        sched_setaffinity(Pid::from_raw(thread), &set)?;
    }
    Ok(())
}

fn pin_unless_gone(process: u32, cores: &[usize]) -> Outcome<()> {
    let pinned = pin(process, cores);
    if fs::exists(format!("/proc/{process}"))? { pinned } else { Ok(()) }
}

fn children(parent: u32) -> Outcome<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Ok(process) = name.to_string_lossy().parse() else { continue };
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // The parent follows the state, which follows the name in parentheses.
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        if fields.split(' ').nth(1) == Some(&parent.to_string()) {
            found.push(process);
        }
    }
    Ok(found)
}
