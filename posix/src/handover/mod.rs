//! Handover: a new server takes the place of a running one, and no client notices.
//!
//! Both are started with `-handover path`. The running one listens there, on its *door*. The new one,
//! its *successor*, connects first; if nobody listens it starts normally. Both are processes of the
//! same user, or one is root's. All sockets are passed as duplicates (`SCM_RIGHTS`), so until the last
//! step the old server has everything and can go on.
//!
//! ```text
//!  old server                                          successor
//!  serves      <────────── hello: version ──────────   options are checked
//!  serves      ─ welcome: version, listeners, pid file, pidfd ─►  binds listeners that are new
//!  serves      <──────── ready: what it takes ──────   detached, user changed, memory allocated
//!  serves, copies a piece a turn, logs changes
//!              ───────── sessions ──────────────────►  loads them; a sealed memory file
//!              <──────── copied ────────────────────
//!  stops reading; answers and sends what it can
//!              ── content: changes, clients' bytes ─►  memory files, sealed
//!              ──────── clients: 200 sockets ───────►  .. as often as needed
//!              <─────────── loaded: counts ─────────
//!  COMMIT      ───────────────── yours ─────────────►  owns pid file and socket paths, serves
//!  exits with 0
//! ```
//!
//! The packets are in [`message`], the clients' bytes in [`bytes`], the sessions in the format of
//! `-state`, and how they are copied in [`sessions`].
//!
//! The commit is one system call: the old server's send of *yours*. If it succeeds, the old server
//! never touches a socket again; the successor serves only after it. If it fails, the successor can
//! never receive it. So at no time do both serve. What happens when one of them dies, hangs or lies:
//!
//! | when                          | old server                      | successor                       |
//! |-------------------------------|---------------------------------|---------------------------------|
//! | successor, before *copied*    | serves on; nobody waited        | -                               |
//! | successor, after *copied*     | takes everything back: clients  | -                               |
//! |                               | waited for at most 10 s         |                                 |
//! | old server, before *loaded*   | -                               | exits with 1                    |
//! | old server, after *loaded*    | -                               | serves: it has everything, and  |
//! |                               |                                 | the pidfd says the other is dead|
//! | successor, after *yours*      | has exited                      | -                               |
//!
//! A successor that has sent *loaded* has received all packets. So if the old server gives up after
//! that, its *refused* arrives before the end of the connection, and cannot be mistaken for its death.
//!
//! A successor of another major version, or with counts that are wrong, is refused. An old server of
//! another major version is refused by the successor, which exits with 1. Minor versions add fields,
//! which older ones ignore.
//!
//! Until *copied* the old server serves its clients, and copies at most 512 KiB of its table a turn. From
//! *copied* to *yours* it does nothing else, and its clients wait; their connections queue in the listeners.
//! Datagrams wait in their socket, too. After a handover that has failed, the clients' timeouts start
//! again, since nothing could be received from them.

mod bytes;
mod channel;
mod door;
mod give;
mod message;
mod pass;
mod sessions;
mod take;

use std::fmt;
use std::io;

use arrayvec::ArrayString;
use distcache_core::machine::Machine;
use distcache_core::server::{ClientSlot, Tracked, Transfer};
use distcache_core::slots::Key;
use distcache_core::table::Line;
use distcache_core::{Array, Instant, Server, Table};

pub(crate) use door::Door;
pub(crate) use give::Handover;
use message::REASON_MAX;
pub(crate) use sessions::LOG_LEN;
#[allow(unreachable_pub, reason = "it is in public errors")]
pub use take::TakeError;
pub(crate) use take::{Predecessor, take_over};

/// A machine whose clients can move to another process.
pub(crate) trait Movable: Machine {
    /// The memory of its table.
    type Lines: Array<Line>;

    /// A client's bytes; `None` if it is being closed.
    fn export(&self, key: Key) -> Option<Transfer<'_>>;

    /// Takes in a client; `None` if there is no place or buffer for it.
    fn import(&mut self, now: Instant, client: Transfer<'_>) -> Option<Key>;

    /// Starts a client's timeouts again.
    fn restart_timeout(&mut self, now: Instant, key: Key);

    /// The sessions.
    fn table(&self) -> &Table<Self::Lines>;

    /// The sessions, for changes that are not logged.
    fn table_mut(&mut self) -> &mut Table<Self::Lines>;

    /// Begins or ends the log of changes.
    fn log_changes(&mut self, log: bool);

    /// The log of changes; `None` if there is none, or it was too short.
    fn changes(&self) -> Option<&[u8]>;
}

impl<M, L, C, B> Movable for Server<Tracked<Table<M>, L>, C, B>
where
    M: Array<Line>,
    L: Array<u8>,
    C: Array<ClientSlot>,
    B: Array<u8>,
{
    type Lines = M;

    fn export(&self, key: Key) -> Option<Transfer<'_>> {
        self.export(key)
    }

    fn import(&mut self, now: Instant, client: Transfer<'_>) -> Option<Key> {
        self.import(now, client)
    }

    fn restart_timeout(&mut self, now: Instant, key: Key) {
        self.restart_timeout(now, key);
    }

    fn table(&self) -> &Table<M> {
        self.store()
    }

    fn table_mut(&mut self) -> &mut Table<M> {
        self.store_mut()
    }

    fn log_changes(&mut self, log: bool) {
        if log {
            self.store_mut().begin();
        } else {
            self.store_mut().end();
        }
    }

    fn changes(&self) -> Option<&[u8]> {
        self.store().changes()
    }
}

/// Why a handover failed, seen from either side.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The peer has closed its end, or died.
    Ended(&'static str),
    /// The peer did nothing for too long.
    Late(&'static str),
    /// The peer sent something else than what this step allows.
    Unexpected(&'static str),
    /// The peer gave up, and says why.
    Refused(ArrayString<REASON_MAX>),
    /// The peer speaks another major version of the handover, and is of this version of the program.
    Version(u8, ArrayString<REASON_MAX>),
    /// The peer is a process of another user.
    User(u32),
    /// The step that failed, and the system's error.
    System(&'static str, io::Error),
}

impl Failure {
    /// The failure of a step that sends or receives.
    fn of(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| match error.kind() {
            io::ErrorKind::TimedOut => Self::Late(step),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Ended(step),
            _ => Self::System(step, error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(step) => write!(f, "the other side ended before it could {step}"),
            Self::Late(step) => write!(f, "the other side took too long to {step}"),
            Self::Unexpected(step) => {
                write!(f, "the other side sent something invalid where it had to {step}")
            }
            Self::Refused(reason) => write!(f, "the other side refused: {reason}"),
            Self::Version(major, build) => write!(
                f,
                "the other side, version {build}, speaks version {major} of the handover and this \
                 one {}",
                message::MAJOR
            ),
            Self::User(uid) => write!(f, "the other side is a process of user {uid}"),
            Self::System(step, error) => write!(f, "cannot {step}: {error}"),
        }
    }
}
