//! What code that waits needs of the backend: interrupts, wait events, fault points, the clock.

use std::time::{Duration, Instant};

use pgrx::pg_sys;

/// Between two tries to get a lock, or to see what another commits.
const TRY_PAUSE: Duration = Duration::from_millis(2);

/// What this backend waits for, as `pg_stat_activity` names it where the server version allows.
#[derive(Clone, Copy)]
pub enum Event {
    Connect,
    Send,
    Reply,
    /// Another backend computes the entry that this one wants.
    Fill,
    /// The worker has nothing to do, or waits for transactions that end before it may go on.
    Worker,
}

/// Raises if a cancel, a timeout or a termination is pending.
pub fn check_interrupts() {
    pgrx::check_for_interrupts!();
}

pub fn wait_started(event: Event) {
    report_wait(number(event));
}

pub fn wait_ended() {
    report_wait(0);
}

/// What pgstat_report_wait_start and pgstat_report_wait_end do, which are inline in C.
fn report_wait(event: u32) {
    // SAFETY: points at a word of this backend, in shared memory or not.
    let word = unsafe { pg_sys::my_wait_event_info };
    // SAFETY: as above; whoever reads it for pg_stat_activity reads it whole.
    unsafe { word.write_volatile(event) };
}

/// Before 17 an extension has one wait event without a name of its own.
#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
pub fn number(_event: Event) -> u32 {
    pg_sys::PG_WAIT_EXTENSION
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
pub fn number(event: Event) -> u32 {
    use std::cell::Cell;
    thread_local! {
        static EVENTS: [Cell<u32>; 5] = const { [const { Cell::new(0) }; 5] };
    }
    let name = match event {
        Event::Connect => c"PgCacheRedisConnect",
        Event::Send => c"PgCacheRedisSend",
        Event::Reply => c"PgCacheRedisReply",
        Event::Fill => c"PgCacheRedisFill",
        Event::Worker => c"PgCacheWorker",
    };
    EVENTS.with(|events| {
        let known = &events[event as usize];
        if known.get() == 0 {
            // SAFETY: looks the name up in shared memory, or adds it, under its own lock.
            known.set(unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) });
        }
        known.get()
    })
}

/// Keeps cancels pending while it lives, as HOLD_INTERRUPTS does.
pub struct HoldInterrupts;

impl HoldInterrupts {
    pub fn start() -> Self {
        // SAFETY: a counter of the backend; lowered again by Drop.
        unsafe { pg_sys::InterruptHoldoffCount += 1 };
        Self
    }
}

impl Drop for HoldInterrupts {
    fn drop(&mut self) {
        // SAFETY: a counter of the backend.
        let held = unsafe { pg_sys::InterruptHoldoffCount };
        // SAFETY: raised by `start`; an ERROR in between resets it to zero, so never below that.
        unsafe { pg_sys::InterruptHoldoffCount = held.saturating_sub(1) };
    }
}

/// How often interrupts are held at a moment. An ERROR that is caught has set both to zero.
pub struct Holdoffs {
    interrupts: u32,
    cancels: u32,
}

impl Holdoffs {
    pub fn now() -> Self {
        // SAFETY: a counter of the backend.
        let interrupts = unsafe { pg_sys::InterruptHoldoffCount };
        // SAFETY: as above.
        let cancels = unsafe { pg_sys::QueryCancelHoldoffCount };
        Self { interrupts, cancels }
    }

    pub fn restore(&self) {
        // SAFETY: a counter of the backend, as it was before.
        unsafe { pg_sys::InterruptHoldoffCount = self.interrupts };
        // SAFETY: as above.
        unsafe { pg_sys::QueryCancelHoldoffCount = self.cancels };
    }
}

/// Sleeps between two looks at somebody else's fill; a cancel ends it.
pub fn pause(milliseconds: u64) {
    check_interrupts();
    wait_started(Event::Fill);
    std::thread::sleep(Duration::from_millis(milliseconds));
    wait_ended();
    check_interrupts();
}

