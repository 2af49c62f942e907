//! Decisions drawn from the bytes of a fuzzer.

/// Bytes that are used up decision by decision. When none are left, all decisions are 0.
#[derive(Clone, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Creates decisions from all of `data`.
    pub const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Returns whether all bytes are used.
    pub const fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the next byte.
    pub fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    /// Returns a number below `bound`, which must be at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    /// Returns the next 8 bytes as a number.
    pub fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | u64::from(self.byte()))
    }

    /// Returns the bytes that are left.
    pub const fn rest(self) -> &'a [u8] {
        self.0
    }
}
