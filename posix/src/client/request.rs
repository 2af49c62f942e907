//! Requests of a client, and the connections that they are sent on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use distcache_core::message::Request;
use distcache_core::wire::Op;

use super::Client;
use super::connection::{Connection, Deadline};
use super::failure::{Failure, FailureKind};
use super::process::Process;

impl Client {
    /// Begins an operation and returns its deadline; fails during a pause.
    pub(super) fn begin(&self, op: Op) -> Result<Deadline, Failure> {
        if !self.pause.allows(self.timeout_ms.load(Ordering::Relaxed)) {
            return Err(self.failure(Some(op), FailureKind::Paused));
        }
        Ok(Deadline::after(self.timeout()))
    }

    pub(super) fn failure(&self, op: Option<Op>, kind: FailureKind) -> Failure {
        Failure { op, address: Arc::clone(&self.address), kind }
    }

    /// Makes a request. Returns the connection with the answer, for [`put_back`](Self::put_back), and
    /// why the request was sent twice, if it was.
    pub(super) fn ask(
        &self,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<(Connection, Option<FailureKind>), Failure> {
        let answered = self.exchange(request, deadline);
        self.pause.ended(matches!(answered, Err(FailureKind::TimedOut)));
        let (connection, resent) =
            answered.map_err(|kind| self.failure(Some(request.op()), kind))?;
        self.level.store(connection.level(), Ordering::Relaxed);
        Ok((connection, resent))
    }

    /// Sends a request and receives its answer, which is then on the connection. Also returns why a
    /// first attempt on another connection failed, if there was one.
    fn exchange(
        &self,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<(Connection, Option<FailureKind>), FailureKind> {
        // The caller has checked the level; another thread may have lowered it since.
        let level = self.level().max(request.op().level());
        let mut resent = None;
        while let Some(mut connection) = self.take_kept() {
            // Nothing was sent yet, so another connection is not a second attempt.
            if connection.begin(request, level).is_err() {
                self.spare.put(connection.close());
                continue;
            }
            match self.finish(connection, deadline) {
                Err(kind) if kind.is_broken_connection() && self.settings.retry => {
                    resent = Some(kind);
                    break;
                }
                result => return result.map(|connection| (connection, None)),
            }
        }
        let mut connection = self.open(deadline)?;
        connection.begin(request, level)?;
        self.finish(connection, deadline).map(|connection| (connection, resent))
    }

    fn finish(
        &self,
        mut connection: Connection,
        deadline: Deadline,
    ) -> Result<Connection, FailureKind> {
        match connection.finish(deadline) {
            Ok(()) => Ok(connection),
            Err(kind) => {
                // The next connection may lead to another server.
                self.level.store(0, Ordering::Relaxed);
                self.spare.put(connection.close());
                Err(kind)
            }
        }
    }

    /// A kept connection that this process opened. Those of a parent process are dropped: on a shared
    /// one, each would read the other's answers.
    fn take_kept(&self) -> Option<Connection> {
        let process = Process::current();
        self.kept.take(|connection| connection.is_of(process))
    }

    /// Keeps a connection whose answer has been used, or the memory of one that is not kept.
    pub(super) fn put_back(&self, mut connection: Connection) {
        if self.settings.keep {
            connection.clear_reply();
            self.kept.put(connection);
        } else {
            self.spare.put(connection.close());
        }
    }

    pub(super) fn open(&self, deadline: Deadline) -> Result<Connection, FailureKind> {
        let (first, memory) = (self.target.load(Ordering::Relaxed), self.spare.take(|_| true));
        let (connection, target) = Connection::open(&self.targets, first, deadline, memory)?;
        self.target.store(target, Ordering::Relaxed);
        Ok(connection)
    }

    pub(super) fn level(&self) -> u16 {
        self.level.load(Ordering::Relaxed)
    }
}
