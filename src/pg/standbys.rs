//! Whether standbys replay what this server writes.

use pgrx::pg_sys;

/// Whether any does now. A backup or an archive that receives the log replays nothing.
pub fn is_any() -> bool {
    // SAFETY: a global of the backend, set when it attaches to shared memory.
    let control = unsafe { pg_sys::WalSndCtl };
    if control.is_null() {
        return false;
    }
    // SAFETY: as above; the array stays where it is.
    let first = unsafe { &raw const (*control).walsnds }.cast::<pg_sys::WalSnd>();
    // SAFETY: a setting of the server, which never changes while it runs.
    let count = usize::try_from(unsafe { pg_sys::max_wal_senders }).unwrap_or(0);
    (0..count).any(|place| {
        // SAFETY: the array has as many members as there may be senders.
        let sender = unsafe { first.add(place) };
        // SAFETY: as above. Others write it: each field for itself is what it is or was.
        let sender = unsafe { sender.read_volatile() };
        replays(&sender)
    })
}

fn replays(sender: &pg_sys::WalSnd) -> bool {
    let streams = sender.pid != 0 && sender.state == pg_sys::WalSndState::WALSNDSTATE_STREAMING;
    // Whoever only receives tells no position up to which it has replayed.
    if !streams || sender.apply == 0 {
        return false;
    }
    // SAFETY: looks under the lock of the array of processes; NULL if it has gone.
    let process = unsafe { pg_sys::BackendPidGetProc(sender.pid) };
    // Logical replication is of a database.
    // SAFETY: NULL, or a place in shared memory that stays, whoever has it by now.
    unsafe { process.as_ref() }.is_some_and(|process| process.databaseId == pg_sys::InvalidOid)
}
