//! Owns the model: one key that `redis_store` keeps, transactions that write its row one after
//! another, the outbox, the worker that sends it, and what arrives past it.
//!
//! Invariant: a step is what one party does at one moment, so that everything another party could
//! do between two commands can happen there. How much of the outbox is sent at once is decided by
//! the real `hold`; what the scripts do is written down once more, in [`State::store`].

use pg_cache_core::message::hold::{self, UNSURE};
use pg_cache_core::message::{Message, Stored};

/// How a transaction tells Redis before it commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// Deletes the key and lays its token, in one step.
    Plain,
    /// The same, prepared: its message goes by the outbox, durable or not.
    Prepared,
    /// Deletes the key in mid-transaction, and lays its token at the end.
    Early,
    /// Deletes the key in mid-transaction, when its message is in the outbox already, without a
    /// token.
    Spilled,
    /// Gets no answer, whether it has arrived or not: it owes.
    Lost,
}

pub const WAYS: [Way; 5] = [Way::Plain, Way::Prepared, Way::Early, Way::Spilled, Way::Lost];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    pub way: Way,
    pub durable: bool,
}

/// What keeps an older row from standing in the place of a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// A message sets the key only if its token stands there.
    OwnToken,
    /// One that is unsure, only if nobody's does.
    OnlyIfFree,
    /// It leaves a mark, in the place of a token, under which later ones are set too.
    Mark,
    /// But only those that come in the order of their commits.
    InOrderOnly,
    /// And a deletion leaves none.
    NoMarkByDeletion,
    /// Nothing is sent behind an unsure one before that is struck off.
    Hold,
    /// Nothing is sent of a transaction that owes.
    OwingFirst,
    /// Whoever pays takes a mark for nobody's token.
    YieldSeesMark,
    /// Whoever lays a token deletes the key once more.
    LayDeletes,
    /// Whoever deletes the key takes the token that stands there.
    TakesToken,
}

#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    pub programs: &'a [Program],
    pub without: Option<Guard>,
    /// How often the worker may die between sending and deleting.
    pub deaths: u8,
    /// How often Redis may lose something.
    pub losses: u8,
}

/// The value under a key that is not there; others are those of writers, counted from 1.
pub const ABSENT: u8 = 0xff;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Token {
    None,
    Mark,
    Of(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    Idle,
    Begun,
    Deleted,
    Settled,
}

/// A promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    /// All is done, and the key holds an older row.
    OldForGood,
    /// COMMIT has returned, and the key holds an older row.
    Old,
    /// The key holds what is not committed.
    Uncommitted,
    /// All is done, nothing went wrong, and the key has no row.
    Absent,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub value: u8,
    pub token: Token,
    /// The writer whose turn it is, and how far it is.
    writer: u8,
    at: At,
    /// The last one that committed; 0: none, and the row is as it was at first.
    committed: u8,
    /// Whose messages wait.
    outbox: Vec<u8>,
    /// Of these the worker has taken so many, and sent so many.
    taken: usize,
    sent: usize,
    /// Whose messages are under way past the outbox, and who owes: as bits.
    inline: u8,
    owing: u8,
    deaths: u8,
    losses: u8,
    has_aborted: bool,
    /// Who has not committed, or never will, has taken away the token of the last who has.
    is_bare: bool,
    /// The step that led here stored a row whose token was gone, behind one that was unsure.
    pub by_mark: bool,
    /// It paid a debt, and an older row is still there.
    pub left_old: bool,
}

pub type Steps = Vec<(&'static str, State)>;

impl World<'_> {
    fn has(&self, guard: Guard) -> bool {
        self.without != Some(guard)
    }

    fn of(&self, writer: u8) -> Program {
        self.programs[writer as usize - 1]
    }

    /// Whether its message does not know its token, and whether it deletes only.
    fn is_unsure(&self, writer: u8) -> bool {
        matches!(self.of(writer).way, Way::Spilled | Way::Lost)
    }

    fn message(&self, writer: u8) -> Message {
        let sure = [b'x', writer];
        let token = if self.is_unsure(writer) { [UNSURE, &sure].concat() } else { sure.to_vec() };
        let (key, value) = (b"k"[..].into(), Stored::Nothing);
        Message::Store { key, token: token.into(), ttl_ms: None, value }
    }
}

