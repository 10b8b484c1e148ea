//! Owns how a job is written for Sidekiq: the JSON and the commands of its own client.
//!
//! Invariant: what is written is what Sidekiq's `Client#push` would write for the same item, with
//! everything in it that a server reads. A job without class, args or jid kills the thread that
//! fetches it, long after the transaction that made it.

use crate::document::Document;

/// The random bytes of a job's id.
pub const JID_RANDOM_BYTES: usize = 12;

/// Why a payload is no job of Sidekiq's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    NotObject,
    Class,
    Args,
    Queue,
    Jid,
    At,
    Delay,
    Tags,
    Encoding,
}

impl Flaw {
    /// One of each, for the catalogue.
    pub const ALL: [Flaw; 9] = [
        Flaw::NotObject,
        Flaw::Class,
        Flaw::Args,
        Flaw::Queue,
        Flaw::Jid,
        Flaw::At,
        Flaw::Delay,
        Flaw::Tags,
        Flaw::Encoding,
    ];

    pub fn sentence(self) -> &'static str {
        match self {
            Flaw::NotObject => "The payload is no JSON object.",
            Flaw::Class => "Its \"class\" is missing, or is not the name of one.",
            Flaw::Args => "Its \"args\" are missing, or are no array.",
            Flaw::Queue => "Its \"queue\" is another than the argument.",
            Flaw::Jid => "Its \"jid\" is no text, or is another than the argument id.",
            Flaw::At => "Its \"at\" is no time in seconds.",
            Flaw::Delay => "It has both \"at\" and a delay.",
            Flaw::Tags => "Its \"tags\" are no array.",
            Flaw::Encoding => "It cannot be written in UTF-8.",
        }
    }
}

/// What SQL asks for.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub queue: &'a str,
    /// As jsonb writes it.
    pub payload: &'a str,
    pub delay_ms: u64,
    pub id: Option<&'a str>,
}

/// A job as it goes to Redis.
#[derive(Debug, PartialEq, Eq)]
pub struct Job {
    pub jid: String,
    pub text: String,
    /// When it is to run, in seconds, if not at once: its score in the schedule.
    pub at: Option<String>,
}

/// The names of keys, without the database's prefix.
pub const QUEUES: &str = "queues";
pub const SCHEDULE: &str = "schedule";

/// The list of a queue.
pub fn list(queue: &str) -> String {
    format!("queue:{queue}")
}

/// Writes a job. Its id is the one that was asked for, or the payload's own, or of these bytes.
pub fn job(asked: &Asked<'_>, random: [u8; JID_RANDOM_BYTES], now_ms: u64) -> Result<Job, Flaw> {
    let mut item = Document::parse(asked.payload).ok_or(Flaw::NotObject)?;
    let class = text(item.get("class")).ok_or(Flaw::Class)?;
    if class.is_empty() {
        return Err(Flaw::Class);
    }
    if !item.get("args").is_some_and(is_array) {
        return Err(Flaw::Args);
    }
    if item.get("tags").is_some_and(|tags| !is_array(tags)) {
        return Err(Flaw::Tags);
    }
    if item.get("queue").is_some_and(|queue| text(Some(queue)).as_deref() != Some(asked.queue)) {
        return Err(Flaw::Queue);
    }
    let jid = jid(&item, asked.id, random)?;
    let at = moment(&mut item, asked.delay_ms, now_ms)?;
    item.set("queue", &quoted(asked.queue));
    item.set("jid", &quoted(&jid));
    for (name, value) in [("retry", "true"), ("created_at", &*seconds(now_ms))] {
        if item.get(name).is_none() {
            item.set(name, value);
        }
    }
    // Of a job that waits, the server that takes it from the schedule says so.
    match at {
        Some(_) => drop(item.remove("enqueued_at")),
        None => item.set("enqueued_at", &seconds(now_ms)),
    }
    Ok(Job { jid, text: item.to_text(), at })
}

