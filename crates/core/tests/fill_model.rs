//! Owns an exhaustive model of readers that miss one key: the real `Fill` drives each of them
//! against a model Redis, and every order in which their commands can arrive, with deaths, expiry
//! and late messages, is explored.
//!
//! Invariant: with all rules in force no order breaks a promise, and each rule taken away has an
//! order that does. A rule whose removal is not found here is either useless or not modelled.

use pg_cache_core::fill::{Effect, Event, Fill};
use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

const READERS: usize = 3;

/// What the adapters around `Fill` must do; each may be switched off.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// The lease is taken with NX.
    lease_is_nx: bool,
    /// After the lease comes a second look.
    looks_again: bool,
    /// A fill stores only while its token stands in the lease.
    fill_checks_token: bool,
    /// A lease is given back only while the own token stands in it.
    release_checks_token: bool,
}

const RULES: Rules = Rules {
    lease_is_nx: true,
    looks_again: true,
    fill_checks_token: true,
    release_checks_token: true,
};

/// How long things last, and how much may happen.
#[derive(Debug, Clone, Copy)]
struct World {
    rules: Rules,
    entry_ms: u8,
    lease_ms: u8,
    fill_wait_ms: u8,
    /// Calls begin until then.
    begin_ms_max: u8,
    end_ms: u8,
    deaths_max: u8,
    /// A fill from before our readers began is still on its way to Redis.
    late_fill: bool,
}

/// Nothing expires and nobody dies.
const CALM: World = World {
    rules: RULES,
    entry_ms: 100,
    lease_ms: 100,
    fill_wait_ms: 100,
    begin_ms_max: 3,
    end_ms: 5,
    deaths_max: 0,
    late_fill: false,
};

/// Everything expires soon, one filler dies, and another's message is late.
const STORM: World = World {
    rules: RULES,
    entry_ms: 2,
    lease_ms: 2,
    fill_wait_ms: 3,
    begin_ms_max: 2,
    end_ms: 6,
    deaths_max: 1,
    late_fill: true,
};

