//! Forgets what `redis_job_done` has kept long enough.
//!
//! Invariant: a row goes only in a transaction in which Redis has confirmed that the job is not
//! there any more. Otherwise a worker that is late with that job could write the row again, find
//! the job in Redis, and have its effects committed a second time. A queue for which Redis answers
//! with an error keeps its rows, and is passed over for a while: they are the oldest, and others
//! would wait behind them.

use std::collections::HashMap;

use pg_cache_core::message::Fields;
use pg_cache_core::reason::Reason;
use serde_json::Value;

use crate::client::failure::Failure;
use crate::client::queues;
use crate::pg::error::Outcome;
use crate::pg::quote::literal;
use crate::pg::table::{self, WRITE_LOCK};
use crate::pg::transaction::{self, End};
use crate::pg::{activity, guc, host, utility};
use crate::{connection, registry};

use super::Step;

/// Between two looks.
const LOOK_EVERY_MS: u64 = 1_000;

/// Rows of one step.
const ROWS_MAX: usize = 1_000;

/// How long a queue is passed over.
const PASS_OVER_MS: u64 = 60_000;

/// Of how many queues it is known that they are passed over.
const PASSED_OVER_MAX: usize = 1_000;

#[derive(Default)]
pub struct Done {
    due_at_ms: u64,
    /// As the rows have their names; until when.
    passed_over: HashMap<String, u64>,
}

impl Done {
    /// Forgets some; whether there may be more.
    pub fn step(&mut self) -> Step<bool> {
        let now_ms = host::monotonic_ms();
        if now_ms < self.due_at_ms {
            return Ok(false);
        }
        self.passed_over.retain(|_, until_ms| *until_ms > now_ms);
        let mut refusing = Vec::new();
        let seen = transaction::run(|| self.forget(&mut refusing))??;
        for queue in refusing {
            if self.passed_over.len() < PASSED_OVER_MAX {
                self.passed_over.insert(queue, now_ms + PASS_OVER_MS);
            }
        }
        let has_more = seen == ROWS_MAX && self.passed_over.len() < PASSED_OVER_MAX;
        if !has_more {
            self.due_at_ms = host::monotonic_ms() + LOOK_EVERY_MS;
        }
        Ok(has_more)
    }

    /// How many rows were looked at, and whose Redis does not take back.
    fn forget(&self, refusing: &mut Vec<String>) -> Outcome<End<Result<usize, Failure>>> {
        let Some(schema) = table::extension_schema_name() else {
            return Ok(End::Abort(Ok(0)));
        };
        // Whoever has the table locked is not waited for: it may be DROP EXTENSION.
        let Some((table, _)) = registry::open_job_done(WRITE_LOCK) else {
            return Ok(End::Abort(Ok(0)));
        };
        table.keep_lock();
        let Some(prefix) = registry::prefix() else { return Ok(End::Abort(Ok(0))) };
        let mut rows = utility::look(&old_rows(&schema, self.passed_over.keys()))?;
        let count = rows.as_array().map_or(0, Vec::len);
        if count == 0 {
            return Ok(End::Abort(Ok(0)));
        }
        activity::show("forgetting jobs that are done");
        for (queue, jobs) in by_queue(&rows) {
            let name = [&prefix[..], queue.as_bytes()].concat();
            let told = connection::ask(|session| match queues::finish_now(session, &name, &jobs) {
                Ok(_) => Ok(Ok(())),
                Err(error) => match Failure::from(error) {
                    failure if failure.reason == Reason::ServerError => Ok(Err(failure)),
                    failure => Err(failure),
                },
            });
            match told {
                Ok(Ok(())) => {}
                Ok(Err(_)) => refusing.push(queue),
                Err(failure) => return Ok(End::Abort(Err(failure))),
            }
        }
        host::fault_point("done.confirmed");
        if let Some(rows) = rows.as_array_mut() {
            let is_confirmed = |row: &Value| refusing.iter().all(|queue| row["queue"] != **queue);
            rows.retain(is_confirmed);
            if rows.is_empty() {
                return Ok(End::Abort(Ok(count)));
            }
        }
        utility::run(&deletion(&schema, &rows))?;
        Ok(End::Commit(Ok(count)))
    }
}

fn old_rows<'a>(schema: &str, passed_over: impl Iterator<Item = &'a String>) -> String {
    let passed_over: Vec<String> = passed_over.map(|queue| literal(queue)).collect();
    let passed_over = passed_over.join(",");
    format!(
        "SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                    'queue', queue, 'id', id, 'birth', birth))
           FROM (SELECT queue, id, birth FROM {schema}.redis_job_done
                  WHERE at <= pg_catalog.now() - pg_catalog.make_interval(secs => {})
                    AND queue OPERATOR(pg_catalog.<>)
                        ALL (ARRAY[{passed_over}]::pg_catalog.text[])
                  ORDER BY at LIMIT {ROWS_MAX}) AS old",
        guc::queue_done_keep_s()
    )
}

fn deletion(schema: &str, rows: &Value) -> String {
    format!(
        "DELETE FROM {schema}.redis_job_done AS d
          USING pg_catalog.json_to_recordset({}::pg_catalog.json)
                AS old(queue pg_catalog.text, id pg_catalog.text, birth pg_catalog.text)
          WHERE d.queue OPERATOR(pg_catalog.=) old.queue
            AND d.id OPERATOR(pg_catalog.=) old.id
            AND d.birth OPERATOR(pg_catalog.=) old.birth",
        literal(&rows.to_string())
    )
}

fn by_queue(rows: &Value) -> Vec<(String, Fields)> {
    let mut queues: Vec<(String, Fields)> = Vec::new();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    for row in rows.as_array().into_iter().flatten() {
        let (queue, id, birth) = (text(row, "queue"), text(row, "id"), text(row, "birth"));
        let job = (id.into_bytes().into(), birth.into_bytes().into());
        match queues.iter_mut().find(|(known, _)| *known == queue) {
            Some((_, jobs)) => jobs.push(job),
            None => queues.push((queue, vec![job])),
        }
    }
    queues
}
