//! A queue of bytes in a pooled buffer.

use super::pool::{Buffer, Pool};
use super::window::{Window, wipe_front};
use crate::memory::Array;

/// A queue of bytes that has a pooled buffer only while it needs one.
///
/// Bytes are wiped when they leave the queue. What is written to the room and not reported with
/// [`Fifo::filled`] is not.
///
/// Every call must pass the same pool. Dropping a `Fifo` does not give its buffer back, and wipes
/// nothing: call [`Fifo::clear`] first, or [`Pool::reclaim`] later.
#[derive(Debug, Default)]
pub struct Fifo {
    pub(super) buffer: Option<Buffer>,
    kept: bool,
    /// Empty without a buffer.
    pub(super) window: Window,
}

impl Fifo {
    /// An empty queue without a buffer.
    pub const fn new() -> Self {
        Self { buffer: None, kept: false, window: Window::new() }
    }

    /// Whether it holds no bytes.
    pub const fn is_empty(&self) -> bool {
        self.window.is_empty()
    }

    /// The number of bytes held.
    pub const fn len(&self) -> usize {
        self.window.len()
    }

    /// The bytes held, oldest first.
    #[inline]
    pub fn bytes<'a>(&self, pool: &'a Pool<impl Array<u8>>) -> &'a [u8] {
        self.buffer.as_ref().map_or(&[], |buffer| self.window.bytes(pool.bytes(buffer)))
    }

    /// The bytes held, oldest first.
    #[inline]
    pub fn bytes_mut<'a>(&self, pool: &'a mut Pool<impl Array<u8>>) -> &'a mut [u8] {
        match &self.buffer {
            Some(buffer) => self.window.bytes_mut(pool.bytes_mut(buffer)),
            None => Default::default(),
        }
    }

    /// Whether it has a buffer, empty or not.
    pub const fn has_buffer(&self) -> bool {
        self.buffer.is_some()
    }

    /// Takes a buffer unless it has one; `false` if the pool has none left.
    pub fn reserve(&mut self, pool: &mut Pool<impl Array<u8>>) -> bool {
        if self.buffer.is_none() {
            self.buffer = pool.take();
        }
        self.buffer.is_some()
    }

    /// Takes a buffer and keeps it, even while it holds no bytes; `false` if the pool has none left.
    pub fn keep(&mut self, pool: &mut Pool<impl Array<u8>>) -> bool {
        self.kept = self.reserve(pool);
        self.kept
    }

    /// The room behind the bytes held, which first move to the front of the buffer. Empty if the buffer
    /// is full or the pool has none left.
    #[inline]
    pub fn space<'a>(&mut self, pool: &'a mut Pool<impl Array<u8>>) -> &'a mut [u8] {
        if !self.reserve(pool) {
            return Default::default();
        }
        match &self.buffer {
            Some(buffer) => self.window.space(pool.bytes_mut(buffer)),
            None => Default::default(),
        }
    }

    /// Adds the first `len` bytes of the room. If it still holds no bytes, its buffer goes back to the
    /// pool.
    pub fn filled(&mut self, pool: &mut Pool<impl Array<u8>>, len: usize) {
        if self.buffer.is_some() {
            self.window.filled(len, pool.buffer_len());
        }
        if self.is_empty() {
            self.release(pool);
        }
    }

    /// Gives back a buffer without bytes.
    #[cold]
    fn release(&mut self, pool: &mut Pool<impl Array<u8>>) {
        self.clear(pool);
    }

    /// Drops and wipes the `len` oldest bytes. Without bytes left, its buffer goes back to the pool.
    pub fn consume(&mut self, pool: &mut Pool<impl Array<u8>>, len: usize) {
        if self.window.is_all(len) {
            self.clear(pool);
        } else {
            self.consume_part(pool, len);
        }
    }

    #[inline(never)]
    fn consume_part(&mut self, pool: &mut Pool<impl Array<u8>>, len: usize) {
        if let Some(buffer) = &self.buffer {
            self.window.consume(pool.bytes_mut(buffer), len);
        }
    }

    /// Drops and wipes all bytes, and gives the buffer back.
    pub fn clear(&mut self, pool: &mut Pool<impl Array<u8>>) {
        let end = self.window.take();
        match self.buffer.take_if(|_| !self.kept) {
            Some(buffer) => pool.give(buffer, end),
            None => self.wipe_kept(pool, end),
        }
    }

    /// Wipes a buffer that is kept, or does nothing if there is none.
    #[inline(never)]
    fn wipe_kept(&self, pool: &mut Pool<impl Array<u8>>, end: usize) {
        if let Some(buffer) = &self.buffer {
            wipe_front(pool.bytes_mut(buffer), end);
        }
    }
}
