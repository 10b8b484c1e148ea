//! A duration as PostgreSQL's interval.

use std::time::Duration;

use pgrx::pg_sys;

pub fn datum(duration: Duration) -> pg_sys::Datum {
    let bytes = std::mem::size_of::<pg_sys::Interval>();
    // SAFETY: zeroed room for one interval in the current context.
    let interval = unsafe { pg_sys::palloc0(bytes) }.cast::<pg_sys::Interval>();
    let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    // SAFETY: just allocated.
    unsafe { (*interval).time = micros };
    pg_sys::Datum::from(interval)
}

/// The longest there is: from PostgreSQL 17 on that is 'infinity', and sorts behind all others
/// before it too.
pub fn endless() -> pg_sys::Datum {
    let longest = pg_sys::Interval { time: i64::MAX, day: i32::MAX, month: i32::MAX };
    let bytes = std::mem::size_of::<pg_sys::Interval>();
    // SAFETY: room for one interval in the current context.
    let interval = unsafe { pg_sys::palloc(bytes) }.cast::<pg_sys::Interval>();
    // SAFETY: just allocated.
    unsafe { interval.write(longest) };
    pg_sys::Datum::from(interval)
}
