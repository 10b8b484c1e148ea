//! One delivery to Redis: BUMP, and DEL behind it.
//!
//! Invariant: it counts as settled only if the table that was bumped is of the generation that the
//! writer read, on the server that is registered. Otherwise the transaction owes.

use std::time::Instant;

use pg_cache_core::pending::{Keys, Owed};
use pg_cache_core::reason::Reason;
use pg_cache_core::settlement::{Bump, Gone};
use pg_cache_core::tag::Bucket;
use pg_cache_core::token::Token;

use crate::client::failure::Failure;
use crate::client::making::made;
use crate::client::scripts::{self, Settlement};
use crate::pg::host;
use crate::pg::snapshot::Snapshot;
use crate::registry::{self, Home, Registration};
use crate::{connection, stats};

use super::{Deadline, listing};

/// Who tells Redis, and by when.
pub struct Delivery<'a> {
    registration: &'a Registration,
    snapshot: &'a Snapshot,
    xid: u64,
    /// How many buckets in memory list the transaction for this delivery.
    pub listed: usize,
    deadline: &'a Deadline,
    /// The generation is one of a former run or timeline: the transaction ends it, and owes.
    pub is_former: bool,
}

/// The buckets of what is owed that Redis has to be told of, each once.
pub fn buckets_of(registration: &Registration, owed: &Owed) -> Vec<Bucket> {
    let key_tags = owed.keys.iter().map(|(tag, _)| tag);
    registration.buckets_of(owed.tags.iter().copied().chain(key_tags))
}

impl<'a> Delivery<'a> {
    pub fn new(
        registration: &'a Registration,
        snapshot: &'a Snapshot,
        xid: u64,
        listed: usize,
        deadline: &'a Deadline,
    ) -> Self {
        // A table in memory begins anew with each run.
        let is_former =
            registration.home == Home::Redis && registry::is_former(snapshot, registration);
        Self { registration, snapshot, xid, listed, deadline, is_former }
    }

    /// One round trip, if there is anything to tell.
    pub fn settle(&self, buckets: &[Bucket], keys: &Keys, tokens: &[Token]) -> Result<(), Failure> {
        let started = Instant::now();
        let tags = match self.registration.home {
            Home::Redis => buckets.len(),
            Home::Memory => self.listed,
        };
        if self.registration.home == Home::Memory && keys.is_empty() && tokens.is_empty() {
            stats::delivered(true, tags, 0, 0);
            return Ok(());
        }
        let is_apart = host::skips("guard.bumpfirst") || host::skips("commit.together");
        let settled = match is_apart {
            true => self.send_apart(buckets, keys),
            false => self.send(buckets, keys, tokens),
        };
        let time_us = stats::us_since(started);
        stats::delivered(settled.is_ok(), tags, keys.len(), time_us);
        settled
    }

    fn send(&self, buckets: &[Bucket], keys: &Keys, tokens: &[Token]) -> Result<(), Failure> {
        if buckets.contains(&Bucket::CATALOGUE) && !host::skips("guard.messages") {
            self.let_messages_pass()?;
        }
        let bumps_nothing = host::skips("guard.stub") && !self.finds_its_table()?;
        let settlement = self.settlement(if bumps_nothing { &[] } else { buckets }, keys, tokens);
        connection::ask_within(self.deadline.left(), |session| {
            let found = settlement.settle(session)?;
            if bumps_nothing {
                return Err(Failure::new(Reason::Generation, "nothing was bumped"));
            }
            self.registration.check_told(session.server(), &found, self.is_former)
        })
    }

    /// For tests: a moment between BUMP and DEL, which one request leaves to nobody.
    fn send_apart(&self, buckets: &[Bucket], keys: &Keys) -> Result<(), Failure> {
        let no_keys = Keys::default();
        let mut steps = [(buckets, &no_keys), (&[][..], keys)];
        if host::skips("guard.bumpfirst") {
            steps.reverse();
        }
        self.send(steps[0].0, steps[0].1, &[])?;
        host::fault_point("commit.apart");
        self.send(steps[1].0, steps[1].1, &[])
    }

    /// For tests: whether the table is of the generation that was read.
    fn finds_its_table(&self) -> Result<bool, Failure> {
        let table = &self.registration.table;
        let found =
            connection::ask_within(self.deadline.left(), |session| Ok(made(session, table)?))?;
        Ok(found.is_of(self.registration.generation))
    }

    /// Sends it and leaves the answer for later.
    pub fn post(&self, buckets: &[Bucket], keys: &Keys) -> Result<(Settlement, u64), Failure> {
        let settlement = self.settlement(buckets, keys, &[]);
        let ticket =
            connection::ask_within(self.deadline.left(), |session| Ok(settlement.post(session)?))?;
        Ok((settlement, ticket))
    }

    pub fn settlement(&self, buckets: &[Bucket], keys: &Keys, tokens: &[Token]) -> Settlement {
        let in_progress = self.snapshot.in_progress();
        let drops_all = host::skips("guard.droplist");
        let bump = || Bump {
            table: &self.registration.table,
            generation: (!self.is_former).then_some(self.registration.generation),
            xid: self.xid,
            xmax: if drops_all { u64::MAX } else { self.snapshot.xmax() },
            in_progress: if drops_all { &[] } else { &in_progress },
            buckets,
        };
        let keep_leases = host::skips("guard.keeplease");
        let Registration { prefix, book, .. } = self.registration;
        let bump = (self.registration.home == Home::Redis).then(bump);
        let gone = Gone { prefix, keys, tokens, book, keep_leases };
        Settlement::new(bump.as_ref(), &gone, connection::is_proof_due)
    }

    fn let_messages_pass(&self) -> Result<(), Failure> {
        let listed = connection::ask_within(self.deadline.left(), |session| {
            Ok(scripts::catalogue_writers(session, &self.registration.table)?)
        })?;
        listing::let_messages_pass(listed, self.snapshot, self.deadline)
    }
}
