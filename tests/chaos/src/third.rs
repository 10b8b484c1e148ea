//! A third voice: a session that has just begun, asked under the snapshot of one whose two answers
//! differ.
//!
//! PostgreSQL itself can answer with an old schema: a session that holds all its locks plans before
//! it reads its messages; a prepared statement that was planned while a child left or a partition
//! came keeps that plan until the next change; a partition whose DETACH CONCURRENTLY did not end is
//! read by old plans and not by new ones. A session that has just begun has no plan and no list of
//! partitions. The invariant: a difference is PostgreSQL's only if the cache agrees with such a
//! session, and what the first one computes stays the same before and after: otherwise a value from
//! the future of that snapshot could pass. Break it and the oracle either sees ghosts or nothing.

use postgres::{Client, Error, Row};

use crate::questions::Question;
use crate::session::Session;

/// The schema or the rows may change between the questions: then they are asked again.
const TRIES: usize = 12;

/// What the third voice says of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The cache is right, and the session's own query is not.
    PostgresIsBehind,
    /// The cache is wrong, or nobody knows.
    CacheIsWrong,
    /// The session answers alike now, and nobody can tell any more.
    Gone,
}

/// Both answers of a session.
#[derive(PartialEq, Eq)]
struct Answers {
    cached: String,
    computed: String,
}

impl Answers {
    /// None: they are the same.
    fn of(row: &Row) -> Option<Answers> {
        let text = |column| row.get::<_, Option<String>>(column).unwrap_or_default();
        (!row.get::<_, bool>(0)).then(|| Answers { cached: text(1), computed: text(2) })
    }
}

/// Judges a difference. `inside`: in a transaction block.
pub fn judge(
    session: &mut Session<'_>,
    index: usize,
    inside: bool,
    row: &Row,
) -> Result<Verdict, Error> {
    let mut before = Answers::of(row);
    for _ in 0..TRIES {
        let Some(found) = before else { return Ok(Verdict::Gone) };
        let Some(agrees) = ask_another(session, index, inside, &found.cached)? else {
            return Ok(Verdict::CacheIsWrong);
        };
        let after = Answers::of(&session.ask(index)?);
        if agrees && after.as_ref() == Some(&found) {
            return Ok(Verdict::PostgresIsBehind);
        }
        before = after;
    }
    Ok(Verdict::CacheIsWrong)
}

/// Judges a difference whose snapshot is exported in the row: neither side is asked again.
pub fn judge_fixed(session: &Session<'_>, index: usize, row: &Row) -> Result<Verdict, Error> {
    let text = |column| row.get::<_, Option<String>>(column).unwrap_or_default();
    let Some(mut another) = session.world.connect(session.side) else {
        return Ok(Verdict::CacheIsWrong);
    };
    enter(&mut another, &text(3))?;
    let computed = session.world.questions[index].computed();
    let sql = format!(
        "SELECT $1::text::jsonb = o.d, $2::text::jsonb = o.d FROM (SELECT ({computed}) AS d) AS o"
    );
    let row = another.query_one(&sql, &[&text(1), &text(2)])?;
    Ok(match (row.get(0), row.get(1)) {
        (true, _) => Verdict::PostgresIsBehind,
        (false, true) => Verdict::CacheIsWrong,
        // The schema is another one by now.
        (false, false) => Verdict::Gone,
    })
}

/// Whether a new session finds what the cache said, under a snapshot of this session's. None: there
/// is no other session to be had.
fn ask_another(
    session: &mut Session<'_>,
    index: usize,
    inside: bool,
    cached: &str,
) -> Result<Option<bool>, Error> {
    if !inside {
        session.client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ")?;
    }
    let exported = session.client.query_one("SELECT pg_export_snapshot()", &[])?;
    let another = session.world.connect(session.side);
    let question = &session.world.questions[index];
    let agrees = another.map(|another| agrees(another, exported.get(0), question, cached));
    if !inside {
        session.client.batch_execute("COMMIT")?;
    }
    agrees.transpose()
}

fn agrees(
    mut another: Client,
    snapshot: &str,
    question: &Question,
    cached: &str,
) -> Result<bool, Error> {
    enter(&mut another, snapshot)?;
    let sql = format!("SELECT $1::text::jsonb = ({})", question.computed());
    let row = another.query_one(&sql, &[&cached])?;
    Ok(row.get(0))
}

