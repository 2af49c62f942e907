//! The connection to a node: commands out, answers in, in the same order.
//!
//! ```text
//!  push ──► out ──────────────► node
//!    └────► waiting ◄── parser ◄───┘
//!             │ the first that waits has this answer
//!             ▼
//!           settle
//! ```
//!
//! Commands gather in `out` while other tasks run, and leave in one piece when it is this one's turn: so
//! the more there is to do, the less each costs.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::connect::Duplex;
use super::reply::{BUFFER_LEN, Parser};
use super::{Engine, Node};
use crate::command::{ASKING, Request};

/// Bytes of memory that an idle connection keeps for its next commands.
const KEPT: usize = 64 << 10;

/// What is on its way on one connection.
#[derive(Default)]
pub(super) struct Wire {
    out: Vec<u8>,
    sent: usize,
    waiting: VecDeque<Waiting>,
    waker: Option<Waker>,
}

/// Whose answer comes next.
enum Waiting {
    /// Nobody's: that of an ASKING.
    Nobody,
    /// A request's. One whose time is over has been answered, and keeps its place.
    Request(Box<Request>),
}

impl Wire {
    /// Sends a request, as soon as it is this connection's turn.
    pub(super) fn push(&mut self, request: Box<Request>) {
        if request.asking {
            self.out.extend_from_slice(ASKING);
            self.waiting.push_back(Waiting::Nobody);
        }
        request.write(&mut self.out);
        self.waiting.push_back(Waiting::Request(request));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Answers the requests whose time is over; true if one of them has been sent to this node alone,
    /// and so has waited for it all the time.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut over = false;
        for waiting in &mut self.waiting {
            let Waiting::Request(request) = waiting else { continue };
            if request.deadline <= now {
                over |= request.hops == 0;
                request.expire();
            } else if request.hops == 0 {
                // Those behind it came later.
                break;
            }
        }
        over
    }

    /// Begins anew, and gives the requests that had no answer.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = Box<Request>> + use<> {
        let old = std::mem::take(self);
        old.waiting.into_iter().filter_map(|waiting| match waiting {
            Waiting::Nobody => None,
            Waiting::Request(request) => Some(request),
        })
    }

    /// Writes what there is; an error where the connection is over.
    fn write(&mut self, stream: &mut dyn Duplex, cx: &mut Context<'_>) -> io::Result<()> {
        let before = self.sent;
        while self.sent < self.out.len() {
            match Pin::new(&mut *stream).poll_write(cx, &self.out[self.sent..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(len) => self.sent += len?,
                Poll::Pending => break,
            }
        }
        if self.sent == self.out.len() {
            self.sent = 0;
            self.out.clear();
            self.out.shrink_to(KEPT);
        }
        if self.sent != before {
            // TLS keeps bytes until it is told to send them.
            if let Poll::Ready(flushed) = Pin::new(stream).poll_flush(cx) {
                flushed?;
            }
        }
        Ok(())
    }
}

/// Runs a connection until it is over, and says why.
pub(super) async fn run(
    node: &Node,
    engine: &Rc<Engine>,
    mut stream: Box<dyn Duplex>,
) -> io::Error {
    let mut buffer: Box<[u8]> = vec![0; BUFFER_LEN].into();
    let (mut len, mut parser) = (0, Parser::default());
    poll_fn(|cx| {
        loop {
            {
                let mut wire = node.wire.borrow_mut();
                if let Err(error) = wire.write(&mut *stream, cx) {
                    return Poll::Ready(error);
                }
                wire.waker = Some(cx.waker().clone());
            }
            let mut room = ReadBuf::new(&mut buffer[len..]);
            match Pin::new(&mut stream).poll_read(cx, &mut room) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Ready(Ok(())) => {}
            }
            let new = room.filled().len();
            if new == 0 {
                return Poll::Ready(io::ErrorKind::UnexpectedEof.into());
            }
            len += new;
            node.heard();
            match settle(node, engine, &mut parser, &buffer[..len]) {
                Ok(used) => {
                    buffer.copy_within(used..len, 0);
                    len -= used;
                }
                Err(error) => return Poll::Ready(error),
            }
        }
    })
    .await
}

/// Settles every request whose answer is there, and says how many bytes that took.
fn settle(
    node: &Node,
    engine: &Rc<Engine>,
    parser: &mut Parser,
    bytes: &[u8],
) -> io::Result<usize> {
    let mut used = 0;
    loop {
        let (len, answer) = parser.next(&bytes[used..])?;
        used += len;
        let Some(answer) = answer else { return Ok(used) };
        let waiting = node.wire.borrow_mut().waiting.pop_front();
        match waiting {
            Some(Waiting::Nobody) => {}
            Some(Waiting::Request(request)) => {
                node.unload(1);
                engine.settle(node, request, answer);
            }
            None => return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to nothing")),
        }
    }
}
