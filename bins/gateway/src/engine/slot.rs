//! The slots of a cluster.

/// The number of slots of a cluster.
pub(crate) const SLOTS: usize = 16_384;

/// The slot of a key: CRC-16/XMODEM over the key, or over the part between the first `{` and the
/// next `}` if that is not empty. Ids are arbitrary bytes, so both cases occur.
pub(crate) fn slot_of(key: &[u8]) -> usize {
    let tagged = || {
        // Faster than a search for its position, and nearly always enough.
        if !key.contains(&b'{') {
            return None;
        }
        let open = key.iter().position(|&byte| byte == b'{')?;
        let behind = &key[open + 1..];
        let len = behind.iter().position(|&byte| byte == b'}')?;
        (len > 0).then(|| &behind[..len])
    };
    usize::from(crc16(tagged().unwrap_or(key))) % SLOTS
}

/// Four bytes a step: the look-ups of a step do not depend on each other, as those of single bytes do.
fn crc16(bytes: &[u8]) -> u16 {
    let [t0, t1, t2, t3] = &TABLES;
    let (chunks, rest) = bytes.as_chunks();
    let mut crc = 0_u16;
    for &[a, b, c, d] in chunks {
        let [high, low] = crc.to_be_bytes();
        crc = t3[usize::from(high ^ a)] ^ t2[usize::from(low ^ b)];
        crc ^= t1[usize::from(c)] ^ t0[usize::from(d)];
    }
    let step = |crc: u16, &byte: &u8| (crc << 8) ^ t0[usize::from((crc >> 8) as u8 ^ byte)];
    rest.iter().fold(crc, step)
}

/// The contribution of a byte that is followed by none, one, two and three bytes.
static TABLES: [[u16; 256]; 4] = {
    let mut tables = [[0; 256]; 4];
    let mut n = 0;
    while n < 256 {
        let mut crc = (n as u16) << 8;
        let mut bit = 0;
        while bit < 32 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
            if bit % 8 == 0 {
                tables[bit / 8 - 1][n] = crc;
            }
        }
        n += 1;
    }
    tables
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_cluster_keyslot() {
        // By `redis-cli cluster keyslot` of Redis 7.0.15.
        let cases: [(&[u8], usize); 8] = [
            (b"123456789", 12_739),
            (b"foo", 12_182),
            (b"dc:{a}b", 15_495),
            (b"a", 15_495),
            (b"dc:{}a", 142),
            (b"dc:{a", 14_484),
            (b"dc:}{", 8_521),
            (b"dc:{{a}}", 10_276),
        ];
        for (key, slot) in cases {
            assert_eq!(slot_of(key), slot, "{}", key.escape_ascii());
        }
    }
}
