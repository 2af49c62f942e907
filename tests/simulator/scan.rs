//! Where messages end in a stream, found without the code under test.

/// Looks at a stream of frames as it goes by. Of one that is not lawful it says nothing of use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    header: [u8; 14],
    /// Bytes of the header that are there.
    have: usize,
    /// Bytes of data that are still to come.
    data: usize,
    /// Messages that went by in full.
    pub messages: u64,
    /// Whether a message has begun and not ended.
    pub within: bool,
}

impl Scan {
    /// The next bytes.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.within = true;
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
                self.within = self.header[11] != 1;
                self.messages += u64::from(!self.within);
            }
            bytes = rest;
        }
    }
}
