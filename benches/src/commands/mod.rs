//! What people do with Redis beside PostgreSQL: from SQL, and from an application with two clients.
//!
//! Owns the list of cases and the turns. An application has a query of its own to make; the
//! question is what it costs to do something in Redis as well: in the same statement, or with a
//! second client. The invariant: both are measured in the same process, with the same driver for
//! PostgreSQL, call by call in turns, and each call looks at its answer. Break it and two languages
//! are compared, or a call that did nothing wins.

mod apps;
pub mod report;

use std::time::Duration;

use pg_cache_testbed::Pair;

use self::apps::App;
use crate::Outcome;
use crate::facts::load_average;
use crate::samples::Samples;
use crate::writes::turns;

const CALLS: usize = 20;
const CALLS_UNMEASURED: usize = 3;

/// `own` is the application's query by itself, `redis` the commands by themselves, `app` both from
/// the application, one after the other, and `sql` both in one statement. `both` is both from the
/// application at once, where its language waits for two things and one does not hang on the other.
pub const WAYS: [&str; 5] = ["own", "redis", "app", BOTH, "sql"];
const BOTH: &str = "both";
const APP: usize = 2;
const SQL: usize = 4;

/// Its name in the applications, what it is, and the functions that it needs.
struct Kind {
    id: &'static str,
    title: &'static str,
    functions: &'static [&'static str],
    /// Whether the query and the command may go at once.
    is_independent: bool,
}

impl Kind {
    const fn new(
        id: &'static str,
        title: &'static str,
        functions: &'static [&'static str],
        is_independent: bool,
    ) -> Kind {
        Kind { id, title, functions, is_independent }
    }
}

const KINDS: [Kind; 8] = [
    Kind::new("get", "GET 150 B", &["redis_get"], true),
    Kind::new("set", "SET 150 B EX", &["redis_set"], true),
    Kind::new("incr", "INCR", &["redis_incr"], true),
    Kind::new("session_get", "session: read", &SESSION, true),
    Kind::new("session_touch", "session: read, touch", &SESSION, true),
    Kind::new("rate_limit", "rate limit", &["redis_rate_limit"], false),
    Kind::new("enqueue", "row and job, committed", &["redis_enqueue"], false),
    Kind::new("dequeue", "job, row, acknowledged", &QUEUE, false),
];

const QUEUE: [&str; 3] = ["redis_dequeue", "redis_ack", "redis_enqueue"];
const SESSION: [&str; 2] = ["redis_session_get", "redis_session_new"];

const TABLES: &str = "
    CREATE TABLE accounts (id int PRIMARY KEY, name text);
    INSERT INTO accounts SELECT g, 'account ' || g FROM generate_series(1, 1000) g;
    CREATE TABLE orders (id bigserial PRIMARY KEY, account int);
    CREATE TABLE done (job text);
    ANALYZE accounts";

/// One thing done in all ways by one application.
pub struct Case {
    pub id: &'static str,
    pub title: &'static str,
    pub app: &'static str,
    /// In the order of WAYS.
    pub samples: Vec<Samples>,
    /// The load average before the first round and after the last.
    pub load: (f64, f64),
}

impl Case {
    /// By round: the median of one way as a multiple of that of the application with two clients.
    pub fn ratios(&self) -> Vec<f64> {
        let medians = |way: usize| self.samples[way].round_medians_us().into_iter();
        medians(SQL).zip(medians(APP)).map(|(sql, app)| sql.1 / app.1).collect()
    }
}

pub fn run(pair: &Pair, rounds: usize) -> Outcome<Vec<Case>> {
    let mut sql = pair.postgres.connect();
    sql.batch_execute(TABLES)?;
    let mut kinds = Vec::new();
    for kind in KINDS {
        let there = "SELECT count(DISTINCT proname) FROM pg_proc WHERE proname = ANY($1)";
        let there: i64 = sql.query_one(there, &[&kind.functions])?.get(0);
        match there == kind.functions.len() as i64 {
            true => kinds.push(kind),
            false => println!("{}: left out, for its functions are not there", kind.title),
        }
    }
    let mut apps = apps::start(pair)?;
    let mut cases = Vec::new();
    for app in &apps {
        for kind in &kinds {
            let samples = WAYS.map(|_| Samples::default()).into();
            let load = (load_average(), 0.0);
            cases.push(Case { id: kind.id, title: kind.title, app: app.title, samples, load });
        }
    }
    for round in 0..rounds {
        let mut next = cases.iter_mut();
        for app in &mut apps {
            for (kind, case) in kinds.iter().zip(&mut next) {
                measure(app, kind, case, round)?;
            }
        }
    }
    for case in &mut cases {
        case.load.1 = load_average();
    }
    Ok(cases)
}

/// One round of one case: all ways, each time another first.
fn measure(app: &mut App, kind: &Kind, case: &mut Case, round: usize) -> Outcome<()> {
    for way in turns(WAYS.len(), round) {
        if WAYS[way] == BOTH && !(kind.is_independent && app.is_concurrent) {
            continue;
        }
        let times = app.measure(kind.id, WAYS[way], CALLS_UNMEASURED + CALLS)?;
        let times: Vec<Duration> = times
            .into_iter()
            .skip(CALLS_UNMEASURED)
            .map(|us| Duration::from_secs_f64(us / 1e6))
            .collect();
        if times.len() != CALLS {
            return Err(format!("{}: {} answers of {CALLS}", case.title, times.len()).into());
        }
        case.samples[way].add_round(round, &times);
    }
    Ok(())
}
