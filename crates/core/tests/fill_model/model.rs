//! Owns the model: Redis with one key, and readers whose decisions are those of the real `Fill`.
//!
//! Invariant: a step is what one party does at one moment, so that everything another party could
//! do between two commands can happen there. A step that did two things would hide such orders.

use pg_cache_core::fill::{Effect, Event, Fill};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

const READERS: usize = 3;

/// What the adapters around `Fill` must do; each may be switched off.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The lease is taken with NX.
    pub lease_is_nx: bool,
    /// After the lease comes a second look.
    pub looks_again: bool,
    /// A fill stores only while its token stands in the lease.
    pub fill_checks_token: bool,
    /// A lease is given back only while the own token stands in it.
    pub release_checks_token: bool,
}

/// How long things last, and how much may happen.
#[derive(Debug, Clone, Copy)]
pub struct World {
    pub rules: Rules,
    pub entry_ms: u8,
    pub lease_ms: u8,
    pub fill_wait_ms: u8,
    /// Calls begin until then.
    pub begin_ms_max: u8,
    pub end_ms: u8,
    pub deaths_max: u8,
    /// A fill from before our readers began is still on its way to Redis.
    pub late_fill: bool,
}

/// The order in which leases were taken: a higher token is a newer filler.
pub type Token = u8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    pub token: Token,
    pub until_ms: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    pub filler: Token,
    pub until_ms: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reader {
    Idle,
    /// About to send SET NX.
    Leasing(Call),
    /// SET NX took this lease or none; the look behind it is not executed yet.
    Looking(Call, Option<Lease>),
    Waiting(Call, u8),
    /// Under the lease that it took, which may have expired since, or under none.
    Computing(Option<Lease>),
    /// The script is on its way; the reader may be gone.
    Filling(Token),
    Releasing(Token),
    /// Answered, dead, or never come.
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Call {
    pub fill: Fill,
    pub deadline_ms: u8,
}

/// Everything that decides what can happen next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub now_ms: u8,
    pub entry: Option<Entry>,
    pub lease: Option<Lease>,
    pub readers: Vec<Reader>,
    pub tokens: Token,
    pub deaths: u8,
    /// Counted where nothing expires only.
    pub computations: u8,
    /// What the step that led here did: taken out before the state goes on.
    pub seen: Seen,
    pub breach: Option<Breach>,
}

/// A promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Breach {
    /// Two backends compute at once, each under a lease that has not expired.
    TwoFillers,
    /// A filler whose lease was lost replaced the entry of a newer one.
    OlderOverNewer,
    /// A pause that ends behind the deadline.
    WaitedPastDeadline,
    /// Nothing expired and nobody died, yet the query ran more than once.
    ComputedTwice,
    /// Nobody can go on, and somebody has no answer.
    Stuck,
}

/// What happened on the way: proof that the model reaches what it is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    pub takeover: bool,
    pub late_fill_refused: bool,
    pub lease_given_back: bool,
    pub deadline: bool,
    pub served_by_another: bool,
}

