//! Secrets, and the search for them in the memory of other processes.
//!
//! A secret is random, so a copy of a part of it is no accident. The search looks for pieces of 16 bytes,
//! at every offset: a copy whose beginning or end is overwritten is found, too.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::process::until;

/// Bytes of a piece that is searched for.
const PIECE: usize = 16;
/// Bytes of the secret in a session.
pub const SECRET_LEN: usize = 208;
const PAGE: u64 = 4096;
/// Pages read at once.
const PAGES_AT_ONCE: u64 = 256;

/// A session of [`SECRET_LEN`] random bytes.
///
/// This process keeps it masked, so that it can search a process that it shares memory with.
pub struct Secret {
    masked: Vec<u8>,
    mask: u8,
}

/// Where pieces of a secret were found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Copies {
    /// For each piece, counted from 0: the addresses and the names of their mappings.
    pieces: BTreeMap<usize, Vec<(u64, String)>>,
}

impl Copies {
    /// Returns whether nothing was found.
    pub fn is_none(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The most places at which one piece was found.
    pub fn most(&self) -> usize {
        self.pieces.values().map(Vec::len).max().unwrap_or(0)
    }

    /// Returns whether the whole secret was found once, and no part of it elsewhere.
    pub fn is_one(&self) -> bool {
        self.pieces.len() == SECRET_LEN / PIECE && self.pieces.values().all(|at| at.len() == 1)
    }
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (piece, places) in &self.pieces {
            for (address, mapping) in places {
                writeln!(f, "bytes from {} on at {address:#x} in {mapping}", piece * PIECE)?;
            }
        }
        Ok(())
    }
}

impl Secret {
    /// Creates a secret.
    ///
    /// # Panics
    /// If the system has no random bytes.
    #[allow(clippy::new_without_default, reason = "each is another")]
    pub fn new() -> Self {
        let mut masked = vec![0; SECRET_LEN];
        let mut random = File::open("/dev/urandom").expect("random bytes");
        std::io::Read::read_exact(&mut random, &mut masked).expect("random bytes");
        // A fixed mask: all that matters is that the bytes here are others.
        Self { masked, mask: 0xa5 }
    }

    /// Returns the secret itself.
    pub fn reveal(&self) -> Vec<u8> {
        self.masked.iter().map(|byte| byte ^ self.mask).collect()
    }

    /// Returns the secret as hexadecimal digits.
    pub fn hex(&self) -> String {
        self.reveal().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Searches all memory that a process has written to: its heap, stacks, mappings and variables.
    ///
    /// # Panics
    /// If its memory cannot be read: the caller needs the right to trace it.
    pub fn copies_in(&self, pid: u32) -> Copies {
        let finder = Finder::new(self);
        let mut copies = Copies::default();
        let memory = File::open(format!("/proc/{pid}/mem")).expect("its memory");
        let present = File::open(format!("/proc/{pid}/pagemap")).expect("its page table");
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its mappings");
        for line in maps.lines() {
            let (range, about) = line.split_once(' ').expect("a range");
            let (start, end) = range.split_once('-').expect("a start and an end");
            let number = |digits| u64::from_str_radix(digits, 16).expect("an address");
            let name = about.split_whitespace().nth(4).unwrap_or("anonymous memory");
            if !about.starts_with("rw") {
                continue;
            }
            for (from, to) in runs(&present, number(start), number(end)) {
                finder.search(&memory, from, to, name, &mut copies);
            }
        }
        copies
    }

    /// Waits until no copy of any part is left in a process.
    ///
    /// # Panics
    /// If one stays.
    pub fn until_none_in(&self, pid: u32, when: &str) {
        let mut last = Copies::default();
        let gone = crate::process::poll(|| {
            last = self.copies_in(pid);
            last.is_none().then_some(())
        });
        assert!(gone.is_some(), "{when}, process {pid} still has\n{last}");
    }

    /// Waits until a process has one whole copy, and no part of another.
    ///
    /// # Panics
    /// If it has fewer or more.
    pub fn until_one_in(&self, pid: u32, when: &str) {
        let mut last = Copies::default();
        let one = crate::process::poll(|| {
            last = self.copies_in(pid);
            last.is_one().then_some(())
        });
        assert!(one.is_some(), "{when}, process {pid} has\n{last}");
    }

    /// Waits until a process has a copy.
    ///
    /// # Panics
    /// If it never has.
    pub fn until_some_in(&self, pid: u32) {
        until("a copy", || (!self.copies_in(pid).is_none()).then_some(()));
    }
}

/// Shows nothing of it.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The parts of a mapping that have memory, in pieces of limited size. The others were never written to,
/// and reading them could give them memory.
fn runs(present: &File, start: u64, end: u64) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut entries = vec![0; 8 * PAGES_AT_ONCE as usize];
    let (mut page, last) = (start / PAGE, end / PAGE);
    while page < last {
        let count = (last - page).min(PAGES_AT_ONCE * 64);
        entries.resize(8 * count as usize, 0);
        let len = present.read_at(&mut entries, 8 * page).unwrap_or(0);
        if len < 8 {
            break;
        }
        for (number, entry) in entries[..len].as_chunks().0.iter().enumerate() {
            // In memory, or in swap.
            if u64::from_le_bytes(*entry) >> 62 == 0 {
                continue;
            }
            let at = (page + number as u64) * PAGE;
            match runs.last_mut() {
                Some((from, to)) if *to == at && *to - *from < PAGES_AT_ONCE * PAGE => *to += PAGE,
                _ => runs.push((at, at + PAGE)),
            }
        }
        page += len as u64 / 8;
    }
    runs
}

/// What recognizes pieces of a secret.
struct Finder<'s> {
    secret: &'s Secret,
    /// By its first two bytes, masked: whether a piece may begin so.
    begins: Vec<bool>,
}

impl<'s> Finder<'s> {
    fn new(secret: &'s Secret) -> Self {
        let mut begins = vec![false; 1 << 16];
        for piece in secret.masked.chunks(PIECE) {
            begins[usize::from(u16::from_le_bytes([piece[0], piece[1]]))] = true;
        }
        Self { secret, begins }
    }

    /// Searches a run of pages for pieces that begin in it.
    fn search(&self, memory: &File, from: u64, to: u64, name: &str, copies: &mut Copies) {
        let mut bytes = vec![0; (to - from) as usize + PIECE - 1];
        // Less is there at the end of a mapping, and nothing in one that has gone meanwhile.
        let len = memory.read_at(&mut bytes, from).unwrap_or(0);
        let mask = u16::from_le_bytes([self.secret.mask; 2]);
        let begins = len.saturating_sub(PIECE - 1);
        let pages = bytes.chunks(PAGE as usize).enumerate();
        // Most are zeros, and comparing is faster than searching.
        let pages = pages.filter(|(_, page)| **page != [0; PAGE as usize][..page.len()]);
        let starts = pages.map(|(number, _)| number * PAGE as usize);
        for at in starts.flat_map(|start| start..begins.min(start + PAGE as usize)) {
            let first = u16::from_le_bytes([bytes[at], bytes[at + 1]]) ^ mask;
            if !self.begins[usize::from(first)] {
                continue;
            }
            let is_here = |piece: &[u8]| {
                piece.iter().zip(&bytes[at..]).all(|(a, b)| *a == *b ^ self.secret.mask)
            };
            if let Some(piece) = self.secret.masked.chunks(PIECE).position(is_here) {
                let place = (from + at as u64, name.to_owned());
                copies.pieces.entry(piece).or_default().push(place);
            }
        }
    }
}
