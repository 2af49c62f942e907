//! Log lines that never block.
//!
//! Writing to a full pipe or a stopped terminal blocks. The event loop cannot wait, so the line is
//! dropped instead.

use std::fmt::{self, Write};
use std::os::fd::AsFd;

use arrayvec::ArrayString;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The longest line, in bytes with its newline. A pipe that is ready for writing has room for it
/// (`PIPE_BUF` is at least 512).
const LINE_MAX: usize = 512;

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Prints a line with one write, cut to [`LINE_MAX`]. Drops it if writing would block or fails.
pub(crate) fn line(out: impl AsFd, line: fmt::Arguments<'_>) {
    let mut text = ArrayString::<LINE_MAX>::new();
    let _ = text.write_fmt(line);
    while text.is_full() {
        text.pop();
    }
    text.push('\n');
    let mut ready = [PollFd::new(&out, PollFlags::OUT)];
    if poll(&mut ready, Some(&AT_ONCE)).is_ok_and(|count| count > 0) {
        // A closed reader or a full disk must not stop the program.
        let _ = rustix::io::write(&out, text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_line_is_printed_in_one_piece() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        line(&writer, format_args!("{} and {}", 1, "two"));
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "1 and two\n");
    }

    #[test]
    fn a_long_line_is_cut_and_still_ends() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        line(&writer, format_args!("{:é>1$}", "", LINE_MAX));
        line(&writer, format_args!("{:a>1$}", "", LINE_MAX));
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.lines().all(|line| line.len() < LINE_MAX) && text.ends_with("a\n"));
    }

    #[test]
    fn a_reader_that_does_not_read_does_not_block() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        for number in 0..100_000 {
            line(&writer, format_args!("line {number}"));
        }
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        // The lines before the pipe was full are complete.
        for (number, line) in text.lines().enumerate() {
            assert_eq!(line, format!("line {number}"));
        }
        assert!(text.ends_with('\n') && !text.contains("line 99999\n"));
    }

    #[test]
    fn a_closed_reader_and_a_full_disk_are_ignored() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        line(&writer, format_args!("no reader"));
        if let Ok(full) = std::fs::File::options().write(true).open("/dev/full") {
            line(&full, format_args!("no space"));
        }
    }
}
