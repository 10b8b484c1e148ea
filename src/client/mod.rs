//! The way to Redis: one connection a backend, with a deadline on every wait.
//!
//! Nothing here knows PostgreSQL: what a wait needs of its host (interrupts, wait events, fault
//! points) comes in as a [`Host`].

pub mod failure;
pub mod inbox;
pub mod limits;
pub mod link;
pub mod making;
pub mod messages;
pub mod queues;
pub mod relay;
pub mod scripts;
pub mod server;
pub mod session;
pub mod sessions;
pub mod tokens;
pub mod transport;
pub mod unlink;

/// What this process is waiting for, for its name in `pg_stat_activity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Connect,
    Send,
    Reply,
}

/// What the transport asks of the process that it runs in.
#[derive(Clone, Copy)]
pub struct Host {
    pub wait_started: fn(Wait),
    pub wait_ended: fn(),
    /// Raises (unwinds) if the user cancelled or a timeout struck. Whatever owns the connection is
    /// dropped by the unwinding, so an interrupted connection is never used again.
    pub check_interrupts: fn(),
    pub fault_point: fn(&'static str),
}
