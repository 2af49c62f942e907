//! Finds the ends of messages in a stream, without the code under test.

/// Scans a stream of frames as it passes. Its results mean nothing if the stream is not valid.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameScanner {
    header: [u8; 14],
    /// How many bytes of the header are there.
    have: usize,
    /// How many bytes of data are still to come.
    data: usize,
    /// How many whole messages have passed.
    pub messages: u64,
    /// Whether a message has begun and not ended.
    pub in_message: bool,
}

impl FrameScanner {
    /// Scans the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.feed_each(bytes, |_| ());
    }

    /// Scans the next bytes, and calls `done` with the uid of each message that ends in them.
    pub fn feed_each(&mut self, mut bytes: &[u8], mut done: impl FnMut(u32)) {
        while !bytes.is_empty() {
            self.in_message = true;
            let wanted = if self.have < 14 { 14 - self.have } else { self.data };
            let (part, rest) = bytes.split_at(wanted.min(bytes.len()));
            if self.have < 14 {
                self.header[self.have..][..part.len()].copy_from_slice(part);
                self.have += part.len();
                if self.have == 14 {
                    self.data = usize::from(u16::from_be_bytes([self.header[12], self.header[13]]));
                }
            } else {
                self.data -= part.len();
            }
            if self.have == 14 && self.data == 0 {
                self.have = 0;
                self.in_message = self.header[11] != 1;
                self.messages += u64::from(!self.in_message);
                if !self.in_message {
                    let [_, _, _, _, _, uid @ .., _, _, _, _, _] = self.header;
                    done(u32::from_be_bytes(uid));
                }
            }
            bytes = rest;
        }
    }
}

impl FrameScanner {
    /// Sets the levels in the next bytes to 0, as an old server ignores them.
    pub fn clear_level(&self, bytes: &mut [u8]) {
        let mut scanner = *self;
        for byte in bytes {
            if (2..4).contains(&scanner.have) {
                *byte = 0;
            }
            scanner.feed(&[*byte]);
        }
    }
}

/// Returns the patch levels of the whole messages at the front of a valid stream.
///
/// # Panics
/// If the frames of one message disagree.
pub fn levels(mut bytes: &[u8]) -> Vec<u16> {
    let (mut levels, mut first) = (Vec::new(), None);
    while let Some((header, data)) = bytes.split_first_chunk::<14>() {
        let len = usize::from(u16::from_be_bytes([header[12], header[13]]));
        let Some((_, rest)) = data.split_at_checked(len) else {
            break;
        };
        let level = u16::from_be_bytes([header[2], header[3]]);
        assert_eq!(level, *first.get_or_insert(level), "frames of one message disagree");
        if header[11] == 1 {
            levels.push(level);
            first = None;
        }
        bytes = rest;
    }
    levels
}