/// The order in which leases were taken: a higher token is a newer filler.
type Token = u8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Lease {
    token: Token,
    until_ms: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Entry {
    filler: Token,
    until_ms: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Reader {
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
    /// Answered, or dead.
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Call {
    fill: Fill,
    deadline_ms: u8,
}

/// Everything that decides what can happen next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    now_ms: u8,
    entry: Option<Entry>,
    lease: Option<Lease>,
    readers: Vec<Reader>,
    tokens: Token,
    deaths: u8,
    /// Counted where nothing expires only.
    computations: u8,
    /// What the step that led here did: taken out before the state goes on.
    seen: Seen,
    breach: Option<Breach>,
}

/// A promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Breach {
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
struct Seen {
    takeover: bool,
    late_fill_refused: bool,
    lease_given_back: bool,
    deadline: bool,
    served_by_another: bool,
}

/// A step's name and the reader that took it.
type Label = (&'static str, Option<usize>);

impl State {
    fn first(world: &World) -> State {
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
    fn next(&self, world: &World) -> Vec<(Label, State)> {
        let mut states = Vec::new();
        if self.now_ms < world.end_ms {
            let mut later = self.clone();
            later.now_ms += 1;
            later.entry = later.entry.filter(|entry| entry.until_ms > later.now_ms);
            later.lease = later.lease.filter(|lease| lease.until_ms > later.now_ms);
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
            Reader::Idle if self.now_ms <= world.begin_ms_max => {
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
    fn is_stuck(&self, world: &World) -> bool {
        let has_its_end = |reader: &Reader| matches!(reader, Reader::Idle | Reader::Gone);
        world.begin_ms_max + world.fill_wait_ms <= world.end_ms
            && !self.readers.iter().all(has_its_end)
    }

    /// One form for states that go on alike: tokens count by their order only, leases that have
    /// expired by nothing, and readers are told apart by nothing but what they do.
    fn normalize(&mut self) {
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
    fn add(&mut self, other: Seen) {
        self.takeover |= other.takeover;
        self.late_fill_refused |= other.late_fill_refused;
        self.lease_given_back |= other.lease_given_back;
        self.deadline |= other.deadline;
        self.served_by_another |= other.served_by_another;
    }
}

/// What an exploration found.
struct Explored {
    states: usize,
    seen: Seen,
    /// The steps of a shortest way to a breach that was looked for.
    counterexample: Option<Vec<String>>,
}

/// A state, the place of the state before it, and the step between them.
type Trail = Vec<(Rc<State>, usize, Label)>;

/// Goes every way there is, breadth first, until it meets a breach that `is_wanted`.
fn explore(world: World, is_wanted: impl Fn(Breach) -> bool) -> Explored {
    let first = Rc::new(State::first(&world));
    let mut known = HashSet::from([first.clone()]);
    let mut trail = vec![(first, 0, ("begins", None))];
    let mut seen = Seen::default();
    let mut at = 0;
    while at < trail.len() {
        let state = trail[at].0.clone();
        let steps = state.next(&world);
        if steps.is_empty() && state.is_stuck(&world) && is_wanted(Breach::Stuck) {
            let counterexample = Some(steps_to(&trail, at));
            return Explored { states: trail.len(), seen, counterexample };
        }
        for (label, mut next) in steps {
            seen.add(std::mem::take(&mut next.seen));
            let breach = next.breach.take();
            next.normalize();
            let next = Rc::new(next);
            let is_new = known.insert(next.clone());
            if is_new || breach.is_some() {
                trail.push((next, at, label));
            }
            if breach.is_some_and(&is_wanted) {
                let counterexample = Some(steps_to(&trail, trail.len() - 1));
                return Explored { states: trail.len(), seen, counterexample };
            }
        }
        at += 1;
    }
    Explored { states: trail.len(), seen, counterexample: None }
}

fn steps_to(trail: &Trail, mut at: usize) -> Vec<String> {
    let mut steps = Vec::new();
    while at > 0 {
        let (_, before, (name, reader)) = &trail[at];
        let reader = reader.map(|reader| &trail[*before].0.readers[reader]);
        steps.push(format!("{name}: {reader:?}"));
        at = *before;
    }
    steps.reverse();
    steps
}

/// Explores a world with one rule taken away; the shortest way to `breach` must be found.
fn assert_needed(world: World, rules: Rules, breach: Breach) {
    let explored = explore(World { rules, ..world }, |found| found == breach);
    let steps = explored.counterexample;
    assert!(steps.is_some(), "{rules:?} never leads to {breach:?} in {} states", explored.states);
}

#[test]
fn a_query_runs_once_while_nothing_expires() {
    // Danger: a popular key expires, and every client runs its query at once.
    let explored = explore(CALM, |_| true);
    assert_eq!(explored.counterexample, None);
    assert!(explored.seen.served_by_another && explored.seen.lease_given_back);
}

#[test]
fn no_order_of_events_breaks_a_promise() {
    // Danger: deaths, expiry and late messages come in an order that nobody thought of.
    let explored = explore(STORM, |_| true);
    assert_eq!(explored.counterexample, None);
    // A model that never reaches what it is about proves nothing.
    let everything = Seen {
        takeover: true,
        late_fill_refused: true,
        lease_given_back: true,
        deadline: true,
        served_by_another: true,
    };
    assert_eq!(explored.seen, everything);
    assert!(explored.states > 10_000_000, "{} states", explored.states);
}

#[test]
fn without_nx_two_compute_at_once() {
    // Danger: a rule that this model cannot miss is a rule that it does not test.
    let rules = Rules { lease_is_nx: false, ..RULES };
    assert_needed(STORM, rules, Breach::TwoFillers);
    assert_needed(CALM, rules, Breach::ComputedTwice);
}

#[test]
fn without_the_second_look_a_filled_entry_is_computed_again() {
    // Danger: as above.
    let rules = Rules { looks_again: false, ..RULES };
    assert_needed(CALM, rules, Breach::ComputedTwice);
}

#[test]
fn without_the_token_in_the_fill_an_older_value_replaces_a_newer() {
    // Danger: as above.
    let rules = Rules { fill_checks_token: false, ..RULES };
    assert_needed(STORM, rules, Breach::OlderOverNewer);
}

#[test]
fn without_the_token_in_the_release_two_compute_at_once() {
    // Danger: as above.
    let rules = Rules { release_checks_token: false, ..RULES };
    assert_needed(STORM, rules, Breach::TwoFillers);
}
