//! Owns the one segment of shared memory, where the library was preloaded.
//!
//! Invariant: the segment is asked for once, in the postmaster, and is all zero until the first
//! backend uses it; whoever has no segment works for itself alone. PostgreSQL makes it anew after
//! a crash, when every process that knew the old one is gone.

use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use pg_cache_core::counters::Shared;
use pg_cache_core::tagtable::memory::Table;
use pgrx::pg_sys;

#[repr(C)]
struct Segment {
    shared: Shared,
    tags: Table,
}

static SEGMENT: AtomicPtr<Segment> = AtomicPtr::new(null_mut());

type Hook = Option<unsafe extern "C-unwind" fn()>;

#[cfg(not(feature = "pg14"))]
static FORMER_REQUEST: OnceLock<Hook> = OnceLock::new();
static FORMER_STARTUP: OnceLock<Hook> = OnceLock::new();

/// Whether the postmaster loads the library, before it has any child.
pub fn is_preloading() -> bool {
    // SAFETY: a global of the process.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Asks for the segment. In the postmaster, while it preloads libraries.
pub fn reserve() {
    #[cfg(feature = "pg14")]
    request();
    #[cfg(not(feature = "pg14"))]
    {
        // SAFETY: a hook of the process, which has one thread.
        let former = unsafe { pg_sys::shmem_request_hook };
        if FORMER_REQUEST.set(former).is_ok() {
            // SAFETY: as above; the library is never unloaded.
            unsafe { pg_sys::shmem_request_hook = Some(on_request) };
        }
    }
    // SAFETY: as above.
    let former = unsafe { pg_sys::shmem_startup_hook };
    if FORMER_STARTUP.set(former).is_ok() {
        // SAFETY: as above.
        unsafe { pg_sys::shmem_startup_hook = Some(on_startup) };
    }
}

#[cfg(not(feature = "pg14"))]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_request() {
    if let Some(Some(former)) = FORMER_REQUEST.get() {
        // SAFETY: whoever was there before us.
        unsafe { former() };
    }
    request();
}

fn request() {
    // SAFETY: at the moment when extensions may ask for room.
    unsafe { pg_sys::RequestAddinShmemSpace(size_of::<Segment>()) };
}

/// Called by the postmaster alone: where processes are forked, nobody else starts memory up. So
/// there is nobody to lock out.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_startup() {
    if let Some(Some(former)) = FORMER_STARTUP.get() {
        // SAFETY: whoever was there before us.
        unsafe { former() };
    }
    let (name, mut found) = (c"pg_cache", false);
    // SAFETY: the room was asked for; raises if there is none.
    let start =
        unsafe { pg_sys::ShmemInitStruct(name.as_ptr(), size_of::<Segment>(), &raw mut found) };
    if !found {
        // SAFETY: our own segment, of this size, which nobody uses yet.
        unsafe { start.cast::<u8>().write_bytes(0, size_of::<Segment>()) };
    }
    SEGMENT.store(start.cast(), Ordering::Release);
}

fn segment() -> Option<&'static Segment> {
    let segment = SEGMENT.load(Ordering::Acquire);
    // SAFETY: NULL, or a segment aligned to a cache line that lives as long as this process; all
    // zero is a valid `Segment`, and nothing in it is ever changed but by atomic operations.
    unsafe { segment.as_ref() }
}

/// What all backends share; `None` where the library was not preloaded.
pub fn shared() -> Option<&'static Shared> {
    segment().map(|segment| &segment.shared)
}

/// The tag table of this server, under the same condition.
pub fn tags() -> Option<&'static Table> {
    segment().map(|segment| &segment.tags)
}
