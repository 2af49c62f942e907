//! One direction of a connection: bytes in flight, in order, each with its time of arrival.

use distcache_core::time::Instant;
use std::collections::VecDeque;

/// How a direction ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// After the bytes: the writer has ended its side.
    Finished,
    /// At once: the connection is reset, and unread bytes are lost.
    Reset,
}

/// What a reader finds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Readable {
    /// Nothing has arrived.
    Nothing,
    /// The number of bytes that have arrived, at least 1.
    Bytes(usize),
    /// No bytes are left, and no more will come.
    Ended(Ending),
}

/// One direction of a connection.
#[derive(Debug)]
pub struct Pipe {
    bytes: VecDeque<u8>,
    /// Times of arrival, and how many of `bytes` arrive then; in order.
    arrivals: VecDeque<(Instant, usize)>,
    end: Option<(Instant, Ending)>,
    capacity: usize,
    /// What has not arrived never arrives, and neither end is told.
    is_black_hole: bool,
}

impl Pipe {
    /// Creates an empty pipe that holds up to `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        let (bytes, arrivals) = (VecDeque::new(), VecDeque::new());
        Self { bytes, arrivals, end: None, capacity, is_black_hole: false }
    }

    /// Returns how many bytes it takes now.
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.bytes.len())
    }

    /// Takes bytes, which arrive at `at`, or after those before them.
    pub fn push(&mut self, at: Instant, bytes: &[u8]) {
        let at = self.arrivals.back().map_or(at, |(last, _)| at.max(*last));
        if self.end.is_none() && !bytes.is_empty() {
            self.bytes.extend(bytes);
            match self.arrivals.back_mut() {
                _ if self.is_black_hole => (),
                Some((last, len)) if *last == at => *len += bytes.len(),
                _ => self.arrivals.push_back((at, bytes.len())),
            }
        }
    }

    /// Ends the direction. After `Finished` only `Reset` has an effect.
    pub fn end(&mut self, at: Instant, ending: Ending) {
        match (self.end, ending) {
            (None, _) | (Some((_, Ending::Finished)), Ending::Reset) => {
                self.end = Some((at, ending));
            }
            _ => (),
        }
    }

    /// Silently loses all that has not arrived, and all that follows.
    pub fn black_hole(&mut self, now: Instant) {
        self.arrivals.retain(|(at, _)| *at <= now);
        self.is_black_hole = true;
    }

    /// Returns whether it silently loses what is sent.
    pub const fn is_black_hole(&self) -> bool {
        self.is_black_hole
    }

    /// Lets everything in flight arrive at once, and lifts the capacity.
    pub fn heal(&mut self, now: Instant) {
        self.capacity = usize::MAX / 2;
        for (at, _) in &mut self.arrivals {
            *at = now.min(*at);
        }
        if let Some((at, _)) = &mut self.end {
            *at = now.min(*at);
        }
    }

    /// Returns what the reader finds.
    pub fn readable(&self, now: Instant) -> Readable {
        if let Some((at, Ending::Reset)) = self.end
            && at <= now
        {
            return Readable::Ended(Ending::Reset);
        }
        let here = self.here(now);
        match self.end {
            _ if here > 0 => Readable::Bytes(here),
            Some((at, ending)) if at <= now && self.bytes.is_empty() && !self.is_black_hole => {
                Readable::Ended(ending)
            }
            _ => Readable::Nothing,
        }
    }

    fn here(&self, now: Instant) -> usize {
        self.arrivals.iter().take_while(|(at, _)| *at <= now).map(|(_, len)| len).sum()
    }

    /// Moves up to `out.len()` bytes that have arrived to `out`, and returns how many.
    pub fn take(&mut self, now: Instant, out: &mut [u8]) -> usize {
        let len = self.here(now).min(out.len());
        for (to, from) in out.iter_mut().zip(self.bytes.drain(..len)) {
            *to = from;
        }
        let mut left = len;
        while let Some((_, count)) = self.arrivals.front_mut() {
            if *count > left {
                *count -= left;
                break;
            }
            left -= *count;
            self.arrivals.pop_front();
        }
        len
    }

    /// Returns when the reader will find something new.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let end = self.end.map(|(at, _)| at).filter(|at| *at > now);
        let bytes = self.arrivals.iter().map(|(at, _)| *at).find(|at| *at > now);
        [end, bytes].into_iter().flatten().min()
    }
}