/// A step's name and the reader that took it.
pub type Label = (&'static str, Option<usize>);

impl State {
    pub fn first(world: &World) -> State {
        let mut readers = vec![Reader::Idle; READERS];
        let mut lease = None;
        if world.late_fill {
            readers.push(Reader::Filling(0));
            lease = Some(Lease { token: 0, until_ms: world.lease_ms });
        }
        State {
            now_ms: 0,
            entry: None,
            lease,
            readers,
            tokens: 1,
            deaths: 0,
            computations: 0,
            seen: Seen::default(),
            breach: None,
        }
    }

    /// Every state that one step leads to.
    pub fn next(&self, world: &World) -> Vec<(Label, State)> {
        let mut states = Vec::new();
        if self.now_ms < world.end_ms {
            let mut later = self.clone();
            later.now_ms += 1;
            later.entry = later.entry.filter(|entry| entry.until_ms > later.now_ms);
            later.lease = later.lease.filter(|lease| lease.until_ms > later.now_ms);
            let is_late = later.now_ms > world.begin_ms_max;
            for idle in later.readers.iter_mut().filter(|r| is_late && **r == Reader::Idle) {
                *idle = Reader::Gone;
            }
            states.push((("a millisecond passes", None), later));
        }
        for at in 0..self.readers.len() {
            self.reader_steps(world, at, &mut states);
        }
        states
    }

    fn reader_steps(&self, world: &World, at: usize, states: &mut Vec<(Label, State)>) {
        let mut add = |name, step: &dyn Fn(&mut State)| {
            let mut state = self.clone();
            step(&mut state);
            states.push(((name, Some(at)), state));
        };
        match &self.readers[at] {
            Reader::Idle => {
                add("looks first", &|state| state.begin(world, at));
            }
            Reader::Leasing(call) => add("sends SET NX", &|state| state.lease(world, at, call)),
            Reader::Looking(call, lease) => {
                for random in 0..2 {
                    add("looks again", &|state| state.look(world, at, call, *lease, random));
                }
            }
            Reader::Waiting(call, until_ms) if *until_ms <= self.now_ms => {
                add("wakes up", &|state| state.step(world, at, call, Event::Waited, None, 0));
            }
            Reader::Computing(lease) => {
                add("has its result", &|state| {
                    let next = lease.map(|lease| Reader::Filling(lease.token));
                    state.readers[at] = next.unwrap_or(Reader::Gone);
                });
                if lease.is_some() && self.deaths < world.deaths_max {
                    add("dies", &|state| {
                        state.readers[at] = Reader::Gone;
                        state.deaths += 1;
                    });
                }
            }
            Reader::Filling(token) => add("fills", &|state| state.fill(world, at, *token)),
            Reader::Releasing(token) => {
                add("releases", &|state| state.release(world, at, *token));
            }
            _ => {}
        }
    }

    fn begin(&mut self, world: &World, at: usize) {
        if self.entry.is_some() {
            self.readers[at] = Reader::Gone;
            return;
        }
        let fill = Fill::new(self.now_ms.into(), world.fill_wait_ms.into());
        let call = Call { fill, deadline_ms: self.now_ms + world.fill_wait_ms };
        self.step(world, at, &call, Event::Missed, None, 0);
    }

    fn lease(&mut self, world: &World, at: usize, call: &Call) {
        let is_free = self.lease.is_none() || !world.rules.lease_is_nx;
        let taken =
            is_free.then_some(Lease { token: self.tokens, until_ms: self.now_ms + world.lease_ms });
        if taken.is_some() {
            self.lease = taken;
            self.tokens += 1;
        }
        self.readers[at] = Reader::Looking(call.clone(), taken);
    }

    fn look(&mut self, world: &World, at: usize, call: &Call, lease: Option<Lease>, random: u64) {
        let hit = self.entry.is_some();
        let event = match lease {
            Some(_) => Event::Leased { hit: hit && world.rules.looks_again },
            None => Event::Taken { hit },
        };
        self.step(world, at, call, event, lease, random);
    }

    /// Hands an event to the code under test and does what it says.
    fn step(
        &mut self,
        world: &World,
        at: usize,
        call: &Call,
        event: Event,
        lease: Option<Lease>,
        random: u64,
    ) {
        let mut call = call.clone();
        let effect = call.fill.step(event, self.now_ms.into(), random);
        self.readers[at] = match (effect, lease) {
            (Effect::Lease, _) => Reader::Leasing(call),
            (Effect::Wait { ms }, None) => {
                let until_ms = self.now_ms + u8::try_from(ms).unwrap();
                if ms == 0 || until_ms > call.deadline_ms {
                    self.breach = Some(Breach::WaitedPastDeadline);
                }
                Reader::Waiting(call, until_ms)
            }
            (Effect::Compute { fill }, lease) => {
                assert_eq!(fill, lease.is_some());
                self.compute(world, lease)
            }
            (Effect::Serve, None) => {
                self.seen.served_by_another = true;
                Reader::Gone
            }
            (Effect::ServeAndRelease, Some(lease)) => Reader::Releasing(lease.token),
            (effect, lease) => panic!("{effect:?} with {lease:?}"),
        };
    }

    fn compute(&mut self, world: &World, lease: Option<Lease>) -> Reader {
        let is_live = |lease: &Option<Lease>| lease.is_some_and(|l| l.until_ms > self.now_ms);
        let fills = |reader: &Reader| matches!(reader, Reader::Computing(l) if is_live(l));
        if is_live(&lease) && self.readers.iter().any(fills) {
            self.breach = Some(Breach::TwoFillers);
        }
        self.seen.takeover = lease.is_some() && self.deaths > 0;
        self.seen.deadline = lease.is_none();
        if world.is_calm() {
            self.computations += 1;
            if self.computations > 1 {
                self.breach = Some(Breach::ComputedTwice);
            }
        }
        Reader::Computing(lease)
    }

    fn fill(&mut self, world: &World, at: usize, token: Token) {
        self.readers[at] = Reader::Gone;
        let is_ours = self.lease.is_some_and(|lease| lease.token == token);
        if world.rules.fill_checks_token && !is_ours {
            self.seen.late_fill_refused = true;
            return;
        }
        if self.entry.is_some_and(|entry| entry.filler > token) {
            self.breach = Some(Breach::OlderOverNewer);
        }
        self.entry = Some(Entry { filler: token, until_ms: self.now_ms + world.entry_ms });
        self.lease = None;
    }

    fn release(&mut self, world: &World, at: usize, token: Token) {
        self.readers[at] = Reader::Gone;
        let is_ours = self.lease.is_some_and(|lease| lease.token == token);
        if is_ours || !world.rules.release_checks_token {
            self.lease = None;
            self.seen.lease_given_back = true;
        }
    }

    /// Whether somebody has no answer at the end of a time that suffices for every deadline.
    pub fn is_stuck(&self, world: &World) -> bool {
        world.begin_ms_max + world.fill_wait_ms <= world.end_ms
            && self.readers.iter().any(|reader| *reader != Reader::Gone)
    }

    /// One form for states that go on alike: tokens count by their order only, leases that have
    /// expired by nothing, and readers are told apart by nothing but what they do.
    pub fn normalize(&mut self) {
        let mut tokens: Vec<&mut Token> = Vec::new();
        tokens.extend(self.entry.iter_mut().map(|entry| &mut entry.filler));
        tokens.extend(self.lease.iter_mut().map(|lease| &mut lease.token));
        for reader in &mut self.readers {
            match reader {
                Reader::Looking(_, Some(lease)) | Reader::Computing(Some(lease)) => {
                    if lease.until_ms <= self.now_ms {
                        lease.until_ms = 0;
                    }
                    tokens.push(&mut lease.token);
                }
                Reader::Filling(token) | Reader::Releasing(token) => tokens.push(token),
                _ => {}
            }
        }
        let order: BTreeSet<Token> = tokens.iter().map(|token| **token).collect();
        for token in tokens {
            *token = order.range(..*token).count() as Token;
        }
        self.tokens = order.len() as Token;
        self.readers.sort_by_cached_key(|reader| {
            let mut hasher = DefaultHasher::new();
            reader.hash(&mut hasher);
            hasher.finish()
        });
    }
}

impl World {
    fn is_calm(&self) -> bool {
        self.deaths_max == 0 && self.entry_ms.min(self.lease_ms) > self.end_ms
    }
}

impl Seen {
    pub fn add(&mut self, other: Seen) {
        self.takeover |= other.takeover;
        self.late_fill_refused |= other.late_fill_refused;
        self.lease_given_back |= other.lease_given_back;
        self.deadline |= other.deadline;
        self.served_by_another |= other.served_by_another;
    }
}
