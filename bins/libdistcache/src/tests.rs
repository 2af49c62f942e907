use super::*;

#[test]
fn an_id_has_1_to_64_bytes_and_else_the_reason_says_so() {
    let bytes = [7; 65];
    let named = |len| {
        // SAFETY: there are as many bytes.
        unsafe { name(bytes.as_ptr(), len) }.map(|id| id.bytes().len())
    };
    assert!(matches!(named(1), Ok(1)) && matches!(named(64), Ok(64)));
    for len in [0, 65] {
        assert!(matches!(named(len), Err(Reason::Said("an id has 1 to 64 bytes"))), "{len}");
    }
}

#[test]
fn a_session_lives_for_as_long_as_was_asked_for_and_7_days_at_most() {
    let week = c_ulong::from(TTL_MAX);
    for (asked, lives) in [(0, 0), (1, 1), (week, week), (week + 1, week), (c_ulong::MAX, week)] {
        assert_eq!(c_ulong::from(ttl(asked)), lives);
    }
    #[cfg(target_pointer_width = "64")]
    assert_eq!(ttl((1 << 32) + 1), TTL_MAX);
}
