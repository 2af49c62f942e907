//! Where in a buffer the bytes are that it holds.

/// The bytes of a buffer from `start` to `end`, first in first out: `start <= end`, and `end` is at
/// most the buffer's length. Empty, it begins at the front. All calls take the same buffer.
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

    /// The room behind what is held, with all that is held moved to the front of the buffer first.
    #[inline]
    pub(crate) fn space<'a>(&mut self, buffer: &'a mut [u8]) -> &'a mut [u8] {
        if self.start > 0 && self.end <= buffer.len() && self.start <= self.end {
            buffer.copy_within(self.start..self.end, 0);
            self.end = self.len();
            self.start = 0;
        }
        buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// Takes in the first `len` bytes that were written to the room in a buffer of `buffer_len`.
    #[inline]
    pub(crate) fn filled(&mut self, len: usize, buffer_len: usize) {
        self.end = self.end.saturating_add(len).min(buffer_len);
    }

    /// Drops the `len` oldest bytes.
    #[inline]
    pub(crate) fn consume(&mut self, len: usize) {
        self.start = self.start.saturating_add(len).min(self.end);
        if self.is_empty() {
            *self = Self::new();
        }
    }
}
