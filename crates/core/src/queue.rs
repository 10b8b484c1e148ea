//! Owns the names under which a queue stands in Redis, and the limits of its jobs' ids.
//!
//! A queue is a stream, read by one consumer group; beside it, in the same slot of a Redis Cluster:
//! a hash with a record of each job that is more than a new entry of the stream, and sorted sets of
//! ids by time. Invariant: every job of which one of the sets tells has a record, and all of them
//! are written by one script at a time. If a set lay in another slot, no script could keep that.

use crate::error::{Error, Queue};
use crate::key::{slot, slot_tag};

/// The consumer group from which jobs are handed out.
pub const GROUP: &str = "pg_cache";

/// The set of the queues that were used, each by its full name.
pub const QUEUES: &str = "pgc:queues";

/// The longest id of a job.
pub const ID_BYTES_MAX: usize = 256;

/// What one call may hand out.
pub const JOBS_MAX: i32 = 1000;

/// The names of one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueKeys {
    pub stream: Vec<u8>,
    /// Records by id.
    pub jobs: Vec<u8>,
    /// Ids that wait for a moment, by that moment in milliseconds.
    pub due: Vec<u8>,
    /// Ids that were handed out, by when that ends.
    pub flight: Vec<u8>,
    /// Ids given up, by when.
    pub dead: Vec<u8>,
    /// Named ids that are done, by when they are forgotten.
    pub done: Vec<u8>,
}

impl QueueKeys {
    /// Of a stream's full name.
    pub fn new(stream: &[u8]) -> Self {
        let tag = slot_tag(slot(stream));
        let beside = |kind: &str| [kind.as_bytes(), b":{", &tag[..], b"}:", stream].concat();
        QueueKeys {
            stream: stream.to_vec(),
            jobs: beside("pgc:jobs"),
            due: beside("pgc:due"),
            flight: beside("pgc:flight"),
            dead: beside("pgc:dead"),
            done: beside("pgc:done"),
        }
    }
}

/// Whether a job may have this id.
pub fn check_id(id: &[u8]) -> Result<(), Error> {
    match id.len() {
        0 => Err(Queue::Empty { name: "id" }.into()),
        bytes if bytes > ID_BYTES_MAX => {
            Err(Queue::IdTooLong { bytes, bytes_max: ID_BYTES_MAX }.into())
        }
        _ => Ok(()),
    }
}

/// How many jobs a call may ask for.
pub fn check_count(max: i32) -> Result<usize, Error> {
    match usize::try_from(max) {
        Ok(count) if count > 0 && max <= JOBS_MAX => Ok(count),
        _ => Err(Queue::Count { given: max, most: JOBS_MAX }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_a_queue_never_change() {
        // Danger: a new release finds none of the jobs that wait.
        let keys = QueueKeys::new(b"foo");
        assert_eq!(keys.stream, b"foo");
        assert_eq!(keys.jobs, b"pgc:jobs:{9Le}:foo");
        assert_eq!(keys.due, b"pgc:due:{9Le}:foo");
        assert_eq!(keys.flight, b"pgc:flight:{9Le}:foo");
        assert_eq!(keys.dead, b"pgc:dead:{9Le}:foo");
        assert_eq!(keys.done, b"pgc:done:{9Le}:foo");
    }

    #[test]
    fn ids_and_counts_have_limits() {
        // Danger: an id that no index of PostgreSQL takes, or a script that runs for seconds.
        assert!(check_id(&[b'x'; ID_BYTES_MAX]).is_ok());
        assert!(check_id(&[b'x'; ID_BYTES_MAX + 1]).is_err());
        assert!(check_id(b"").is_err());
        assert_eq!(check_count(1), Ok(1));
        assert_eq!(check_count(JOBS_MAX), Ok(1000));
        for wrong in [0, -1, JOBS_MAX + 1, i32::MIN, i32::MAX] {
            assert!(check_count(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_queue_lies_in_one_slot(name in prop::collection::vec(any::<u8>(), 0..40)) {
            // Danger: on a cluster the scripts are refused for some queues and nobody knows why.
            let keys = QueueKeys::new(&name);
            for other in [&keys.jobs, &keys.due, &keys.flight, &keys.dead, &keys.done] {
                prop_assert_eq!(slot(&name), slot(other));
            }
        }
    }
}
