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
