//! The bytes of clients in a memory file.
//!
//! ```text
//!  client   len 4 | flags 4 | input len 4 | output len 4 | .. | input | output
//!           len counts what is behind it and before the input: 12, more in a later version
//! ```
//!
//! The file is sealed before it is passed on: nobody can change it while it is read.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use distcache_core::server::Transfer;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

const INPUT_OVER: u32 = 1;
const ENDED: u32 = 2;
const RECORD_LEN: usize = 16;
/// The most bytes of input or output in any version.
const LEN_MAX: u32 = 1 << 24;

fn seals() -> SealFlags {
    SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
}

/// A memory file that can be sealed.
pub(super) fn memory_file(name: &CStr) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into())
}

/// Makes a memory file read-only for ever.
pub(super) fn seal(file: &File) -> io::Result<()> {
    Ok(fcntl_add_seals(file, seals())?)
}

/// Overwrites bytes that may be sessions.
pub(super) fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    // Else the compiler could leave out what nobody reads.
    std::hint::black_box(bytes);
}

/// Appends clients to a file, through a buffer that is allocated once.
pub(super) struct Writer<'a> {
    file: &'a File,
    buffer: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(file: &'a File, buffer: &'a mut [u8]) -> Self {
        Self { file, buffer, len: 0 }
    }

    /// Appends a client. `ended` says that its end of the stream has been received.
    pub(super) fn client(&mut self, client: Transfer<'_>, ended: bool) -> io::Result<()> {
        let Transfer { input, output, input_over } = client;
        let over = if input_over { INPUT_OVER } else { 0 };
        let flags = over | if ended { ENDED } else { 0 };
        let words = [RECORD_LEN as u32 - 4, flags, input.len() as u32, output.len() as u32];
        for word in words {
            self.put(&word.to_le_bytes())?;
        }
        self.put(input)?;
        self.put(output)
    }

    /// Writes out the rest.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()
    }

    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.len == self.buffer.len() {
                self.flush()?;
            }
            let room = &mut self.buffer[self.len..];
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.len += now.len();
            bytes = later;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer[..self.len])?;
        self.len = 0;
        Ok(())
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        wipe(self.buffer);
    }
}

/// A client's bytes, lent by [`Reader::next`].
#[derive(Debug)]
pub(super) struct Record<'a> {
    /// `None` if they do not fit into the reader's buffers.
    pub(super) client: Option<Transfer<'a>>,
    pub(super) ended: bool,
}

/// Reads clients in their order.
pub(super) struct Reader {
    file: File,
    at: u64,
    input: Box<[u8]>,
    output: Box<[u8]>,
}

impl Reader {
    /// Reads a sealed file, with two buffers of `len` bytes.
    ///
    /// # Errors
    /// `InvalidInput` if the file is not sealed, else the system's.
    pub(super) fn new(fd: OwnedFd, len: usize) -> io::Result<Self> {
        let sealed = fcntl_get_seals(&fd).is_ok_and(|found| found.contains(seals()));
        if !sealed {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let buffer = || vec![0; len].into_boxed_slice();
        Ok(Self { file: fd.into(), at: 0, input: buffer(), output: buffer() })
    }

    /// The next client.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end, `InvalidData` for a length that no version has.
    pub(super) fn next(&mut self) -> io::Result<Record<'_>> {
        let mut record = [0; RECORD_LEN];
        self.file.read_exact_at(&mut record, self.at)?;
        let words: [u32; 4] = std::array::from_fn(|at| {
            record[4 * at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
        });
        let [len, flags, input_len, output_len] = words;
        if (len as usize) < RECORD_LEN - 4
            || [len, input_len, output_len].iter().any(|&n| n > LEN_MAX)
        {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let input_at = self.at + 4 + u64::from(len);
        let output_at = input_at + u64::from(input_len);
        self.at = output_at + u64::from(output_len);
        let input = self.input.get_mut(..input_len as usize);
        let output = self.output.get_mut(..output_len as usize);
        let client = match (input, output) {
            (Some(input), Some(output)) => {
                self.file.read_exact_at(input, input_at)?;
                self.file.read_exact_at(output, output_at)?;
                Some(Transfer { input, output, input_over: flags & INPUT_OVER != 0 })
            }
            _ => None,
        };
        Ok(Record { client, ended: flags & ENDED != 0 })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        wipe(&mut self.input);
        wipe(&mut self.output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(clients: &[(Transfer<'_>, bool)], buffer: usize) -> File {
        let file = memory_file(c"test").unwrap();
        let mut buffer = vec![0; buffer];
        let mut writer = Writer::new(&file, &mut buffer);
        for &(client, ended) in clients {
            writer.client(client, ended).unwrap();
        }
        writer.finish().unwrap();
        assert!(buffer.iter().all(|&byte| byte == 0), "no copy is left in the buffer");
        file
    }

    #[test]
    fn each_client_has_its_own_bytes_whatever_the_length_of_the_buffer() {
        let (long, short) = ([7; 90], *b"short");
        let clients = [
            (Transfer::default(), false),
            (Transfer { input: &long, output: &short, input_over: false }, false),
            (Transfer { output: &long, input_over: true, ..Transfer::default() }, true),
        ];
        for buffer in 1..200 {
            let file = file(&clients, buffer);
            seal(&file).unwrap();
            let mut reader = Reader::new(file.into(), 90).unwrap();
            for (client, ended) in clients {
                let record = reader.next().unwrap();
                assert_eq!((record.client, record.ended), (Some(client), ended));
            }
            assert_eq!(reader.next().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn a_client_with_more_bytes_than_the_buffers_is_skipped() {
        let long = [7; 91];
        let clients = [
            (Transfer { input: &long, ..Transfer::default() }, false),
            (Transfer { output: b"next", ..Transfer::default() }, false),
        ];
        let file = file(&clients, 64);
        seal(&file).unwrap();
        let mut reader = Reader::new(file.into(), 90).unwrap();
        assert_eq!(reader.next().unwrap().client, None);
        assert_eq!(reader.next().unwrap().client.unwrap().output, b"next");
    }

    #[test]
    fn a_file_that_somebody_could_still_change_is_refused() {
        let open = file(&[], 64);
        let error = Reader::new(open.try_clone().unwrap().into(), 9).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        seal(&open).unwrap();
        assert!((&open).write_all(b"x").is_err() && open.set_len(9).is_err());
        let disk = std::env::temp_dir().join(format!("ho-{}", std::process::id()));
        let other = File::create_new(&disk).unwrap();
        std::fs::remove_file(disk).unwrap();
        assert!(Reader::new(other.into(), 9).is_err());
    }

    #[test]
    fn a_file_that_is_cut_or_changed_at_any_byte_ends_with_an_error_or_other_clients() {
        let client = Transfer { input: b"in", output: b"out", input_over: true };
        let mut bytes = vec![0; RECORD_LEN + 5];
        let whole = file(&[(client, true)], 64);
        whole.read_exact_at(&mut bytes, 0).unwrap();
        let of = |bytes: &[u8]| {
            let file = memory_file(c"test").unwrap();
            (&file).write_all(bytes).unwrap();
            seal(&file).unwrap();
            Reader::new(file.into(), 90).unwrap()
        };
        for len in 0..bytes.len() {
            assert!(of(&bytes[..len]).next().is_err(), "cut at {len}");
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7F, 0xFF] {
                let mut changed = bytes.clone();
                changed[at] = value;
                let mut reader = of(&changed);
                while reader.next().is_ok() {}
            }
        }
    }
}