/// Begins under another session's snapshot.
fn enter(another: &mut Client, snapshot: &str) -> Result<(), Error> {
    another.batch_execute(&format!(
        "SET statement_timeout = '15s'; SET ROLE reader; \
         BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{snapshot}'"
    ))
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use postgres::Client;

    use crate::session::Session;
    use crate::world::{Setup, Side, World};

    fn world(tracked: bool) -> World {
        World::start(Setup { tracked, standby: false, ..Setup::default() })
    }

    fn connect(world: &World) -> Client {
        world.connect(Side::Primary).expect("a server that runs")
    }

    fn index_of(world: &World, key: &str) -> usize {
        world.questions.iter().position(|question| question.key == key).expect("one of them")
    }

    fn until_waiting(client: &mut Client, how_many: i64) {
        let until = Instant::now() + Duration::from_secs(20);
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        while client.query_one(waiting, &[]).expect("an answer").get::<_, i64>(0) < how_many {
            assert!(Instant::now() < until, "nobody waits");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_plan_that_postgresql_kept_too_long_is_not_held_against_the_cache() {
        // Danger: the oracle accuses the cache of what PostgreSQL does by itself.
        let world = world(true);
        let mut holder = connect(&world);
        holder.batch_execute("BEGIN; LOCK TABLE grandchild IN ACCESS SHARE MODE").expect("a lock");
        thread::scope(|scope| {
            let leave = "ALTER TABLE grandchild NO INHERIT child";
            scope.spawn(|| connect(&world).batch_execute(leave).expect("done"));
            until_waiting(&mut holder, 1);
            scope.spawn(|| {
                let mut session = Session::open(&world, Side::Primary).expect("a session");
                let index = index_of(&world, "base_all:x");
                // The first one plans while the child leaves; its plan is kept.
                for _ in 0..3 {
                    session.check(index, false, "test").expect("an answer");
                }
            });
            until_waiting(&mut holder, 2);
            holder.batch_execute("COMMIT").expect("an end");
        });
        assert_eq!(world.tally.violations(), 0, "{:?}", world.tally.violation_details());
        assert_eq!(world.tally.behind_sum(), 3, "{}", world.tally.report());
    }

    #[test]
    fn a_cache_that_is_wrong_is_found_out() {
        // Danger: the excuse for PostgreSQL's plans swallows what the oracle is there to find.
        let world = world(false);
        let mut session = Session::open(&world, Side::Primary).expect("a session");
        let index = index_of(&world, "wide:x");
        let mut hit = || session.check(index, false, "test").expect("an answer");
        let until = Instant::now() + Duration::from_secs(20);
        while world.tally.violations() == 0 {
            hit();
            connect(&world).batch_execute("UPDATE wide SET v = v + 1").expect("done");
            hit();
            assert!(Instant::now() < until, "a stale entry is served, and nobody says so");
        }
        assert_eq!(world.tally.behind_sum(), 0);
    }
    #[test]
    fn a_cursor_is_not_excused_by_whatever_changes_beside_it() {
        // Danger: any change of the schema hides what an old snapshot is served.
        let world = world(false);
        let mut session = Session::open(&world, Side::Primary).expect("a session");
        let index = index_of(&world, "wide:x");
        let question = &world.questions[index];
        world.changes.begin(&["wide"]);
        let until = Instant::now() + Duration::from_secs(20);
        while world.tally.violations() == 0 {
            session.client.query_one(&question.check(), &[]).expect("it may fill");
            connect(&world).batch_execute("UPDATE wide SET v = v + 1").expect("done");
            let open = format!("BEGIN; DECLARE c CURSOR FOR {}", question.check_by_rows());
            session.client.batch_execute(&open).expect("a cursor");
            let rows = session.client.query("FETCH 1 FROM c", &[]).expect("a row");
            session.judge_rows(index, &rows).expect("a judgement");
            session.client.batch_execute("COMMIT").expect("an end");
            assert!(Instant::now() < until, "a stale entry is served, and nobody says so");
        }
        assert!(world.tally.violation_details()[0].contains("cursor"));
    }
}
