//! The settings of pg_cache, each declared once with why it has this default.
//!
//! `docs/configuration.md` holds the same sentences; a test compares them.

mod url;

use std::ffi::{CStr, CString, c_char};
use std::sync::OnceLock;
use std::time::Duration;

use pgrx::pg_sys;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

static URL: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"redis://127.0.0.1:6379"));
static PASSWORD_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static SCOPE_SETTINGS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
/// What connect-redis puts there unless told otherwise.
static SESSION_PREFIX: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"sess:"));
static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static CONNECT_TIMEOUT_MS: GucSetting<i32> = GucSetting::<i32>::new(500);
static TIMEOUT_MS: GucSetting<i32> = GucSetting::<i32>::new(200);
static LEASE_TIMEOUT_MS: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static FILL_WAIT_MS: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static VALUE_BYTES_MAX: GucSetting<i32> = GucSetting::<i32>::new(8 * 1024 * 1024);
static TTL_MAX: GucSetting<i32> = GucSetting::<i32>::new(30 * 24 * 3600);
static PLANS_MAX: GucSetting<i32> = GucSetting::<i32>::new(200);
static COMMIT_TIMEOUT_MS: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static PENDING_KEYS_MAX: GucSetting<i32> = GucSetting::<i32>::new(10_000);
/// As long as a commit takes that waits for its disk: readers compute for that long in any case.
static AHEAD_MS: GucSetting<i32> = GucSetting::<i32>::new(2);
static OUTBOX_MB_MAX: GucSetting<i32> = GucSetting::<i32>::new(1024);
static PENDING_EVENTS_BYTES_MAX: GucSetting<i32> = GucSetting::<i32>::new(64 * 1024 * 1024);
static QUEUE_VISIBILITY_MS: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static QUEUE_ATTEMPTS_MAX: GucSetting<i32> = GucSetting::<i32>::new(5);
static QUEUE_BACKOFF_MS: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static QUEUE_DONE_KEEP_S: GucSetting<i32> = GucSetting::<i32>::new(600);
static ON_UNREACHABLE: GucSetting<OnUnreachable> =
    GucSetting::<OnUnreachable>::new(OnUnreachable::Fence);
static TAG_TABLE: GucSetting<TagTable> = GucSetting::<TagTable>::new(TagTable::Auto);
static RATE_LIMIT_ON_UNREACHABLE: GucSetting<OnUnlimited> =
    GucSetting::<OnUnlimited>::new(OnUnlimited::Allow);
#[cfg(feature = "faults")]
static FAULT_POINT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// What a commit does that cannot reach Redis.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum OnUnreachable {
    #[name = c"fence"]
    Fence,
    #[name = c"error"]
    Error,
}

/// Where the tag table of a new registration is.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum TagTable {
    /// Standbys cannot look into their primary's memory.
    #[name = c"auto"]
    Auto,
    #[name = c"redis"]
    Redis,
    #[name = c"memory"]
    Memory,
}

/// What a rate limit answers that Redis cannot be asked for.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum OnUnlimited {
    #[name = c"allow"]
    Allow,
    #[name = c"deny"]
    Deny,
    #[name = c"error"]
    Error,
}

/// The wait for a cache must stay far below what a page may take.
const WAIT_MS_LONGEST: i32 = 60_000;

const HOUR_MS: i32 = 3_600_000;

/// Redis refuses strings above 512 MB.
const VALUE_BYTES_LARGEST: i32 = 512 * 1024 * 1024;

pub fn register() {
    register_connection();
    register_reading();
    register_commit();
    register_limits();
    register_queues();
    #[cfg(feature = "faults")]
    string(
        c"pg_cache.fault_point",
        c"Test builds only: what to do at which fault point.",
        &FAULT_POINT,
        GucContext::Suset,
        GucFlags::default(),
    );
}

