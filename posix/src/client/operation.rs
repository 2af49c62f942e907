//! One operation: as many requests as it takes with this server, within one deadline.

use distcache_core::client::{Next, Operation, Outcome};
use distcache_core::message::{ADD_FIXED_LEN, Reply, Request, Status};
use distcache_core::wire::{Op, PAYLOAD_MAX};
use zeroize::Zeroizing;

use super::Client;
use super::failure::{AddError, Failure, FailureKind};

/// The result of an operation.
enum Done<T> {
    /// What `read` made of the session.
    Session(T),
    /// The status that answered the last request.
    Status(Op, Status),
}

impl Client {
    /// ADD or PUT.
    pub(super) fn store(&self, request: &Request<'_>) -> Result<(), AddError> {
        match &self.seal {
            Some(seal) => self.store_sealed(seal, request),
            None => self.store_as_is(request),
        }
    }

    /// GET or TAKE.
    pub(super) fn fetch<T>(
        &self,
        request: &Request<'_>,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Failure> {
        match &self.seal {
            Some(seal) => self.fetch_sealed(seal, request, read),
            None => self.fetch_as_is(request, read),
        }
    }

    /// ADD or PUT of these bytes.
    pub(super) fn store_as_is(&self, request: &Request<'_>) -> Result<(), AddError> {
        if let Request::Add(add) | Request::Put(add) = request
            && ADD_FIXED_LEN + add.id.bytes().len() + add.session.len() > PAYLOAD_MAX
        {
            return Err(AddError::TooLarge);
        }
        match self.operate(request, |_| ()).map_err(AddError::Failed)? {
            Done::Session(()) | Done::Status(_, Status::OK) => Ok(()),
            Done::Status(op, status @ Status::DISCONNECTED)
            | Done::Status(op @ Op::Remove, status) => {
                Err(AddError::Failed(self.unexpected(op, status)))
            }
            Done::Status(_, refused) => Err(AddError::Refused(refused)),
        }
    }

    /// GET or TAKE of the bytes that the server has.
    pub(super) fn fetch_as_is<T>(
        &self,
        request: &Request<'_>,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Failure> {
        match self.operate(request, read)? {
            Done::Session(session) => Ok(Some(session)),
            Done::Status(Op::Remove, Status::NOT_OK) => Ok(None),
            Done::Status(op, status @ (Status::DISCONNECTED | Status::UNSUPPORTED))
            | Done::Status(op @ Op::Remove, status) => Err(self.unexpected(op, status)),
            Done::Status(..) => Ok(None),
        }
    }

    /// REMOVE or HAVE.
    pub(super) fn whether(&self, request: &Request<'_>) -> Result<bool, Failure> {
        match self.operate(request, |_| ())? {
            Done::Status(_, Status::OK) => Ok(true),
            Done::Session(()) | Done::Status(_, Status::NOT_OK) => Ok(false),
            Done::Status(op, status) => Err(self.unexpected(op, status)),
        }
    }

    fn operate<T>(
        &self,
        asked: &Request<'_>,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Done<T>, Failure> {
        let deadline = self.begin(asked.op())?;
        let mut operation = Operation::new(asked.op(), self.level());
        let (mut kept, mut lost) = (None, None);
        let (connection, op, outcome) = loop {
            let request = operation.request(asked);
            // A session that could not be copied stays on the server.
            if asked.op() == Op::Take && request.op() == Op::Remove && kept.is_none() {
                return Err(self.failure(Some(Op::Take), FailureKind::OutOfMemory));
            }
            let (connection, resent) = match self.ask(&request, deadline) {
                Err(failure) if failure.kind().is_broken_connection() && operation.broken() => {
                    lost = Some(failure);
                    continue;
                }
                answered => answered?,
            };
            if let Some(kind) = resent {
                operation.repeated();
                lost.get_or_insert(self.failure(Some(request.op()), kind));
            }
            let Some(reply) = connection.reply() else {
                return Err(self.failure(Some(request.op()), FailureKind::Closed));
            };
            match (operation.answered(connection.level(), reply), reply) {
                (Next::Done(outcome), _) => break (connection, request.op(), outcome),
                (Next::Keep, Reply::Session(session)) => kept = try_copy(session),
                (Next::Keep | Next::Ask, _) => {}
            }
            self.put_back(connection);
        };
        let done = match (outcome, connection.reply()) {
            (Outcome::Kept, _) => Ok(Done::Session(read(&kept.unwrap_or_default()))),
            (Outcome::Session, Some(Reply::Session(session))) => Ok(Done::Session(read(session))),
            (Outcome::Status(status), _) => Ok(Done::Status(op, status)),
            (Outcome::Lost | Outcome::Session, _) => {
                Err(lost.unwrap_or_else(|| self.failure(Some(op), FailureKind::Closed)))
            }
        };
        self.put_back(connection);
        done
    }

    fn unexpected(&self, op: Op, status: Status) -> Failure {
        let kind = match status {
            Status::DISCONNECTED => FailureKind::ServerUnreachable,
            status => FailureKind::UnexpectedStatus(status),
        };
        self.failure(Some(op), kind)
    }
}

/// A copy of a session, wiped on drop; `None` if there is no memory for it.
fn try_copy(session: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut copy = Zeroizing::new(Vec::new());
    copy.try_reserve_exact(session.len()).ok()?;
    copy.extend_from_slice(session);
    Some(copy)
}
