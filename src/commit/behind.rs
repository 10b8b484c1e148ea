//! Keys whose deletion is sent before the commit record, and confirmed behind it.
//!
//! Where the tag table is in memory, nothing that is exact hangs on Redis: the transaction is
//! listed, so nobody fills anything of it before it ends, and then only with what it wrote. All
//! that a program is promised is that a key is gone once COMMIT has returned. So Redis works while
//! PostgreSQL writes its log, and the commit takes the answer when the locks are free.
//!
//! Invariant: until the answer is here, COMMIT does not return; and if none comes in time, the
//! names go to the worker, which owes them in the transaction's place. Left alone, a program would
//! read the old value until its ttl. (Nor is a debt enough that a savepoint may undo.) So before
//! anything is sent there is room for the names, and who finds none waits before the record, where
//! he can owe by himself. So does
//!
//! - whoever is to fail without Redis (`pg_cache.on_unreachable = error`), has no connection yet,
//!   or knows that Redis is in trouble;
//! - whoever leaves something to the outbox, which may be sent as soon as the record is written;
//! - whoever names a key that is stored: a deletion that arrives behind the record could take away
//!   what the next writer of the row has set.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use pg_cache_core::debt::Owing;
use pg_cache_core::lost::Reserved;
use pg_cache_core::reason::Reason;

use crate::client::failure::Failure;
use crate::client::scripts::Settlement;
use crate::pg::error::Outcome;
use crate::pg::{guc, host, identity, shmem, xact};
use crate::registry::{Home, Registration};
use crate::{connection, events, stats, worker};

use super::delivery::Delivery;
use super::{Deadline, TRANSACTION};

/// More are worth a round trip of their own, and would leave others no room for their names.
const KEYS_MAX: usize = 16;

/// What a transaction has under way.
#[derive(Default)]
pub struct Behind {
    sent: Option<Rc<Sent>>,
    /// The room for its names, which nobody takes out of here to wait: a session that is ended
    /// meanwhile unwinds nothing, but its transaction is aborted, and with that they are dropped.
    names: Option<Reserved<'static>>,
}

/// A delivery that was sent and is not yet known to have arrived.
struct Sent {
    registration: Rc<Registration>,
    settlement: Settlement,
    ticket: u64,
    owing: Rc<Owing>,
    /// Buckets, for the statistics.
    tags: usize,
    deadline: Deadline,
}

/// What is under way for a transaction that is committed.
struct Due {
    sent: Rc<Sent>,
    names: Reserved<'static>,
}

thread_local! {
    /// Until its locks are free.
    static DUE: RefCell<Option<Due>> = const { RefCell::new(None) };
}

/// Works on what the transaction at hand has under way; for a moment.
fn with_behind<T>(work: impl FnOnce(&mut Behind) -> T) -> T {
    TRANSACTION.with_borrow_mut(|transaction| work(&mut transaction.behind))
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
        && !owing.stores()
        && !guc::on_unreachable_is_error()
        && !events::leaves_to_outbox()
        && with_behind(|behind| behind.sent.is_none())
        && connection::is_trusted();
    let shared = shmem::shared().filter(|_| may_wait);
    let Some(names) = shared.and_then(|it| it.lost.reserve(identity::database(), keys.iter()))
    else {
        return false;
    };
    with_behind(|behind| behind.names = Some(names));
    let settlement = delivery.settlement(&[], keys, &[]);
    connection::introduce();
    host::fault_point("commit.named");
    let ticket = connection::tell(|session| {
        registration.check(session.server())?;
        session.take_posted()?;
        match session.is_closed() {
            true => Err(Failure::new(Reason::Closed, "the server has hung up")),
            false => Ok(settlement.post(session)?),
        }
    });
    let Some(ticket) = ticket else {
        with_behind(|behind| behind.names = None);
        return false;
    };
    let (registration, owing) = (registration.clone(), owing.clone());
    let (tags, deadline) = (delivery.listed, deadline.clone());
    let sent = Rc::new(Sent { registration, settlement, ticket, owing, tags, deadline });
    with_behind(|behind| behind.sent = Some(sent));
    true
}

/// Something more was noted, which may be a thing for which nothing may be under way: takes the
/// answer before the record after all, or owes by name.
pub fn settle(xid: u64) -> Outcome<()> {
    let Some(sent) = with_behind(|behind| behind.sent.clone()) else { return Ok(()) };
    let confirmed = sent.confirm();
    if let Err(failure) = &confirmed {
        connection::warn_unsettled(failure);
        super::owe(xid, sent.owing.debts(false), false)?;
        worker::wake_for_debts();
    }
    // What is owed in a savepoint may be undone with it. Then the names are left as well: to delete
    // twice does no harm.
    if confirmed.is_ok() || xact::level() == 1 {
        with_behind(|behind| *behind = Behind::default());
    }
    Ok(())
}

/// The transaction is committed, and holds its locks still.
pub fn committed() {
    let Behind { sent, names } = with_behind(std::mem::take);
    let due = sent.zip(names).map(|(sent, mut names)| {
        names.leave();
        Due { sent, names }
    });
    DUE.set(due);
}

/// The locks are free: takes the answer, or asks anew while there is time, or leaves it to the
/// worker.
pub fn confirm() {
    let Some(Due { sent, names }) = DUE.take() else { return };
    if host::skips("guard.confirm") {
        return names.give_back();
    }
    host::fault_point("commit.confirm");
    match sent.confirm() {
        Ok(()) => names.give_back(),
        Err(failure) => {
            connection::warn_unsettled(&failure);
            match host::skips("guard.leave") {
                true => names.give_back(),
                false => drop(names),
            }
            worker::wake_now();
        }
    }
}

impl Sent {
    /// Takes the answer, or asks anew while there is time.
    fn confirm(&self) -> Result<(), Failure> {
        let started = Instant::now();
        let confirmed = self.collect().or_else(|_| self.ask_anew());
        let keys = self.owing.owed.keys.len();
        stats::delivered(confirmed.is_ok(), self.tags, keys, stats::us_since(started));
        confirmed
    }

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
}