impl State {
    pub fn first() -> Self {
        Self {
            value: 0,
            token: Token::None,
            writer: 1,
            at: At::Idle,
            committed: 0,
            outbox: Vec::new(),
            taken: 0,
            sent: 0,
            inline: 0,
            owing: 0,
            deaths: 0,
            losses: 0,
            has_aborted: false,
            is_bare: false,
            by_mark: false,
            left_old: false,
        }
    }

    /// Every state that one step leads to.
    pub fn next(&self, world: &World<'_>) -> Steps {
        let mut steps = Steps::new();
        self.write(world, &mut steps);
        self.arrive(world, &mut steps);
        self.relay(world, &mut steps);
        self.pay(world, &mut steps);
        self.lose(world, &mut steps);
        steps
    }

    fn add(&self, steps: &mut Steps, does: &'static str, step: impl FnOnce(&mut State)) {
        let mut state = State { by_mark: false, left_old: false, ..self.clone() };
        step(&mut state);
        steps.push((does, state));
    }

    /// DEL of the value and, with it, of the token.
    fn delete(&mut self, world: &World<'_>) {
        self.value = ABSENT;
        if world.has(Guard::TakesToken) {
            self.token = Token::None;
        }
    }

    fn lay(&mut self, deletes: bool) {
        if deletes {
            self.value = ABSENT;
        }
        self.token = Token::Of(self.writer);
        self.is_bare = true;
        self.at = At::Settled;
    }

    /// The script that stores.
    fn store(&mut self, world: &World<'_>, writer: u8, in_order: bool) {
        let Program { durable, way } = world.of(writer);
        let is_unsure = world.is_unsure(writer);
        let deletes = is_unsure && !durable;
        let is_own = match self.token {
            Token::Of(laid) => laid == writer && way != Way::Spilled,
            _ => false,
        };
        let is_marked = self.token == Token::Mark;
        let may_follow = in_order || !world.has(Guard::InOrderOnly);
        let is_free = match is_unsure {
            true => is_marked || self.token == Token::None || !world.has(Guard::OnlyIfFree),
            false => is_marked && may_follow,
        };
        if !is_own && !is_free && world.has(Guard::OwnToken) {
            return;
        }
        let leaves = is_marked || !deletes || !world.has(Guard::NoMarkByDeletion);
        self.by_mark = is_marked && !is_unsure;
        self.token = match is_free && !is_own && leaves && world.has(Guard::Mark) {
            true => Token::Mark,
            false => Token::None,
        };
        self.value = if deletes { ABSENT } else { writer };
    }

    fn write(&self, world: &World<'_>, steps: &mut Steps) {
        if self.writer as usize > world.programs.len() {
            return;
        }
        let Program { way, durable } = world.of(self.writer);
        let is_early = matches!(way, Way::Early | Way::Spilled);
        match self.at {
            At::Idle => self.add(steps, "begins and has the row", |state| state.at = At::Begun),
            At::Begun if is_early => self.add(steps, "deletes the key early", |state| {
                state.delete(world);
                state.is_bare = true;
                state.at = At::Deleted;
            }),
            At::Begun => {
                self.add(steps, "deletes the key and lays its token", |state| state.lay(true));
                if way == Way::Lost {
                    self.add(steps, "does not reach Redis", |state| state.at = At::Settled);
                }
            }
            At::Deleted if way == Way::Early => self.add(steps, "lays its token", |state| {
                state.lay(world.has(Guard::LayDeletes));
            }),
            At::Deleted | At::Settled => {
                self.add(steps, "commits", |state| {
                    let by_outbox = durable || matches!(way, Way::Prepared | Way::Spilled);
                    let bit = 1 << state.writer;
                    match by_outbox {
                        true => state.outbox.push(state.writer),
                        false if way != Way::Lost => state.inline |= bit,
                        false => {}
                    }
                    state.owing |= if way == Way::Lost { bit } else { 0 };
                    state.committed = state.writer;
                    state.is_bare = false;
                    state.go_on();
                });
            }
        }
        if self.at != At::Idle {
            self.add(steps, "aborts", |state| state.abort());
            self.add(steps, "aborts and takes its token away", |state| {
                if state.token == Token::Of(state.writer) {
                    state.token = Token::None;
                }
                state.abort();
            });
        }
    }

