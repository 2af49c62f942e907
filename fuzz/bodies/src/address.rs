//! An address is refused with a line that names it, or prints as one that reads the same again.

use distcache_posix::net::address::Address;

/// All bytes are the address; those that are no text are no address anywhere.
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
            // Numeric ones lead somewhere without anybody being asked.
            if address.is_numeric() {
                let targets = address.resolve().map(|targets| targets.len());
                assert!(targets.is_ok_and(|targets| targets > 0) || address.connectable().is_err());
            }
        }
    }
}