fn register_connection() {
    // SAFETY: the check hook is guarded by #[pg_guard].
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"pg_cache.url",
            c"Where Redis listens: redis://[user[:password]@]host[:port][/db] or unix:///path.",
            c"Only superusers may see or change it: it may hold a password.",
            &URL,
            GucContext::Suset,
            GucFlags::SUPERUSER_ONLY,
            Some(url::check),
            None,
            None,
        );
    }
    string(
        c"pg_cache.password_file",
        c"A file with the password for Redis, so that no secret stands in a setting.",
        &PASSWORD_FILE,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    integer(
        GucContext::Userset,
        c"pg_cache.connect_timeout_ms",
        c"How long opening a connection to Redis may take, handshake included.",
        &CONNECT_TIMEOUT_MS,
        1..=WAIT_MS_LONGEST,
        GucFlags::UNIT_MS,
    );
    integer(
        GucContext::Userset,
        c"pg_cache.timeout_ms",
        c"How long one answer from Redis may take before the query is computed instead.",
        &TIMEOUT_MS,
        1..=WAIT_MS_LONGEST,
        GucFlags::UNIT_MS,
    );
}

/// What one session may do to entries that all share, only a superuser sets: a lease keeps others
/// out, a ttl and a size take room.
fn register_reading() {
    GucRegistry::define_bool_guc(
        c"pg_cache.enabled",
        c"Whether cached queries are answered from Redis; off computes each of them.",
        c"Concerns reading only.",
        &ENABLED,
        GucContext::Userset,
        GucFlags::default(),
    );
    integer(
        GucContext::Suset,
        c"pg_cache.lease_timeout_ms",
        c"How long one backend may compute an entry before another may take over.",
        &LEASE_TIMEOUT_MS,
        10..=HOUR_MS,
        GucFlags::UNIT_MS,
    );
    integer(
        GucContext::Userset,
        c"pg_cache.fill_wait_ms",
        c"How long to wait for another backend that computes the same entry.",
        &FILL_WAIT_MS,
        0..=HOUR_MS,
        GucFlags::UNIT_MS,
    );
    integer(
        GucContext::Suset,
        c"pg_cache.value_bytes_max",
        c"Results larger than this are returned and not stored.",
        &VALUE_BYTES_MAX,
        0..=VALUE_BYTES_LARGEST,
        GucFlags::UNIT_BYTE,
    );
    integer(
        GucContext::Suset,
        c"pg_cache.ttl_max",
        c"The longest ttl that a caller may ask for.",
        &TTL_MAX,
        1..=i32::MAX,
        GucFlags::UNIT_S,
    );
    integer(
        GucContext::Userset,
        c"pg_cache.plans_max",
        c"How many prepared queries a backend keeps; the least recently used goes first.",
        &PLANS_MAX,
        1..=100_000,
        GucFlags::default(),
    );
    string(
        c"pg_cache.scope_settings",
        c"Settings, separated by commas, whose values always separate entries.",
        &SCOPE_SETTINGS,
        GucContext::Suset,
        GucFlags::default(),
    );
    // Whoever may call the functions of sessions would otherwise choose which keys are sessions.
    string(
        c"pg_cache.session_prefix",
        c"What stands before the id of a session in its key.",
        &SESSION_PREFIX,
        GucContext::Suset,
        GucFlags::default(),
    );
}

/// What a commit may cost concerns everybody who waits for its locks.
fn register_commit() {
    integer(
        GucContext::Suset,
        c"pg_cache.commit_timeout_ms",
        c"How long a commit may wait for Redis before it goes on and owes.",
        &COMMIT_TIMEOUT_MS,
        1..=WAIT_MS_LONGEST,
        GucFlags::UNIT_MS,
    );
    integer(
        GucContext::Suset,
        c"pg_cache.pending_keys_max",
        c"How many keys a transaction keeps for its commit; beyond, they are deleted at once.",
        &PENDING_KEYS_MAX,
        1..=10_000_000,
        GucFlags::default(),
    );
    integer(
        GucContext::Suset,
        c"pg_cache.ahead_ms",
        c"How near its end a transaction must be, by habit, to tell Redis ahead of it; 0: never.",
        &AHEAD_MS,
        0..=WAIT_MS_LONGEST,
        GucFlags::UNIT_MS,
    );
    integer(
        GucContext::Suset,
        c"pg_cache.outbox_mb_max",
        c"How much may wait in redis_outbox before a durable event fails its transaction.",
        &OUTBOX_MB_MAX,
        1..=i32::MAX,
        GucFlags::UNIT_MB,
    );
    integer(
        GucContext::Suset,
        c"pg_cache.pending_events_bytes_max",
        c"How much of its messages a transaction keeps in memory; beyond, all go by the outbox.",
        &PENDING_EVENTS_BYTES_MAX,
        64 * 1024..=i32::MAX,
        GucFlags::UNIT_BYTE,
    );
    GucRegistry::define_enum_guc(
        c"pg_cache.on_unreachable",
        c"What a commit does that cannot reach Redis: fence readers by redis_debt, or fail.",
        c"",
        &ON_UNREACHABLE,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"pg_cache.tag_table",
        c"Where readers look for writers: redis or memory; auto: redis if there are standbys.",
        c"Memory needs shared_preload_libraries, and standbys compute.",
        &TAG_TABLE,
        GucContext::Suset,
        GucFlags::default(),
    );
}