    fn abort(&mut self) {
        self.has_aborted = true;
        self.go_on();
    }

    fn go_on(&mut self) {
        self.writer += 1;
        self.at = At::Idle;
    }

    /// What goes past the outbox arrives at any time, or never.
    fn arrive(&self, world: &World<'_>, steps: &mut Steps) {
        for writer in (1..8).filter(|writer| self.inline & 1 << writer != 0) {
            self.add(steps, "a message arrives past the outbox", |state| {
                state.inline &= !(1 << writer);
                state.store(world, writer, false);
            });
            self.add(steps, "a message is lost", |state| state.inline &= !(1 << writer));
        }
    }

    fn relay(&self, world: &World<'_>, steps: &mut Steps) {
        let owes = |writer: u64| self.owing & 1 << writer != 0 && world.has(Guard::OwingFirst);
        if self.taken == 0 {
            let messages: Vec<(u64, Message)> =
                self.outbox.iter().map(|one| (u64::from(*one), world.message(*one))).collect();
            let batch = messages.iter().map(|(writer, message)| (*writer, Some(message)));
            let count = match world.has(Guard::Hold) {
                true => hold::sendable(batch, owes),
                false => batch.take_while(|(writer, _)| !owes(*writer)).count(),
            };
            if count > 0 {
                self.add(steps, "the worker takes a batch", |state| {
                    (state.taken, state.sent) = (count, 0);
                });
            }
            return;
        }
        if self.sent < self.taken {
            let writer = self.outbox[self.sent];
            self.add(steps, "the worker sends a message", |state| {
                state.store(world, writer, true);
                state.sent += 1;
            });
        } else {
            self.add(steps, "the worker deletes the batch", |state| {
                state.outbox.drain(..state.taken);
                state.taken = 0;
            });
        }
        if self.deaths < world.deaths {
            self.add(steps, "the worker dies", |state| {
                state.deaths += 1;
                state.taken = 0;
            });
        }
    }

    /// The worker pays between two batches.
    fn pay(&self, world: &World<'_>, steps: &mut Steps) {
        if self.taken > 0 && world.has(Guard::OwingFirst) {
            return;
        }
        for writer in (1..8).filter(|writer| self.owing & 1 << writer != 0) {
            self.add(steps, "the worker pays a debt", |state| {
                state.owing &= !(1 << writer);
                let is_token = match state.token {
                    Token::None => false,
                    Token::Mark => !world.has(Guard::YieldSeesMark),
                    Token::Of(_) => true,
                };
                if !(world.of(writer).durable && is_token) {
                    state.delete(world);
                }
                state.left_old = state.value < writer;
            });
        }
    }

    fn lose(&self, world: &World<'_>, steps: &mut Steps) {
        if self.losses == world.losses {
            return;
        }
        self.add(steps, "Redis loses all", |state| {
            state.losses += 1;
            (state.value, state.token) = (ABSENT, Token::None);
        });
        if let Token::Of(_) = self.token {
            self.add(steps, "Redis loses the token", |state| {
                state.losses += 1;
                state.token = Token::None;
            });
        }
    }

    /// The promise that is broken here, if one is.
    pub fn breach(&self, world: &World<'_>) -> Option<Breach> {
        let is_over = self.writer as usize > world.programs.len()
            && self.outbox.is_empty()
            && self.inline == 0
            && self.owing == 0;
        if self.value == ABSENT {
            let is_durable = world.programs.iter().all(|program| program.durable);
            let is_calm = !self.has_aborted && self.losses == 0;
            return (is_over && is_calm && is_durable).then_some(Breach::Absent);
        }
        if self.value > self.committed {
            return Some(Breach::Uncommitted);
        }
        if self.value == self.committed {
            return None;
        }
        if is_over {
            return Some(Breach::OldForGood);
        }
        // Where no token keeps an older row away, it may be there until the newer one comes.
        let waits = self.outbox.contains(&self.committed);
        let is_unsure = self.committed != 0 && world.is_unsure(self.committed);
        let is_kept_away = self.owing == 0 && !(waits && (is_unsure || self.is_bare));
        (self.losses == 0 && (is_kept_away || self.left_old)).then_some(Breach::Old)
    }
}
