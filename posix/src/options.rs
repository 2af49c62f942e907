//! Command lines as the original has them: long words behind one dash.
//!
//! `-listen x`, `--listen x`, `-listen=x` and `--listen=x` are the same. Option crates (`lexopt` too)
//! split what follows one dash into letters, so the raw argument would have to be taken from them
//! each time; what they then still do is the loop below.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write};
use std::ops::RangeInclusive;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::address::Address;

/// The options of a program, one after the other.
///
/// ```
/// # use distcache_posix::options::{Options, OptionsError};
/// # fn read() -> Result<(), OptionsError> {
/// let (mut sessions, mut daemon) = (512, false);
/// let mut options = Options::new(["-sessions", "9", "--daemon"].map(Into::into));
/// while let Some(name) = options.next()? {
///     match name.as_str() {
///         "sessions" => sessions = options.number(1..=16_777_216)?,
///         "daemon" => daemon = true,
///         "help" => {} // usage on stdout, exit 0
///         _ => return Err(options.unknown()),
///     }
/// }
/// assert!(sessions == 9 && daemon);
/// # Ok(()) }
/// # read().unwrap();
/// ```
#[derive(Debug)]
pub struct Options {
    arguments: VecDeque<OsString>,
    /// The option at hand as it was written, without its value.
    option: String,
    /// What followed its `=`, until it is taken.
    attached: Option<OsString>,
}

impl Options {
    /// The command line of this process, without the program's name.
    pub fn from_env() -> Self {
        Self::new(std::env::args_os().skip(1))
    }

    /// Any other arguments.
    pub fn new(arguments: impl IntoIterator<Item = OsString>) -> Self {
        Self { arguments: arguments.into_iter().collect(), option: String::new(), attached: None }
    }

