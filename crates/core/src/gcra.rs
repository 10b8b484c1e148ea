//! Owns the arithmetic of a rate limit: the generic cell rate algorithm, exact.
//!
//! A limit of `max` per `period` lets one request through every `period / max`, its interval, and
//! `burst` more at once. All that is remembered is the theoretical arrival time: when the limit
//! will be as if nobody had ever asked. What lies between now and then is the debt.
//!
//! Invariant: a debt is a whole number of microseconds and a rest in units of `1 / max`
//! microsecond, so nothing is ever rounded while a limit is counted, and no number that goes to the
//! script reaches 2^53, from where on Lua would round. If an interval of a third of a second were
//! rounded, each request would be counted a little too cheap, and every limit drift from its rate.

use crate::error::{Error, Limits};

const MICROS_PER_SECOND: u64 = 1_000_000;
const MICROS_PER_MILLI: u64 = 1_000;

/// `limit` is an integer in SQL.
pub const BURST_MAX: i32 = i32::MAX - 1;

/// A time in microseconds, with a rest in units of `1 / max` of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exact {
    pub micros: u64,
    pub rest: u64,
}

impl Exact {
    pub const ZERO: Self = Self { micros: 0, rest: 0 };

    fn of(units: u128, max: u64) -> Self {
        let (micros, rest) = (units / u128::from(max), units % u128::from(max));
        Self { micros: micros as u64, rest: rest as u64 }
    }

    fn units(self, max: u64) -> u128 {
        u128::from(self.micros) * u128::from(max) + u128::from(self.rest)
    }

    fn plus(self, other: Self, max: u64) -> Self {
        let (micros, rest) = (self.micros + other.micros, self.rest + other.rest);
        match rest.checked_sub(max) {
            Some(rest) => Self { micros: micros + 1, rest },
            None => Self { micros, rest },
        }
    }
}

/// What stands under a limit's key: when its debt is paid, and in which units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    pub at: Exact,
    pub max: u64,
}

impl Arrival {
    /// As the script writes it.
    pub fn text(&self) -> String {
        format!("{} {} {}", self.at.micros, self.at.rest, self.max)
    }
}

/// A rate and a burst, within the bounds that keep them exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    max: u64,
    period_micros: u64,
    /// One more than the burst.
    limit: u64,
}

/// What a caller is told: the five answers of redis-cell, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub limit: u64,
    pub remaining: u64,
    /// None where redis-cell says -1: allowed, or never to be.
    pub retry_after_micros: Option<u64>,
    pub reset_after_micros: u64,
}

/// One request as the script wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub max: u64,
    pub cost: Exact,
    pub capacity: Exact,
}

impl Limit {
    /// Without a burst, `max` requests may come at once. How long a limit takes to be as if nobody
    /// had asked is bounded, for so long does its key live.
    pub fn new(
        max: i32,
        period_ms: u64,
        burst: Option<i32>,
        reset_seconds_max: i64,
    ) -> Result<Self, Error> {
        let max = within("max", max, 1, i32::MAX)?;
        let burst = match burst {
            Some(burst) => within("burst", burst, 0, BURST_MAX)?,
            None => max - 1,
        };
        let period_micros = period_ms.saturating_mul(MICROS_PER_MILLI);
        let limit = Self { max, period_micros, limit: burst + 1 };
        let reset_micros = (limit.units(limit.limit)).div_ceil(u128::from(max));
        if reset_micros > reset_seconds_max.max(0) as u128 * u128::from(MICROS_PER_SECOND) {
            let seconds = reset_micros.div_ceil(u128::from(MICROS_PER_SECOND));
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
            return Err(Limits::ResetTooLong { seconds, max_seconds: reset_seconds_max }.into());
        }
        Ok(limit)
    }

    /// What so many requests cost, in units of `1 / max` microsecond.
    fn units(&self, requests: u64) -> u128 {
        u128::from(self.period_micros) * u128::from(requests)
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What the script is to be told.
    pub fn terms(&self, cost: u64) -> Terms {
        let capacity = Exact::of(self.units(self.limit), self.max);
        let cost = match cost > self.limit {
            // Never allowed, and by how much does not matter: the number may be too large for Lua.
            true => Exact { micros: capacity.micros + 1, ..capacity },
            false => Exact::of(self.units(cost), self.max),
        };
        Terms { max: self.max, cost, capacity }
    }

    /// What the script decides, and what stands under the key after it.
    pub fn decide(
        &self,
        found: Option<Arrival>,
        now_micros: u64,
        cost: u64,
    ) -> (Decision, Option<Arrival>) {
        let debt = found.map_or(Exact::ZERO, |arrival| self.debt(arrival, now_micros));
        let terms = self.terms(cost);
        let after = debt.plus(terms.cost, self.max);
        if after > terms.capacity {
            return (self.told(false, debt, cost), found);
        }
        let at = Exact { micros: now_micros + after.micros, ..after };
        let left = if cost == 0 { found } else { Some(Arrival { at, max: self.max }) };
        (self.told(true, after, cost), left)
    }

    /// What is still to be paid. A rest in other units is a microsecond: nobody gets anything back
    /// by asking under another rate.
    fn debt(&self, arrival: Arrival, now_micros: u64) -> Exact {
        let Some(micros) = arrival.at.micros.checked_sub(now_micros) else { return Exact::ZERO };
        match arrival.at.rest {
            rest if arrival.max == self.max => Exact { micros, rest },
            0 => Exact { micros, rest: 0 },
            _ => Exact { micros: micros + 1, rest: 0 },
        }
    }

    /// What a decision means to the caller, by the debt after it.
    pub fn told(&self, allowed: bool, debt: Exact, cost: u64) -> Decision {
        let (owed, capacity) = (debt.units(self.max), self.units(self.limit));
        let left = capacity.saturating_sub(owed) / u128::from(self.period_micros);
        let wait = (owed + self.units(cost)).saturating_sub(capacity);
        let in_micros = |units: u128| units.div_ceil(u128::from(self.max)) as u64;
        Decision {
            allowed,
            limit: self.limit,
            remaining: left as u64,
            retry_after_micros: (!allowed && cost <= self.limit).then(|| in_micros(wait)),
            reset_after_micros: in_micros(owed),
        }
    }
}

/// A cost as SQL gives it. Zero only looks.
pub fn cost(given: i32) -> Result<u64, Error> {
    within("cost", given, 0, i32::MAX)
}

fn within(name: &'static str, given: i32, least: i32, most: i32) -> Result<u64, Error> {
    match u64::try_from(given) {
        Ok(number) if (least..=most).contains(&given) => Ok(number),
        _ => Err(Limits::OutOfRange { name, given, least, most }.into()),
    }
}

#[cfg(test)]
mod tests;
