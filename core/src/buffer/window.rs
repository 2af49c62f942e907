//! The position of the bytes in a buffer.

/// A queue of bytes in a buffer, from `start` to `end`: `start <= end <= buffer length`. An empty one
/// begins at the front. Every call must pass the same buffer.
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
        if self.start > 0 && self.end <= buffer.len() && self.start <= self.end {
            buffer.copy_within(self.start..self.end, 0);
            self.end = self.len();
            self.start = 0;
        }
        buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// Adds the first `len` bytes of the room in a buffer of `buffer_len` bytes.
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
