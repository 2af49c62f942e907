//! The requests of one client that are answered together.

use core::time::Duration;

use super::answer::{answer_client, answer_copy, answer_level_2};
use super::{Answered, Operations, Store};
use crate::id::Id;
use crate::message::{Request, STAMP_LEN, TTL_MAX, lower_ttl, raise_ttl};
use crate::time::{Instant, millis};
use crate::wire::{Direction, HEADER_LEN, Malformed, Message, Op};

/// The number of requests whose sessions are loaded into the processor's cache together.
const LOOKAHEAD: u32 = 16;
const AHEAD: usize = LOOKAHEAD as usize;

/// The bounds of lifetimes, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetimes {
    min: u32,
    max: u32,
}

impl Lifetimes {
    pub(super) const fn new(min: Duration, max: Duration) -> Self {
        const fn ttl(lifetime: Duration) -> u32 {
            let millis = millis(lifetime);
            if millis < TTL_MAX as u64 { millis as u32 } else { TTL_MAX }
        }
        Self { min: ttl(min), max: ttl(max) }
    }

    pub(super) const fn max(&self) -> u32 {
        self.max
    }
}

/// The requests of one client that are answered together.
pub(super) struct Batch<'a, S> {
    pub(super) now: Instant,
    pub(super) store: &'a mut S,
    pub(super) operations: &'a mut Operations,
    pub(super) lifetimes: Lifetimes,
    pub(super) allow_copy: bool,
    /// Bytes of requests answered.
    pub(super) used: usize,
    /// Bytes of answers.
    pub(super) written: usize,
}

/// Requests that were measured and will be answered next.
type Ahead = heapless::Vec<Message, AHEAD>;

/// Why a batch ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// There may be more requests, but it is another client's turn.
    Budget,
    /// The bytes behind the last request cannot become one.
    Malformed,
    /// The rest is the beginning of a request, or nothing.
    NeedsMore,
    /// The next answer has no room before others are sent.
    NoRoom,
}

impl<S: Store> Batch<'_, S> {
    pub(super) fn run(&mut self, input: &mut [u8], output: &mut [u8], budget: u32) -> End {
        let mut left = budget;
        loop {
            let mut ahead = Ahead::new();
            let rest = input.get(self.used..).unwrap_or_default();
            let end = look_ahead(rest, left.min(LOOKAHEAD), &mut ahead);
            if ahead.len() > 1 {
                self.prefetch(rest, &ahead);
            }
            for message in &ahead {
                let wire = input.get_mut(self.used..).unwrap_or_default();
                let wire = wire.get_mut(..message.wire_len).unwrap_or_default();
                let room = output.get_mut(self.written..).unwrap_or_default();
                if message.header.op.stores() {
                    let payload = wire.get_mut(HEADER_LEN..).unwrap_or_default();
                    raise_ttl(payload, self.lifetimes.min);
                    lower_ttl(payload, self.lifetimes.max);
                }
                let answered = if message.header.op.is_internal() {
                    answer_internal(self.now, self.store, self.terms(), message, wire, room)
                } else {
                    answer_client(self.now, self.store, message, wire, room)
                };
                match answered {
                    Ok(Some(answered)) => {
                        self.used = self.used.wrapping_add(message.wire_len);
                        self.written = self.written.wrapping_add(answered.len);
                        self.operations.count(message.header.op, answered.status);
                    }
                    Ok(None) => return End::NoRoom,
                    Err(_) => return End::Malformed,
                }
                left = left.wrapping_sub(1);
            }
            if let Some(end) = end {
                return end;
            }
            if left == 0 {
                return End::Budget;
            }
        }
    }

    /// The longest lifetime, and whether COPY is allowed.
    const fn terms(&self) -> (u32, bool) {
        (self.lifetimes.max, self.allow_copy)
    }

    /// Loads the sessions that the requests at the front of `requests` ask for into the cache.
    fn prefetch(&self, requests: &[u8], ahead: &Ahead) {
        let mut rest = requests;
        let mut ids = heapless::Vec::<Id<'_>, AHEAD>::new();
        for message in ahead {
            let Some((wire, behind)) = rest.split_at_checked(message.wire_len) else {
                break;
            };
            let op = message.header.op;
            if !op.stores()
                && let Ok(Ok(request)) = Request::parse(op, message.first_frame(wire))
            {
                // There is room for as many as there are messages.
                let _ = ids.push(request.id());
            }
            rest = behind;
        }
        self.store.prefetch(&ids);
    }
}

/// Answers an operation that proxies and servers have among themselves. It takes no [`Batch`], which
/// would have to be in memory then.
#[cold]
#[inline(never)]
fn answer_internal(
    now: Instant,
    store: &mut impl Store,
    (max_ttl, allow_copy): (u32, bool),
    message: &Message,
    wire: &mut [u8],
    room: &mut [u8],
) -> Result<Option<Answered>, Malformed> {
    match message.header.op {
        Op::Copy if allow_copy => return answer_copy(now, store, message, wire, room),
        Op::Repair => {
            // A lifetime that has begun is not raised.
            let add = wire.get_mut(HEADER_LEN.saturating_add(STAMP_LEN)..).unwrap_or_default();
            lower_ttl(add, max_ttl);
        }
        _ => (),
    }
    answer_level_2(now, store, message, wire, room)
}

/// Measures up to `most` requests at the front of `requests`. Returns why there are no more; `None` if
/// `most` is the reason.
fn look_ahead(requests: &[u8], most: u32, ahead: &mut Ahead) -> Option<End> {
    let mut rest = requests;
    for _ in 0..most {
        if rest.is_empty() {
            return Some(End::NeedsMore);
        }
        let message = match Message::measure(rest, Direction::Request) {
            Ok(Some(message)) => message,
            Ok(None) => return Some(End::NeedsMore),
            Err(_) => return Some(End::Malformed),
        };
        if ahead.push(message).is_err() {
            return None;
        }
        rest = rest.get(message.wire_len..).unwrap_or_default();
    }
    None
}
