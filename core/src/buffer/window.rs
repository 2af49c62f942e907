//! The position of the bytes in a buffer.

use core::mem;
use zeroize::Zeroize;

/// Bytes that are wiped together.
const LINE: usize = 64;

/// A queue of bytes in a buffer, from `start` to `end`: `start <= end <= buffer length`. An empty one
/// begins at the front. Every call must pass the same buffer.
///
/// Bytes are wiped as they leave: whatever was [`filled`](Window::filled) is either held or wiped.
#[derive(Debug, Default)]
pub(crate) struct Window {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Window {
    pub(crate) const fn new() -> Self {
        Self { start: 0, end: 0 }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) const fn len(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// The bytes held, oldest first.
    #[inline]
    pub(crate) fn bytes<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// The bytes held, oldest first.
    #[inline]
    pub(crate) fn bytes_mut<'a>(&self, buffer: &'a mut [u8]) -> &'a mut [u8] {
        buffer.get_mut(self.start..self.end).unwrap_or_default()
    }

    /// The room behind the bytes held, which first move to the front of the buffer.
    #[inline]
    pub(crate) fn space<'a>(&mut self, buffer: &'a mut [u8]) -> &'a mut [u8] {
        if self.start > 0 {
            self.compact(buffer);
        }
        buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// Moves the bytes held to the front of the buffer, and wipes those that they leave behind.
    fn compact(&mut self, buffer: &mut [u8]) {
        if self.end > buffer.len() || self.start > self.end {
            return;
        }
        buffer.copy_within(self.start..self.end, 0);
        let len = self.len();
        wipe(buffer, self.start.max(len), self.end);
        (self.start, self.end) = (0, len);
    }

    /// Adds the first `len` bytes of the room in a buffer of `buffer_len` bytes.
    #[inline]
    pub(crate) fn filled(&mut self, len: usize, buffer_len: usize) {
        self.end = self.end.saturating_add(len).min(buffer_len);
    }

    /// Whether `len` bytes are all that it holds.
    #[inline]
    pub(crate) const fn is_all(&self, len: usize) -> bool {
        self.start.saturating_add(len) >= self.end
    }

    /// Drops and wipes the `len` oldest bytes.
    #[inline]
    pub(crate) fn consume(&mut self, buffer: &mut [u8], len: usize) {
        if self.is_all(len) {
            return wipe_front(buffer, self.take());
        }
        let start = self.start.saturating_add(len);
        wipe(buffer, self.start, start);
        self.start = start;
    }

    /// Drops all bytes, and returns where they ended: the caller wipes the buffer up to there.
    #[inline]
    pub(crate) const fn take(&mut self) -> usize {
        mem::replace(self, Self::new()).end
    }
}

/// The front of a buffer as lines, as many as hold its first `end` bytes; `None` if the last of them is
/// not whole.
#[inline]
pub(super) fn lines(buffer: &mut [u8], end: usize) -> Option<&mut [[u8; LINE]]> {
    let lines = end.wrapping_add(LINE - 1) / LINE;
    buffer.as_chunks_mut().0.get_mut(..lines)
}

/// Wipes lines: for most messages, this short loop takes fewer instructions than a call of memset.
#[inline]
pub(super) fn wipe_lines(lines: &mut [[u8; LINE]]) {
    lines.iter_mut().for_each(|line| line.as_mut_slice().zeroize());
}

/// Wipes the first `end` bytes of a buffer, and perhaps some behind them: nothing there is held.
#[inline(never)]
pub(super) fn wipe_front(buffer: &mut [u8], end: usize) {
    match lines(buffer, end) {
        Some(lines) => wipe_lines(lines),
        None => wipe(buffer, 0, end),
    }
}

/// Wipes the bytes from `start` to `end`.
#[cold]
#[inline(never)]
pub(super) fn wipe(buffer: &mut [u8], start: usize, end: usize) {
    if let Some(bytes) = buffer.get_mut(start..end) {
        bytes.zeroize();
    }
}
