//! `redis_rate_limit(key, max, per, burst, cost)`: at once, whatever becomes of the transaction.

use std::time::Duration;

use pg_cache_core::error::{Error, Limits};
use pg_cache_core::gcra::{self, Limit};

use crate::limit::{self, Answer};
use crate::pg::call::Call;
use crate::pg::error::{Outcome, Raised};
use crate::pg::{Datum, arguments, guc, interval, record, ttl};

sql_function!(redis_rate_limit, pg_finfo_redis_rate_limit, rate_limit);

fn rate_limit(call: &Call) -> Outcome<Datum> {
    let key = arguments::for_redis(call.datum(0), "key")?;
    if key.is_empty() {
        return Err(Error::from(Limits::KeyEmpty).into());
    }
    let max = integer(call, 1, "max")?;
    let per_ms = ttl::read(call, 2).map_err(|raised| match raised {
        Raised::Refused(error) => Raised::Refused(Limits::of_per(error)),
        other => other,
    })?;
    let burst = call.datum(3).map(|burst| burst.value() as i32);
    let cost = gcra::cost(integer(call, 4, "cost")?)?;
    let limit = Limit::new(max, per_ms, burst, guc::ttl_max_seconds())?;
    Ok(row(call, &limit::decide(&key, &limit, cost)?))
}

fn integer(call: &Call, index: usize, name: &'static str) -> Result<i32, Error> {
    let value = call.datum(index).ok_or(Limits::Null { name })?;
    Ok(value.value() as i32)
}

fn row(call: &Call, answer: &Answer) -> Datum {
    let number = |number: u64| Some(Datum::from(i32::try_from(number).unwrap_or(i32::MAX)));
    let time = |micros: u64| interval::datum(Duration::from_micros(micros));
    let (allowed, limit, remaining, retry_after, reset_after) = match answer {
        Answer::Undecided { allowed, limit } => (allowed, limit, None, None, None),
        Answer::Decided(told) => (
            &told.allowed,
            &told.limit,
            number(told.remaining),
            told.retry_after_micros.map(time),
            Some(time(told.reset_after_micros)),
        ),
    };
    let allowed = Some(Datum::from(*allowed));
    record::datum(call, &[allowed, number(*limit), remaining, retry_after, reset_after])
}
