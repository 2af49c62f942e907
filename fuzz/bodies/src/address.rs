//! An address is refused in one line that names it, or prints as text that reads as the same
//! address.

use distcache_posix::net::address::Address;

/// The input is the address. Bytes that are no text are never one.
pub fn body(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Address>() {
        Err(error) => {
            let line = error.to_string();
            assert!(!line.is_empty() && !line.contains('\n'), "one line: {line:?}");
        }
        Ok(address) => {
            let printed = address.to_string();
            assert_eq!(printed.parse(), Ok(address.clone()), "{text:?} prints as {printed:?}");
            // A numeric address resolves without a name server.
            if address.is_numeric() {
                let targets = address.resolve().map(|targets| targets.len());
                assert!(targets.is_ok_and(|targets| targets > 0) || address.connectable().is_err());
            }
        }
    }
}