    /// The name of the next option, without dashes; `None` after the last.
    ///
    /// `-h`, `-?` and all ways to write help are "help", `-V` is "version". Fails on what is no
    /// option, and where the option before had a value that nobody took.
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator could not lend itself for values"
    )]
    pub fn next(&mut self) -> Result<Option<String>, OptionsError> {
        if self.attached.is_some() {
            return Err(self.error("takes no value"));
        }
        let Some(argument) = self.arguments.pop_front() else { return Ok(None) };
        let bytes = argument.as_bytes();
        let word = bytes.strip_prefix(b"--").or(bytes.strip_prefix(b"-")).unwrap_or(b"");
        let (name, value) = match word.iter().position(|&byte| byte == b'=') {
            Some(at) => (&word[..at], Some(&word[at + 1..])),
            None => (word, None),
        };
        if name.is_empty() || name.starts_with(b"-") {
            return Err(OptionsError(format!("'{}' is no option", argument.display())));
        }
        let dashes = bytes.len() - word.len();
        self.option = String::from_utf8_lossy(&bytes[..dashes + name.len()]).into_owned();
        self.attached = value.map(|value| OsStr::from_bytes(value).to_owned());
        Ok(Some(match name {
            b"h" | b"?" => "help".to_owned(),
            b"V" => "version".to_owned(),
            _ => String::from_utf8_lossy(name).into_owned(),
        }))
    }

    /// The error that there is no such option as the one at hand.
    pub fn unknown(&self) -> OptionsError {
        OptionsError(format!("unknown option {}", self.option))
    }

    /// An error about the option at hand: `why` goes on after its name, as in "needs root".
    pub fn error(&self, why: &str) -> OptionsError {
        OptionsError(format!("{} {why}", self.option))
    }

    /// The value of the option at hand. One that looks like an option counts as forgotten; write
    /// `-pidfile=-odd` if it is meant.
    pub fn value(&mut self) -> Result<OsString, OptionsError> {
        if let Some(value) = self.attached.take() {
            return if value.is_empty() { Err(self.error("needs a value")) } else { Ok(value) };
        }
        match self.arguments.front() {
            Some(next) if !next.is_empty() && !next.as_bytes().starts_with(b"-") => {
                Ok(self.arguments.pop_front().unwrap_or_default())
            }
            _ => Err(self.error("needs a value")),
        }
    }

    /// The value as text.
    pub fn text(&mut self) -> Result<String, OptionsError> {
        String::from_utf8(self.value()?.into_vec())
            .map_err(|_| self.error("needs a value in UTF-8"))
    }

    /// The value as a path.
    pub fn path(&mut self) -> Result<PathBuf, OptionsError> {
        self.value().map(PathBuf::from)
    }

    /// The value as a decimal number in `range`.
    pub fn number(&mut self, range: RangeInclusive<u64>) -> Result<u64, OptionsError> {
        let text = self.text()?;
        self.within(&text, digits(&text, 10), range)
    }

    /// The value as a number of bytes in `range`; K, M and G behind it stand for 1024, its square
    /// and its cube.
    pub fn bytes(&mut self, range: RangeInclusive<u64>) -> Result<u64, OptionsError> {
        let text = self.text()?;
        let (number, shift) = match text.as_bytes().last() {
            Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
            Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
            Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
            _ => (text.as_str(), 0),
        };
        self.within(&text, digits(number, 10).and_then(|n| n.checked_mul(1 << shift)), range)
    }

    /// The value as permission bits in octal, 0 to 777.
    pub fn mode(&mut self) -> Result<u32, OptionsError> {
        let text = self.text()?;
        match digits(&text, 8).and_then(|bits| u32::try_from(bits).ok()) {
            Some(bits) if bits <= 0o777 => Ok(bits),
            _ => {
                Err(self.error(&format!("needs permission bits in octal, 0 to 777, not '{text}'")))
            }
        }
    }

    /// The value as an address to listen on, for streams or for datagrams, independent of the working
    /// directory.
    pub fn service_address(&mut self) -> Result<Address, OptionsError> {
        let address = self.text()?.parse::<Address>().and_then(Address::absolute);
        address.map_err(|error| OptionsError(format!("{}: {error}", self.option)))
    }

    /// The value as an address to listen on for streams, independent of the working directory.
    pub fn listen_address(&mut self) -> Result<Address, OptionsError> {
        let address = self.service_address()?;
        match address.streaming() {
            Ok(()) => Ok(address),
            Err(error) => Err(OptionsError(format!("{}: {error}", self.option))),
        }
    }

    /// The value as an address to connect to, independent of the working directory.
    pub fn server_address(&mut self) -> Result<Address, OptionsError> {
        let address = self.service_address()?;
        match address.connectable() {
            Ok(()) => Ok(address),
            Err(error) => Err(OptionsError(format!("{}: {error}", self.option))),
        }
    }

    fn within(
        &self,
        text: &str,
        number: Option<u64>,
        range: RangeInclusive<u64>,
    ) -> Result<u64, OptionsError> {
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            let (low, high) = (range.start(), range.end());
            self.error(&format!("needs a number from {low} to {high}, not '{text}'"))
        })
    }
}

/// Nothing but digits; std also takes a sign.
fn digits(text: &str, radix: u32) -> Option<u64> {
    let plain = text.chars().all(|c| c.is_digit(radix));
    plain.then(|| u64::from_str_radix(text, radix).ok()).flatten()
}

/// A command line that cannot be followed; prints as one line that names the option and the reason.
/// The program then prints its usage, and exits with 1.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OptionsError(String);

impl OptionsError {
    /// An error about options together, as in "-server is missing".
    pub fn new(line: impl Into<String>) -> Self {
        Self(line.into())
    }
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever the words on the command line were.
        self.0.chars().try_for_each(|c| match c.is_control() {
            true => write!(f, "{}", c.escape_default()),
            false => f.write_char(c),
        })
    }
}

