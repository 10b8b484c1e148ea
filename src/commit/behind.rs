//! Keys whose deletion is sent before the commit record, and confirmed behind it.
//!
//! Where the tag table is in memory, nothing that is exact hangs on Redis: the transaction is
//! listed, so nobody fills anything of it before it ends, and then only with what it wrote. All
//! that a program is promised is that a key is gone once COMMIT has returned. So Redis works while
//! PostgreSQL writes its log, and the commit takes the answer when the locks are free.
//!
//! Invariant: until the answer is here, COMMIT does not return; and if none comes in time, the
//! names go to the worker, which owes them in the transaction's place. Left alone, a program would
//! read the old value until its ttl. So whoever is to fail without Redis
//! (`pg_cache.on_unreachable = error`), and whoever has no connection yet, waits before the record.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use pg_cache_core::debt::Owing;
use pg_cache_core::reason::Reason;

use crate::client::failure::Failure;
use crate::client::scripts::Settlement;
use crate::pg::{guc, host, identity, shmem};
use crate::registry::{Home, Registration};
use crate::{connection, stats, worker};

use super::delivery::Delivery;
use super::{Deadline, TRANSACTION};

/// More are worth a round trip of their own, and fill the socket's buffer.
const KEYS_MAX: usize = 1000;
const BYTES_MAX: usize = 64 * 1024;

/// A delivery that was sent and is not yet known to have arrived.
pub struct Sent {
    registration: Rc<Registration>,
    settlement: Settlement,
    ticket: u64,
    owing: Rc<Owing>,
    /// Buckets, for the statistics.
    tags: usize,
    deadline: Deadline,
}

thread_local! {
    /// Of a transaction that is committed, until its locks are free.
    static DUE: RefCell<Option<Sent>> = const { RefCell::new(None) };
}

/// Sends the deletion of these keys, if they may be confirmed later, and if there is a connection
/// that takes it at once.
pub fn send(
    registration: &Rc<Registration>,
    delivery: &Delivery<'_>,
    owing: &Rc<Owing>,
    deadline: &Deadline,
) -> bool {
    let keys = &owing.owed.keys;
    let may_wait = registration.home == Home::Memory
        && !keys.is_empty()
        && keys.len() <= KEYS_MAX
        && !guc::on_unreachable_is_error()
        && stats::database().is_some()
        && TRANSACTION.with_borrow(|transaction| transaction.behind.is_none());
    if !may_wait {
        return false;
    }
    let settlement = delivery.settlement(&[], keys, &[]);
    if settlement.bytes() > BYTES_MAX {
        return false;
    }
    connection::introduce();
    let ticket = connection::tell(|session| {
        registration.check(session.server())?;
        session.take_posted()?;
        match session.is_closed() {
            true => Err(Failure::new(Reason::Closed, "the server has hung up")),
            false => Ok(settlement.post(session)?),
        }
    });
    let Some(ticket) = ticket else { return false };
    let (registration, owing) = (registration.clone(), owing.clone());
    let (tags, deadline) = (delivery.listed, deadline.clone());
    let sent = Sent { registration, settlement, ticket, owing, tags, deadline };
    TRANSACTION.with_borrow_mut(|transaction| transaction.behind = Some(sent));
    true
}

/// The transaction is committed, and holds its locks still.
pub fn committed() {
    DUE.set(TRANSACTION.with_borrow_mut(|transaction| transaction.behind.take()));
}

/// The locks are free: takes the answer, or asks anew while there is time, or leaves it to the
/// worker.
pub fn confirm() {
    let Some(sent) = DUE.take().filter(|_| !host::skips("guard.confirm")) else { return };
    host::fault_point("commit.confirm");
    let started = Instant::now();
    let confirmed = sent.collect().or_else(|_| sent.ask_anew());
    let keys = sent.owing.owed.keys.len();
    stats::delivered(confirmed.is_ok(), sent.tags, keys, stats::us_since(started));
    if let Err(failure) = confirmed {
        connection::warn_unsettled(&failure);
        if !host::skips("guard.leave") {
            sent.leave_to_worker();
        }
    }
}

impl Sent {
    fn collect(&self) -> Result<(), Failure> {
        connection::collect(self.deadline.left(), |session| {
            self.settlement.collect(session, self.ticket)?;
            self.registration.check(session.server())
        })
    }

    fn ask_anew(&self) -> Result<(), Failure> {
        connection::ask_within(self.deadline.left(), |session| {
            self.settlement.settle(session)?;
            self.registration.check(session.server())
        })
    }

    fn leave_to_worker(&self) {
        let database = identity::database();
        let has_room = shmem::shared().is_some_and(|shared| {
            self.owing.owed.keys.iter().all(|(_, key)| shared.lost.leave(database, key))
        });
        if !has_room {
            stats::database().inspect(|database| database.lose_all());
        }
        worker::wake_now();
    }
}
