//! Owns the decision whether to try a server that has failed, for all backends together.
//!
//! Invariant: while a server is down, one backend at a time finds that out. A few failures in a
//! row, with no success of anybody between them, open it; then one try goes ahead after each delay,
//! and everybody else is refused without waiting. Without it each of 500 backends waits out the
//! same dead server, again and again. One word of memory holds it all, so that a look costs one
//! load and nobody ever waits for a lock.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{LONGEST_MS, delay_ms};

/// Failures in a row before it opens. One backend's alone prove little: its value may be too large
/// for its timeout. A success of any other in between takes them back.
pub const STRIKES: u8 = 3;

/// Addresses that are told apart; a backend of a further one has its own breaker only.
const ADDRESSES_MAX: usize = 64;

/// Bits of the word, from the lowest: failures, delay, time of the last failure.
const FAILURE_BITS: u32 = 8;
const DELAY_BITS: u32 = 16;

/// May the server be tried?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Nothing is known against it.
    Free,
    /// It failed a while ago: this one try finds out, and nobody else tries meanwhile.
    Probe,
    /// It failed a moment ago.
    Refused { retry_in_ms: u64 },
}

/// What is known of a server. A pure state machine; `SharedBreaker` holds it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    failures: u8,
    /// Zero while it is closed.
    delay_ms: u64,
    since_ms: u64,
}

impl State {
    fn unpack(word: u64) -> Self {
        let delay_mask = (1 << DELAY_BITS) - 1;
        Self {
            failures: (word & ((1 << FAILURE_BITS) - 1)) as u8,
            delay_ms: (word >> FAILURE_BITS) & delay_mask,
            since_ms: word >> (FAILURE_BITS + DELAY_BITS),
        }
    }

    fn pack(self) -> u64 {
        let delay_ms = self.delay_ms.min((1 << DELAY_BITS) - 1);
        let since_ms = self.since_ms << (FAILURE_BITS + DELAY_BITS);
        since_ms | delay_ms << FAILURE_BITS | u64::from(self.failures)
    }

    fn is_open(self) -> bool {
        self.delay_ms > 0
    }

    fn retry_in_ms(self, now_ms: u64) -> u64 {
        match now_ms.checked_sub(self.since_ms) {
            Some(passed_ms) => self.delay_ms.saturating_sub(passed_ms),
            None => 0,
        }
    }

    /// Who finds the delay over takes the try, and with it a delay for all others: it may die.
    fn admit(self, now_ms: u64, probe_ms: u64) -> (Self, Permit) {
        if !self.is_open() {
            return (self, Permit::Free);
        }
        match self.retry_in_ms(now_ms) {
            0 => {
                let delay_ms = probe_ms.clamp(1, LONGEST_MS);
                (Self { delay_ms, since_ms: now_ms, ..self }, Permit::Probe)
            }
            retry_in_ms => (self, Permit::Refused { retry_in_ms }),
        }
    }

    /// Those who were under way when it opened say nothing new: else 500 of them at once would
    /// make the first delay the longest one.
    fn failed(self, permit: Permit, now_ms: u64, random: u64) -> Self {
        if self.is_open() && permit != Permit::Probe {
            return self;
        }
        let failures = self.failures.saturating_add(1);
        let delay_ms = match failures.checked_sub(STRIKES) {
            Some(doublings) => delay_ms(doublings.into(), random),
            None => 0,
        };
        Self { failures, delay_ms, since_ms: now_ms }
    }
}

/// The breaker of one address.
#[derive(Default)]
#[repr(C, align(64))]
pub struct SharedBreaker {
    address: AtomicU64,
    /// Zero: nothing is known against the server.
    state: AtomicU64,
}

impl SharedBreaker {
    /// Whether the server may be tried now; a probe that does not come back is over by `probe_ms`.
    pub fn admit(&self, now_ms: u64, probe_ms: u64) -> Permit {
        self.change(|state| state.admit(now_ms, probe_ms))
    }

    /// A try failed in a way that tells of the server. Says whether the breaker is open now.
    pub fn failed(&self, permit: Permit, now_ms: u64, random: u64) -> bool {
        self.change(|state| {
            let next = state.failed(permit, now_ms, random);
            (next, next.is_open())
        })
    }

    /// A try succeeded.
    pub fn succeeded(&self) {
        if self.state.load(Relaxed) != 0 {
            self.state.store(0, Relaxed);
        }
    }

    /// Whether the server is in trouble as far as is known, be it time for a try or not.
    pub fn is_open(&self) -> bool {
        State::unpack(self.state.load(Relaxed)).is_open()
    }

    /// How long calls are answered without a try from now on; zero if they are not.
    pub fn open_ms(&self, now_ms: u64) -> u64 {
        State::unpack(self.state.load(Relaxed)).retry_in_ms(now_ms)
    }

    pub fn failures(&self) -> u32 {
        State::unpack(self.state.load(Relaxed)).failures.into()
    }

    /// Each turn of the loop means that somebody else's change was made.
    fn change<T>(&self, decide: impl Fn(State) -> (State, T)) -> T {
        let mut word = self.state.load(Relaxed);
        loop {
            let (next, told) = decide(State::unpack(word));
            let next = next.pack();
            if next == word {
                return told;
            }
            match self.state.compare_exchange_weak(word, next, Relaxed, Relaxed) {
                Ok(_) => return told,
                Err(found) => word = found,
            }
        }
    }
}

/// The breakers of all addresses.
#[repr(C)]
pub struct Breakers([SharedBreaker; ADDRESSES_MAX]);

impl Default for Breakers {
    fn default() -> Self {
        Self(std::array::from_fn(|_| SharedBreaker::default()))
    }
}

impl Breakers {
    /// The one of the server that these settings lead to; `None` if there are too many.
    pub fn of(&self, settings: &[&str]) -> Option<&SharedBreaker> {
        let mut hasher = DefaultHasher::new();
        settings.hash(&mut hasher);
        let address = hasher.finish() | 1;
        let start = (address >> 1) as usize;
        (0..ADDRESSES_MAX).map(|step| &self.0[(start + step) % ADDRESSES_MAX]).find(|breaker| {
            match breaker.address.compare_exchange(0, address, Relaxed, Relaxed) {
                Ok(_) => true,
                Err(taken) => taken == address,
            }
        })
    }
}

#[cfg(test)]
mod tests;