fn jid(item: &Document, id: Option<&str>, random: [u8; JID_RANDOM_BYTES]) -> Result<String, Flaw> {
    let given = match item.get("jid") {
        Some(given) => Some(text(Some(given)).filter(|jid| !jid.is_empty()).ok_or(Flaw::Jid)?),
        None => None,
    };
    match (id, given) {
        (Some(id), Some(given)) if given != id => Err(Flaw::Jid),
        (Some(id), _) => Ok(id.to_owned()),
        (None, Some(given)) => Ok(given),
        (None, None) => Ok(random.iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}

/// When the job is to run; what is due already runs at once.
fn moment(item: &mut Document, delay_ms: u64, now_ms: u64) -> Result<Option<String>, Flaw> {
    let Some(at) = item.remove("at") else {
        return Ok((delay_ms > 0).then(|| seconds(now_ms.saturating_add(delay_ms))));
    };
    if delay_ms > 0 {
        return Err(Flaw::Delay);
    }
    let when: f64 = serde_json::from_str(&at).map_err(|_| Flaw::At)?;
    Ok((when * 1000.0 > now_ms as f64).then(|| at.into()))
}

/// As Ruby's `Time#to_f`, with a fraction always: Sidekiq 8 takes a whole number for milliseconds.
fn seconds(time_ms: u64) -> String {
    format!("{}.{:03}", time_ms / 1000, time_ms % 1000)
}

fn text(json: Option<&str>) -> Option<String> {
    serde_json::from_str(json?).ok()
}

fn is_array(json: &str) -> bool {
    json.starts_with('[')
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_012;
    const RANDOM: [u8; JID_RANDOM_BYTES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255];

    fn asked<'a>(payload: &'a str) -> Asked<'a> {
        Asked { queue: "mail", payload, delay_ms: 0, id: None }
    }

    fn written(asked: &Asked<'_>) -> Result<Job, Flaw> {
        job(asked, RANDOM, NOW_MS)
    }

    #[test]
    fn a_job_is_what_sidekiqs_own_client_writes() {
        // Danger: a member that a server reads is missing, and its thread dies on the job.
        let job = written(&asked(r#"{"args": [1, "x"], "class": "Hard"}"#)).unwrap();
        let times = r#""created_at":1700000000.012,"enqueued_at":1700000000.012"#;
        let jid = "000102030405060708090aff".to_owned();
        let rest = format!(r#""queue":"mail","jid":"{jid}","retry":true,{times}"#);
        assert_eq!(job.text, format!(r#"{{"args":[1, "x"],"class":"Hard",{rest}}}"#));
        assert_eq!((job.jid, job.at), (jid, None));
        let own = r#"{"class": "A", "args": [], "retry": 3, "jid": "j", "created_at": 1.5}"#;
        let job = written(&asked(own)).unwrap();
        assert!(job.text.contains(r#""retry":3,"jid":"j","created_at":1.5"#), "{}", job.text);
        assert_eq!(job.jid, "j");
    }

    #[test]
    fn a_job_that_waits_stands_in_the_schedule_without_the_time() {
        // Danger: a job with "at" in it is scheduled anew by the server, for ever.
        let mut delayed = asked(r#"{"class": "A", "args": [], "enqueued_at": 5}"#);
        delayed.delay_ms = 1500;
        let job = written(&delayed).unwrap();
        assert_eq!(job.at.as_deref(), Some("1700000001.512"));
        assert!(!job.text.contains("\"at\"") && !job.text.contains("enqueued_at"), "{}", job.text);
        let at = written(&asked(r#"{"class": "A", "args": [], "at": 1700000001}"#)).unwrap();
        assert_eq!(at.at.as_deref(), Some("1700000001"));
        assert!(!at.text.contains("\"at\""), "{}", at.text);
        let past = written(&asked(r#"{"class": "A", "args": [], "at": 1600000000.5}"#)).unwrap();
        assert_eq!(past.at, None);
        assert!(past.text.contains("enqueued_at"), "{}", past.text);
    }

    #[test]
    fn what_sidekiq_would_refuse_is_refused_here() {
        // Danger: the job is found out by a worker, when its transaction is long over.
        let flaw = |payload: &str| written(&asked(payload)).unwrap_err();
        for payload in ["[]", "1", "null"] {
            assert_eq!(flaw(payload), Flaw::NotObject);
        }
        for payload in [r#"{"args": []}"#, r#"{"class": 1, "args": []}"#, r#"{"class": ""}"#] {
            assert_eq!(flaw(payload), Flaw::Class);
        }
        for payload in [r#"{"class": "A"}"#, r#"{"class": "A", "args": {"a": 1}}"#] {
            assert_eq!(flaw(payload), Flaw::Args);
        }
        let with = |more: &str| flaw(&format!(r#"{{"class": "A", "args": [], {more}}}"#));
        assert_eq!(with(r#""queue": "other""#), Flaw::Queue);
        assert_eq!(with(r#""jid": 5"#), Flaw::Jid);
        assert_eq!(with(r#""at": "tomorrow""#), Flaw::At);
        assert_eq!(with(r#""tags": "a""#), Flaw::Tags);
        let mut both = asked(r#"{"class": "A", "args": [], "at": 1800000000}"#);
        both.delay_ms = 1;
        assert_eq!(written(&both).unwrap_err(), Flaw::Delay);
    }

    #[test]
    fn the_id_is_the_one_that_was_asked_for() {
        // Danger: the caller is told an id under which no job runs.
        let mut named = asked(r#"{"class": "A", "args": []}"#);
        named.id = Some("invoice \"7\"");
        let job = written(&named).unwrap();
        assert_eq!(job.jid, "invoice \"7\"");
        assert!(job.text.contains(r#""jid":"invoice \"7\"""#), "{}", job.text);
        named.payload = r#"{"class": "A", "args": [], "jid": "another"}"#;
        assert_eq!(written(&named).unwrap_err(), Flaw::Jid);
    }
}
