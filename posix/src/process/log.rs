//! Lines to those who may have stopped reading.
//!
//! A pipe that nobody empties, or a terminal that somebody has stopped, keeps whoever writes to it
//! waiting. A loop that serves others can't wait for that: then the line is lost.

use std::fmt::{self, Write};
use std::os::fd::AsFd;

use arrayvec::ArrayString;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The longest line. A pipe in which there is room at all has room for it in one piece.
const LINE_MAX: usize = 512;

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Prints a line in one piece, and cut where it is longer than that; not at all where that would
/// mean to wait, or fails.
pub(crate) fn line(out: impl AsFd, line: fmt::Arguments<'_>) {
    let mut text = ArrayString::<LINE_MAX>::new();
    let _ = text.write_fmt(line);
    while text.is_full() {
        text.pop();
    }
    text.push('\n');
    let mut ready = [PollFd::new(&out, PollFlags::OUT)];
    if poll(&mut ready, Some(&AT_ONCE)).is_ok_and(|count| count > 0) {
        // A reader that is gone, or a full disk, is no reason to stop serving.
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
    fn a_line_that_is_too_long_still_ends() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        line(&writer, format_args!("{:é>1$}", "", LINE_MAX));
        line(&writer, format_args!("{:a>1$}", "", LINE_MAX));
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.lines().all(|line| line.len() < LINE_MAX) && text.ends_with("a\n"));
    }

    #[test]
    fn who_does_not_read_is_not_waited_for() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        for number in 0..100_000 {
            line(&writer, format_args!("line {number}"));
        }
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        // What was printed before it was full is whole.
        for (number, line) in text.lines().enumerate() {
            assert_eq!(line, format!("line {number}"));
        }
        assert!(text.ends_with('\n') && !text.contains("line 99999\n"));
    }

    #[test]
    fn who_is_gone_and_a_full_disk_are_no_matter() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        line(&writer, format_args!("nobody hears this"));
        if let Ok(full) = std::fs::File::options().write(true).open("/dev/full") {
            line(&full, format_args!("there is no room for this"));
        }
    }
}