impl std::error::Error for OptionsError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn options<const N: usize>(words: [&str; N]) -> Options {
        Options::new(words.map(Into::into))
    }

    #[test]
    fn one_dash_or_two_with_a_space_or_an_equals_sign_are_the_same() {
        for words in
            [["-listen", "x=1"], ["--listen", "x=1"], ["-listen=x=1", ""], ["--listen=x=1", ""]]
        {
            let mut options =
                Options::new(words.into_iter().filter(|w| !w.is_empty()).map(Into::into));
            assert_eq!(options.next(), Ok(Some("listen".into())));
            assert_eq!(options.text(), Ok("x=1".into()));
            assert_eq!(options.next(), Ok(None));
        }
    }

    #[test]
    fn help_and_version_have_short_names() {
        for word in ["-h", "-?", "-help", "--help", "--h"] {
            assert_eq!(options([word]).next(), Ok(Some("help".into())), "{word}");
        }
        for word in ["-V", "-version", "--version"] {
            assert_eq!(options([word]).next(), Ok(Some("version".into())), "{word}");
        }
    }

    #[test]
    fn what_is_no_option_is_named() {
        for word in ["x", "-", "--", "---x", "-=x", ""] {
            let error = options([word]).next().unwrap_err();
            assert_eq!(error.to_string(), format!("'{word}' is no option"));
        }
        let mut unknown = options(["--colour=red"]);
        unknown.next().unwrap();
        assert_eq!(unknown.unknown().to_string(), "unknown option --colour");
    }

    #[test]
    fn a_missing_value_is_not_taken_from_the_next_option() {
        for words in [["-pidfile", "-daemon"], ["-pidfile=", "x"], ["-pidfile", ""]] {
            let mut options = options(words);
            options.next().unwrap();
            assert_eq!(options.path().unwrap_err().to_string(), "-pidfile needs a value");
        }
        let mut last = options(["-pidfile"]);
        last.next().unwrap();
        assert!(last.value().is_err());
        let mut odd = options(["-pidfile=-odd"]);
        odd.next().unwrap();
        assert_eq!(odd.path(), Ok("-odd".into()));
    }

    #[test]
    fn a_switch_takes_no_value() {
        let mut options = options(["-daemon=yes", "-x"]);
        options.next().unwrap();
        assert_eq!(options.next().unwrap_err().to_string(), "-daemon takes no value");
    }

    fn given<T>(
        value: &str,
        read: impl FnOnce(&mut Options) -> Result<T, OptionsError>,
    ) -> Option<T> {
        let mut options = options(["-x", value]);
        options.next().unwrap();
        match read(&mut options) {
            Ok(value) => Some(value),
            Err(error) => {
                let error = error.to_string();
                assert!(error.starts_with("-x") && error.contains(value), "{error}");
                None
            }
        }
    }

    #[test]
    fn numbers_are_decimal_and_within_their_range() {
        for (text, number) in [
            ("1", Some(1)),
            ("60", Some(60)),
            ("007", Some(7)),
            ("0", None),
            ("61", None),
            ("+1", None),
            ("1x", None),
            ("0x1", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(given(text, |options| options.number(1..=60)), number, "{text}");
        }
    }

    #[test]
    fn sizes_have_units_that_do_not_overflow() {
        for (text, number) in [
            ("7", Some(7)),
            ("2K", Some(2048)),
            ("64M", Some(64 << 20)),
            ("3g", Some(3 << 30)),
            ("K", None),
            ("1KB", None),
            ("1.5M", None),
            ("18014398509481984K", None),
        ] {
            assert_eq!(given(text, |options| options.bytes(1..=u64::MAX)), number, "{text}");
        }
    }

    #[test]
    fn modes_are_octal() {
        for (text, mode) in [("660", Some(0o660)), ("0777", Some(0o777)), ("0", Some(0))] {
            assert_eq!(given(text, Options::mode), mode);
        }
        for text in ["1777", "8", "rw", "u+w"] {
            assert_eq!(given(text, Options::mode), None, "{text}");
        }
    }

    #[test]
    fn addresses_are_read_with_the_option_in_the_error() {
        assert!(given("IP:9001", Options::listen_address).is_some());
        assert!(given("IP:9001", Options::server_address).is_none());
        assert!(given("IP:localhost:9001", Options::server_address).is_some());
        assert!(given("nonsense", Options::listen_address).is_none());
        assert!(given("SESSIOND:[::1]:1", Options::service_address).is_some());
        assert!(given("SESSIOND:[::1]:1", Options::listen_address).is_none());
        assert!(given("SESSIOND:[::1]:1", Options::server_address).is_none());
    }

    #[test]
    fn a_value_that_is_no_text_is_refused_as_text_only() {
        let odd = || OsString::from_vec(vec![b'a', 0xff]);
        let mut options = Options::new(["-x".into(), odd(), "-x".into(), odd()]);
        options.next().unwrap();
        assert!(options.text().is_err());
        options.next().unwrap();
        assert_eq!(options.path(), Ok(odd().into()));
    }
}