/// A user who could set it would open his own gate by asking for a Redis that answers too late.
fn register_limits() {
    GucRegistry::define_enum_guc(
        c"pg_cache.rate_limit_on_unreachable",
        c"What redis_rate_limit answers if it cannot ask Redis: allow, deny, or an error.",
        c"",
        &RATE_LIMIT_ON_UNREACHABLE,
        GucContext::Suset,
        GucFlags::default(),
    );
}

/// A worker's own affair, but for what is kept for all of them.
fn register_queues() {
    integer(
        GucContext::Userset,
        c"pg_cache.queue_visibility_ms",
        c"How long a job that was handed out is its worker's; then another may get it.",
        &QUEUE_VISIBILITY_MS,
        10..=24 * HOUR_MS,
        GucFlags::UNIT_MS,
    );
    integer(
        GucContext::Userset,
        c"pg_cache.queue_attempts_max",
        c"How often a job is handed out before it is given up and kept among the dead.",
        &QUEUE_ATTEMPTS_MAX,
        1..=1_000_000,
        GucFlags::default(),
    );
    integer(
        GucContext::Userset,
        c"pg_cache.queue_backoff_ms",
        c"How long a failed job waits after its first attempt; each further one doubles it.",
        &QUEUE_BACKOFF_MS,
        0..=HOUR_MS,
        GucFlags::UNIT_MS,
    );
    integer(
        GucContext::Suset,
        c"pg_cache.queue_done_keep_s",
        c"How long redis_job_done keeps what was acknowledged, once Redis has confirmed it.",
        &QUEUE_DONE_KEEP_S,
        0..=i32::MAX,
        GucFlags::UNIT_S,
    );
}

fn string(
    name: &'static CStr,
    about: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    context: GucContext,
    flags: GucFlags,
) {
    GucRegistry::define_string_guc(name, about, c"", setting, context, flags);
}

fn integer(
    context: GucContext,
    name: &'static CStr,
    about: &'static CStr,
    setting: &'static GucSetting<i32>,
    range: std::ops::RangeInclusive<i32>,
    flags: GucFlags,
) {
    let (least, most) = (*range.start(), *range.end());
    GucRegistry::define_int_guc(name, about, c"", setting, least, most, context, flags);
}

/// A string setting without a copy: valid until the setting changes.
fn borrowed(setting: &'static GucSetting<Option<CString>>) -> &'static str {
    // SAFETY: points at the variable that guc.c keeps.
    let value: *mut c_char = unsafe { *setting.as_ptr().cast::<*mut c_char>() };
    if value.is_null() {
        return "";
    }
    // SAFETY: guc.c's strings end with NUL, and callers use the value before any SET can run.
    unsafe { CStr::from_ptr(value) }.to_str().unwrap_or("")
}

fn natural(setting: &GucSetting<i32>) -> u64 {
    u64::try_from(setting.get()).unwrap_or(0)
}

pub fn url() -> &'static str {
    borrowed(&URL)
}

pub fn password_file() -> &'static str {
    borrowed(&PASSWORD_FILE)
}

pub fn scope_settings() -> &'static str {
    borrowed(&SCOPE_SETTINGS)
}