/// Tries until there is something, or the time is up; a cancel ends it.
pub fn until<T>(limit: Duration, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = attempt() {
            return Some(found);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        pause_for(TRY_PAUSE.min(left));
    }
}

/// Sleeps; a cancel ends it.
pub fn pause_for(time: Duration) {
    check_interrupts();
    std::thread::sleep(time);
    check_interrupts();
}

/// Milliseconds of a clock that never goes back, for the breaker and deadlines.
pub fn monotonic_ms() -> u64 {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// Starts the clock that all children of this process have in common.
pub fn start_clock() {
    monotonic_ms();
}

/// Bits for jitter and lease tokens, from PostgreSQL's strong source.
pub fn random() -> u64 {
    let mut bytes = [0u8; 8];
    // SAFETY: fills exactly these bytes.
    let strong = unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), bytes.len()) };
    if strong { u64::from_le_bytes(bytes) } else { monotonic_ms() }
}

/// Random bytes that nobody can guess; none if the system has none.
pub fn strong_random<const BYTES: usize>() -> Option<[u8; BYTES]> {
    let mut bytes = [0u8; BYTES];
    // SAFETY: fills exactly these bytes.
    let strong = unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), bytes.len()) };
    (strong && !skips("host.random")).then_some(bytes)
}

/// Random bytes for an id that is no secret.
pub fn random_bytes<const BYTES: usize>() -> [u8; BYTES] {
    strong_random().unwrap_or_else(|| {
        let mut bytes = [0; BYTES];
        bytes.fill_with(|| random() as u8);
        bytes
    })
}

/// When the postmaster started, as a timestamptz.
pub fn started_at() -> pg_sys::Datum {
    // SAFETY: set once, before any backend runs.
    pg_sys::Datum::from(unsafe { pg_sys::PgStartTime })
}

/// The process id of this backend.
pub fn pid() -> i32 {
    // SAFETY: a global of the backend.
    unsafe { pg_sys::MyProcPid }
}

/// Test builds only: whether the guard of this name is to be left out, so that a test can show what
/// it is good for.
#[cfg(feature = "faults")]
pub fn skips(guard: &'static str) -> bool {
    fault_action(guard) == Some("skip")
}

/// What the setting says of a name: it is a list of `name:action` by commas.
#[cfg(feature = "faults")]
fn fault_action(name: &str) -> Option<&'static str> {
    let all = super::guc::fault_point().split(',').filter_map(|one| one.split_once(':'));
    all.into_iter().find(|(point, _)| *point == name).map(|(_, action)| action)
}

/// Says at `PATH.met` that somebody is here, and waits until there is something at `PATH`, or the
/// place is gone: whoever comes behind a test would hold up the DROP DATABASE of another.
#[cfg(feature = "faults")]
fn await_file(path: &str) {
    const TIME_MAX: Duration = Duration::from_secs(60);
    let start = Instant::now();
    let met = format!("{path}.met");
    let _ = std::fs::write(&met, "");
    let exists = |path: &str| std::path::Path::new(path).exists();
    while exists(&met) && !exists(path) && start.elapsed() < TIME_MAX {
        std::thread::sleep(TRY_PAUSE);
    }
}

#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn skips(_guard: &'static str) -> bool {
    false
}

#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn fault_point(_name: &'static str) {}

/// Test builds only: does what `pg_cache.fault_point` says if it names this point.
#[cfg(feature = "faults")]
pub fn fault_point(name: &'static str) {
    let Some(action) = fault_action(name) else { return };
    match action {
        "panic" => panic!("fault point {name}"),
        "error" => pgrx::error!("fault point {name}"),
        // SAFETY: ends this backend as a FATAL would.
        "exit" => unsafe { pg_sys::proc_exit(1) },
        _ if action.starts_with("await_") => await_file(&action["await_".len()..]),
        _ => {
            let pause_ms = action.strip_prefix("sleep_").and_then(|ms| ms.parse().ok());
            std::thread::sleep(Duration::from_millis(pause_ms.unwrap_or(0)));
        }
    }
}
