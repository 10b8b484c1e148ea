//! Sends a batch of the outbox past what is held back, whatever one message does to the connection.
//!
//! Invariant: no message is sent behind one to the same place that was refused or waits. And none
//! keeps the others waiting: the one on which Redis hangs up again and again is refused, and those
//! that take long go a few at a time.

use std::cell::RefCell;
use std::collections::HashSet;

use pg_cache_core::message::Message;
use pg_cache_core::message::place::Place;
use pg_cache_core::reason::Reason;

use crate::client::failure::Failure;
use crate::client::relay::{self, Claims, Fate, Sent};
use crate::connection;
use crate::outbox::Waiting;
use crate::pg::host;

use super::relay::target_of;

/// How often one message may end the connection, to a server that answers, before it is refused.
const BREAKS_MAX: u32 = 3;

/// How long one batch may take before the rest of it waits for the next step: who wants the
/// database waits for the worker, and so do debts.
const BATCH_MS: u64 = 200;

/// Sends all but what goes to where something is held back. If that ends the connection, then one
/// by one: what ends it again and again is refused, and keeps nobody else waiting.
pub fn send_past(
    claims: &RefCell<Claims>,
    waiting: &[Waiting],
    is_held: impl Fn(Place, &[u8]) -> bool,
) -> Result<Sent, Failure> {
    let may_send = |place: Place, message: &Message| !is_held(place, message.target());
    match send(claims, waiting, may_send, &late_soon()) {
        Err(failure) if ends_connection(&failure) => {}
        sent => return sent,
    }
    let is_late = late_soon();
    let mut refused = HashSet::new();
    let mut all = Sent { fates: Vec::with_capacity(waiting.len()), trouble: None };
    for one in waiting {
        // What follows something refused to the same place waits for it.
        if all.trouble.is_some() || refused.contains(&target_of(one)) {
            all.fates.push(Fate::Waits);
            continue;
        }
        if !all.fates.is_empty() && is_late() {
            all.fates.push(Fate::Unsent);
            continue;
        }
        host::check_interrupts();
        let fate = match send_alone(claims, one, may_send, &is_late) {
            Ok(mut sent) => {
                all.trouble = sent.trouble;
                sent.fates.pop().unwrap_or(Fate::Waits)
            }
            Err(failure) => {
                all.trouble = Some(failure);
                Fate::Waits
            }
        };
        if matches!(fate, Fate::Refused(_)) {
            refused.insert(target_of(one));
        }
        all.fates.push(fate);
    }
    Ok(all)
}

fn late_soon() -> impl Fn() -> bool {
    let until_ms = host::monotonic_ms() + BATCH_MS;
    move || host::monotonic_ms() >= until_ms
}

/// Sends one message. Between two tries the server must answer something else: what is between it
/// and us may be down, and no message is to blame.
fn send_alone(
    claims: &RefCell<Claims>,
    one: &Waiting,
    may_send: impl Fn(Place, &Message) -> bool,
    is_late: &dyn Fn() -> bool,
) -> Result<Sent, Failure> {
    let mut breaks = 0;
    loop {
        // The breaker takes what a message did for what the server did.
        connection::retry_now();
        if breaks > 0 {
            connection::ask(|session| Ok(session.identify()?))?;
        }
        match send(claims, std::slice::from_ref(one), &may_send, is_late) {
            Err(failure) if ends_connection(&failure) => {
                breaks += 1;
                if breaks == BREAKS_MAX {
                    return Ok(Sent { fates: vec![Fate::Refused(failure)], trouble: None });
                }
            }
            sent => return sent,
        }
    }
}

/// Sends those that may be sent. Of the others, those that are not understood are refused.
fn send(
    claims: &RefCell<Claims>,
    waiting: &[Waiting],
    may_send: impl Fn(Place, &Message) -> bool,
    is_late: &dyn Fn() -> bool,
) -> Result<Sent, Failure> {
    let mut fates: Vec<Fate> = Vec::with_capacity(waiting.len());
    let mut chosen = Vec::with_capacity(waiting.len());
    let mut places = Vec::with_capacity(waiting.len());
    for (at, one) in waiting.iter().enumerate() {
        fates.push(match &one.message {
            Err(why) => Fate::Refused(relay::unreadable(why)),
            Ok(message) => {
                if may_send(one.place, message) {
                    places.push(at);
                    chosen.push((one.place, message));
                }
                Fate::Waits
            }
        });
    }
    if chosen.is_empty() {
        return Ok(Sent { fates, trouble: None });
    }
    let told = RefCell::new(chosen.iter().map(|_| Fate::Waits).collect::<Vec<_>>());
    let sent = connection::ask(|session| {
        let mut claims = claims.borrow_mut();
        relay::send(session, &mut claims, &chosen, &mut told.borrow_mut(), is_late)
    });
    let told = told.into_inner();
    let trouble = match sent {
        Ok(trouble) => trouble,
        Err(failure) => {
            claims.borrow_mut().drop_all();
            // What has arrived would be sent again with the rest, for as long as that takes too
            // long.
            let has_sent = told.iter().any(|fate| !matches!(fate, Fate::Waits));
            if failure.reason != Reason::Timeout || !has_sent {
                return Err(failure);
            }
            Some(failure)
        }
    };
    for (at, fate) in places.into_iter().zip(told) {
        fates[at] = fate;
    }
    Ok(Sent { fates, trouble })
}

/// Redis hangs up on what it cannot even read.
fn ends_connection(failure: &Failure) -> bool {
    matches!(failure.reason, Reason::Closed | Reason::Protocol | Reason::TooLarge)
}