pub fn session_prefix() -> &'static str {
    borrowed(&SESSION_PREFIX)
}

pub fn enabled() -> bool {
    ENABLED.get()
}

pub fn connect_timeout_ms() -> u64 {
    natural(&CONNECT_TIMEOUT_MS)
}

pub fn timeout_ms() -> u64 {
    natural(&TIMEOUT_MS)
}

/// The waits that stand in the server's own configuration.
static WAITS_OF_ALL: OnceLock<(u64, u64)> = OnceLock::new();

/// Remembers, in the postmaster, what the server's configuration says of waits: a session's own
/// settings are the user's, and may be as short as the user likes.
pub fn keep_waits() {
    let _ = WAITS_OF_ALL.set((timeout_ms(), connect_timeout_ms()));
}

/// Whether a request that waits this long, in a session with these settings, waits as long as all
/// others.
pub fn is_patient(timeout: Duration) -> bool {
    WAITS_OF_ALL.get().is_some_and(|(timeout_of_all_ms, connect_timeout_of_all_ms)| {
        timeout >= Duration::from_millis(*timeout_of_all_ms)
            && connect_timeout_ms() >= *connect_timeout_of_all_ms
    })
}

pub fn lease_timeout_ms() -> u64 {
    natural(&LEASE_TIMEOUT_MS)
}

pub fn fill_wait_ms() -> u64 {
    natural(&FILL_WAIT_MS)
}

/// What nobody was ever allowed to store more than.
pub fn value_bytes_largest() -> u64 {
    u64::try_from(VALUE_BYTES_LARGEST).unwrap_or(0)
}

pub fn value_bytes_max() -> usize {
    usize::try_from(VALUE_BYTES_MAX.get()).unwrap_or(0)
}

pub fn ttl_max_seconds() -> i64 {
    i64::from(TTL_MAX.get())
}

pub fn plans_max() -> usize {
    usize::try_from(PLANS_MAX.get()).unwrap_or(1)
}

pub fn commit_timeout_ms() -> u64 {
    natural(&COMMIT_TIMEOUT_MS)
}

pub fn pending_keys_max() -> usize {
    usize::try_from(PENDING_KEYS_MAX.get()).unwrap_or(1)
}

pub fn ahead_ms() -> u64 {
    natural(&AHEAD_MS)
}

pub fn outbox_mb_max() -> u64 {
    natural(&OUTBOX_MB_MAX)
}

pub fn pending_events_bytes_max() -> usize {
    usize::try_from(PENDING_EVENTS_BYTES_MAX.get()).unwrap_or(0)
}

pub fn queue_visibility_ms() -> u64 {
    natural(&QUEUE_VISIBILITY_MS)
}

pub fn queue_attempts_max() -> u64 {
    natural(&QUEUE_ATTEMPTS_MAX)
}

pub fn queue_backoff_ms() -> u64 {
    natural(&QUEUE_BACKOFF_MS)
}

pub fn queue_done_keep_s() -> u64 {
    natural(&QUEUE_DONE_KEEP_S)
}

pub fn on_unreachable_is_error() -> bool {
    ON_UNREACHABLE.get() == OnUnreachable::Error
}

pub fn tag_table() -> TagTable {
    TAG_TABLE.get()
}

pub fn rate_limit_on_unreachable() -> OnUnlimited {
    RATE_LIMIT_ON_UNREACHABLE.get()
}

#[cfg(feature = "faults")]
pub fn fault_point() -> &'static str {
    borrowed(&FAULT_POINT)
}

/// Reserves the prefix, so that a misspelt setting is an error and not a placeholder.
#[cfg(not(feature = "pg14"))]
pub fn reserve_prefix() {
    // SAFETY: only marks the prefix; runs once, when the library is loaded.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"pg_cache".as_ptr()) };
}

#[cfg(feature = "pg14")]
pub fn reserve_prefix() {
    // SAFETY: warns about placeholders of the prefix; 14 cannot do more.
    unsafe { pg_sys::EmitWarningsOnPlaceholders(c"pg_cache".as_ptr()) };
}
