//! Requests of a client: on which connection each is sent, and what its answer means.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use distcache_core::id::Id;
use distcache_core::message::{ADD_FIXED_LEN, Add, Reply, Request, Status};
use distcache_core::wire::{Op, PAYLOAD_MAX};

use super::Client;
use super::connection::{Connection, Deadline};
use super::failure::{AddError, Failure, FailureKind};
use super::process::Process;

/// What the answers mean.
impl Client {
    /// Begins an operation and returns its deadline; fails during a pause.
    pub(super) fn begin(&self, op: Op) -> Result<Deadline, Failure> {
        if !self.pause.allows(self.timeout_ms.load(Ordering::Relaxed)) {
            return Err(self.failure(Some(op), FailureKind::Paused));
        }
        Ok(Deadline::after(self.timeout()))
    }

    /// Makes an ADD or a PUT.
    pub(super) fn store(&self, request: &Request<'_>, deadline: Deadline) -> Result<(), AddError> {
        if let Request::Add(add) | Request::Put(add) = request
            && ADD_FIXED_LEN + add.id.bytes().len() + add.session.len() > PAYLOAD_MAX
        {
            return Err(AddError::TooLarge);
        }
        match self.ask(request, deadline, |reply, _| status(reply)).map_err(AddError::Failed)? {
            Status::OK => Ok(()),
            Status::DISCONNECTED => Err(AddError::Failed(self.unreachable(request.op()))),
            refused => Err(AddError::Refused(refused)),
        }
    }

    /// Makes a PUT if the server supports it; `None` if it does not.
    pub(super) fn put_directly(
        &self,
        add: Add<'_>,
        deadline: Deadline,
    ) -> Option<Result<(), AddError>> {
        if self.level() < Op::Put.level() {
            return None;
        }
        match self.store(&Request::Put(add), deadline) {
            Err(AddError::Refused(Status::UNSUPPORTED)) => None,
            // So an old server acts that has replaced a new one.
            Err(AddError::Failed(failure)) if failure.kind().is_broken_connection() => None,
            result => Some(result),
        }
    }

    /// Makes a TAKE if the server supports it; `None` if it does not, or if the connection broke. In
    /// the second case `broken` is set: a session found nowhere may have been on that connection.
    pub(super) fn take_directly<T>(
        &self,
        id: Id<'_>,
        deadline: Deadline,
        read: &mut Option<impl FnOnce(&[u8]) -> T>,
        broken: &mut Option<Failure>,
    ) -> Option<Result<Option<T>, Failure>> {
        if self.level() < Op::Take.level() {
            return None;
        }
        let read = |session: &[u8]| read.take().map(|read| read(session));
        match self.fetch(&Request::Take(id), deadline, read) {
            Err(failure) if failure.is_unsupported() => None,
            Err(failure) if failure.kind().is_broken_connection() => {
                *broken = Some(failure);
                None
            }
            Ok(None) => Some(broken.take().map_or(Ok(None), Err)),
            taken => Some(taken.map(Option::flatten)),
        }
    }

    /// Makes a GET or a TAKE.
    pub(super) fn fetch<T>(
        &self,
        request: &Request<'_>,
        deadline: Deadline,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Failure> {
        let found = self.ask(request, deadline, |reply, resent| match (reply, resent) {
            (Reply::Session(session), _) => Ok(Some(read(session))),
            (Reply::Status(Status::DISCONNECTED), _) => Err(self.unreachable(request.op())),
            (Reply::Status(status @ Status::UNSUPPORTED), _) => {
                Err(self.failure(Some(request.op()), FailureKind::UnexpectedStatus(status)))
            }
            // The first attempt may have taken it.
            (Reply::Status(_), Some(kind)) if request.op() == Op::Take => {
                Err(self.failure(Some(Op::Take), kind))
            }
            (Reply::Status(_), _) => Ok(None),
        });
        found?
    }

    /// Makes a REMOVE or a HAVE.
    pub(super) fn whether(
        &self,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<bool, Failure> {
        self.answer(request, deadline).map(|(answer, _)| answer)
    }

    /// Makes a REMOVE or a HAVE; also returns why the request was sent twice, if it was.
    pub(super) fn answer(
        &self,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<(bool, Option<Failure>), Failure> {
        let failure = |kind| self.failure(Some(request.op()), kind);
        let read =
            |reply: Reply<'_>, resent: Option<FailureKind>| (status(reply), resent.map(failure));
        match self.ask(request, deadline, read)? {
            (Status::OK, resent) => Ok((true, resent)),
            (Status::NOT_OK, resent) => Ok((false, resent)),
            (Status::DISCONNECTED, _) => Err(self.unreachable(request.op())),
            (other, _) => Err(failure(FailureKind::UnexpectedStatus(other))),
        }
    }

    fn unreachable(&self, op: Op) -> Failure {
        self.failure(Some(op), FailureKind::ServerUnreachable)
    }

    pub(super) fn failure(&self, op: Option<Op>, kind: FailureKind) -> Failure {
        Failure { op, address: Arc::clone(&self.address), kind }
    }
}

/// Connections.
impl Client {
    /// Makes a request and calls `read` on the answer, together with the reason why the request was
    /// sent twice, if it was.
    fn ask<T>(
        &self,
        request: &Request<'_>,
        deadline: Deadline,
        read: impl FnOnce(Reply<'_>, Option<FailureKind>) -> T,
    ) -> Result<T, Failure> {
        let answered = self.exchange(request, deadline);
        self.pause.ended(matches!(answered, Err(FailureKind::TimedOut)));
        let (connection, resent) =
            answered.map_err(|kind| self.failure(Some(request.op()), kind))?;
        self.level.store(connection.level(), Ordering::Relaxed);
        let result = connection.reply().map(|reply| read(reply, resent));
        self.put_back(connection);
        result.ok_or_else(|| self.failure(Some(request.op()), FailureKind::Closed))
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

    fn put_back(&self, connection: Connection) {
        if self.settings.keep {
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

    fn level(&self) -> u16 {
        self.level.load(Ordering::Relaxed)
    }
}

/// The status in an answer that must not be a session.
fn status(reply: Reply<'_>) -> Status {
    match reply {
        Reply::Status(status) => status,
        Reply::Session(_) => Status::NOT_OK,
    }
}
