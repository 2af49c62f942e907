//! The connection to a node: commands out, replies in, in the same order.
//!
//! ```text
//!  push ──► out ──────────────► node
//!    └────► waiting ◄── parser ◄───┘
//!             │ a reply belongs to the first that waits
//!             ▼
//!          receive
//! ```
//!
//! Commands gather in `out` while other tasks run, and are sent together in this task's turn. So under
//! load, each costs less.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::connect::Duplex;
use super::resp::{BUFFER_LEN, Parser};
use super::{Engine, Node};
use crate::command::{ASKING, Request};

/// The memory for commands that an idle connection keeps.
const KEPT: usize = 64 << 10;

/// The commands and requests of one connection.
#[derive(Default)]
pub(super) struct Pipeline {
    out: Vec<u8>,
    sent: usize,
    waiting: VecDeque<Waiting>,
    waker: Option<Waker>,
}

/// The owner of a reply to come.
enum Waiting {
    /// None: the reply to an ASKING, or a later reply to a request with more than one.
    Ignored,
    /// A request. After its deadline it is answered and keeps its place.
    Request(Box<Request>),
}

impl Pipeline {
    /// Queues a request, and wakes the task that sends it.
    pub(super) fn push(&mut self, mut request: Box<Request>) {
        request.restart();
        if request.asking {
            self.out.extend_from_slice(ASKING);
            self.waiting.push_back(Waiting::Ignored);
        }
        request.write(&mut self.out);
        let later = request.later_replies();
        self.waiting.push_back(Waiting::Request(request));
        self.waiting.extend(std::iter::repeat_with(|| Waiting::Ignored).take(later));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Makes a request wait for the last of its later replies.
    fn wait_on(&mut self, request: Box<Request>) {
        let last = request.later_replies().checked_sub(1);
        if let Some(place) = last.and_then(|last| self.waiting.get_mut(last)) {
            *place = Waiting::Request(request);
        }
    }

    /// Answers the requests whose deadline has passed. True if one of them was sent to this node only, and
    /// so has waited for it all the time.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut expired = false;
        for waiting in &mut self.waiting {
            let Waiting::Request(request) = waiting else { continue };
            if request.deadline <= now {
                expired |= request.hops == 0;
                request.expire();
            } else if request.hops == 0 {
                // Those behind it were sent later.
                break;
            }
        }
        expired
    }

    /// Empties it, and returns the requests without a reply.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = Box<Request>> + use<> {
        let old = std::mem::take(self);
        old.waiting.into_iter().filter_map(|waiting| match waiting {
            Waiting::Ignored => None,
            Waiting::Request(request) => Some(request),
        })
    }

    /// Writes as much as the system takes.
    ///
    /// # Errors
    /// The connection has failed.
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
            // TLS may hold bytes back until it is flushed.
            if let Poll::Ready(flushed) = Pin::new(stream).poll_flush(cx) {
                flushed?;
            }
        }
        Ok(())
    }
}

/// Runs a connection until it ends, and returns the reason.
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
                let mut pipeline = node.pipeline.borrow_mut();
                if let Err(error) = pipeline.write(&mut *stream, cx) {
                    return Poll::Ready(error);
                }
                pipeline.waker = Some(cx.waker().clone());
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
            node.replied();
            match receive(node, engine, &mut parser, &buffer[..len]) {
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

/// Handles every complete reply in `bytes`, and returns their length.
fn receive(
    node: &Node,
    engine: &Rc<Engine>,
    parser: &mut Parser,
    bytes: &[u8],
) -> io::Result<usize> {
    let mut used = 0;
    loop {
        let (len, value) = parser.next(&bytes[used..])?;
        used += len;
        let Some(value) = value else { return Ok(used) };
        let waiting = node.pipeline.borrow_mut().waiting.pop_front();
        match waiting {
            Some(Waiting::Ignored) => {}
            Some(Waiting::Request(mut request)) => {
                if request.take_first(value) {
                    node.pipeline.borrow_mut().wait_on(request);
                } else {
                    node.completed(1);
                    engine.receive(node, request, value);
                }
            }
            None => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a reply to no command"));
            }
        }
    }
}
