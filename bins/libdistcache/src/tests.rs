use super::*;

#[test]
fn an_id_of_other_than_1_to_64_bytes_is_refused_with_a_reason() {
    let bytes = [7; 65];
    let named = |len| {
        // SAFETY: `bytes` has at least `len` bytes, or `len` is refused.
        unsafe { name(bytes.as_ptr(), len) }.map(|id| id.bytes().len())
    };
    assert!(matches!(named(1), Ok(1)) && matches!(named(64), Ok(64)));
    for len in [0, 65] {
        assert!(matches!(named(len), Err(Reason::Text("an id has 1 to 64 bytes"))), "{len}");
    }
}

#[test]
fn a_lifetime_is_cut_to_7_days() {
    let week = TTL_MAX.as_millis() as c_ulong;
    for (asked, lives) in [(0, 0), (1, 1), (week, week), (week + 1, week), (c_ulong::MAX, week)] {
        assert_eq!(ttl(asked).as_millis(), u128::from(lives));
    }
    #[cfg(target_pointer_width = "64")]
    assert_eq!(ttl((1 << 32) + 1), TTL_MAX);
}
