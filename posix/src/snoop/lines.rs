//! The lines on their way out, which may show payloads: wiped as soon as they are written.

use std::io::{self, Write};

use zeroize::Zeroize;

/// Bytes that are written at once.
const CAPACITY: usize = 8192;
/// Room for any line. One is only begun where it fits, so that what is written ends with a line, and a
/// `Stdout` behind this keeps no part of it in a buffer of its own.
const LINE_MAX: usize = 1024;

/// A buffered writer that never moves its buffer, and wipes it.
pub(super) struct Lines<'o> {
    out: &'o mut dyn Write,
    buffer: Box<[u8; CAPACITY]>,
    len: usize,
}

impl<'o> Lines<'o> {
    pub(super) fn new(out: &'o mut dyn Write) -> Self {
        Self { out, buffer: Box::new([0; CAPACITY]), len: 0 }
    }

    /// Makes room for a line.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        match CAPACITY - self.len < LINE_MAX {
            true => self.write_out(),
            false => Ok(()),
        }
    }

    /// Writes out what is buffered. What cannot be written is lost.
    fn write_out(&mut self) -> io::Result<()> {
        let lines = &mut self.buffer[..self.len];
        let written = self.out.write_all(lines);
        lines.zeroize();
        self.len = 0;
        written
    }
}

impl Write for Lines<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.len == CAPACITY {
            self.write_out()?;
        }
        let room = &mut self.buffer[self.len..];
        let len = room.len().min(bytes.len());
        room[..len].copy_from_slice(&bytes[..len]);
        self.len += len;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out()?;
        self.out.flush()
    }
}

impl Drop for Lines<'_> {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sink that keeps each write.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_write_ends_with_a_line_and_leaves_nothing_behind() {
        let mut writes = Writes::default();
        let mut lines = Lines::new(&mut writes);
        let line = [&[b'x'; 299][..], b"\n"].concat();
        for _ in 0..100 {
            lines.begin().unwrap();
            lines.write_all(&line).unwrap();
        }
        lines.flush().unwrap();
        assert!(lines.buffer.iter().all(|byte| *byte == 0));
        drop(lines);
        assert!(
            writes.0.len() >= 4
                && writes.0.iter().all(|write| write.ends_with(b"\n") || write.is_empty())
        );
        assert_eq!(writes.0.concat(), line.repeat(100));
    }

    #[test]
    fn a_line_that_is_longer_than_the_buffer_is_written_whole() {
        let mut writes = Writes::default();
        let mut lines = Lines::new(&mut writes);
        let line = [b'x'; 3 * CAPACITY + 1];
        lines.begin().unwrap();
        lines.write_all(&line).unwrap();
        drop(lines);
        assert_eq!(writes.0.concat(), line);
    }
}
