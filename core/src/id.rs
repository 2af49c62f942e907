//! Session ids.

/// The most bytes that an id of a stored session has.
pub const ID_MAX: usize = 64;

/// The id of a session: 1 to 64 bytes, chosen by a TLS server or its client.
///
/// A client can choose its ids, so their distribution is not to be relied on.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Id<'a>(&'a [u8]);

impl<'a> Id<'a> {
    /// Takes `bytes` as an id; `None` if there are none, or more than [`ID_MAX`].
    pub const fn new(bytes: &'a [u8]) -> Option<Self> {
        if bytes.is_empty() || bytes.len() > ID_MAX {
            return None;
        }
        Some(Self(bytes))
    }

    /// The bytes of the id: 1 to 64.
    pub const fn bytes(self) -> &'a [u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_1_to_64_bytes() {
        let bytes = [7; 65];
        for (len, lawful) in [(0, false), (1, true), (64, true), (65, false)] {
            assert_eq!(Id::new(&bytes[..len]).is_some(), lawful, "{len} bytes");
        }
    }
}
