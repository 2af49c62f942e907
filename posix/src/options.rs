//! Command lines with long options behind one dash, as in the C original.
//!
//! `-listen x`, `--listen x`, `-listen=x` and `--listen=x` are the same. `lexopt` splits a word behind
//! one dash into letters, so every such word gets a second dash first.

pub mod table;
mod units;

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::ops::RangeInclusive;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use lexopt::{Arg, Parser};

use self::table::Command;
use self::units::Units;
use crate::net::address::Address;

/// The command line of a program, read option by option.
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
    parser: Parser,
    /// The table of known options; `None` to accept any name.
    command: Option<&'static Command>,
    /// The current option, with one dash and without its value.
    option: String,
}

impl Options {
    /// The command line of this process, without the program's name.
    pub fn from_env(command: &'static Command) -> Self {
        Self { command: Some(command), ..Self::new(std::env::args_os().skip(1)) }
    }

    /// Any other arguments. Every option name is accepted.
    pub fn new(arguments: impl IntoIterator<Item = OsString>) -> Self {
        let parser = Parser::from_args(arguments.into_iter().map(two_dashes));
        Self { parser, command: None, option: String::new() }
    }

    /// The name of the next option, without dashes; `None` after the last.
    ///
    /// An alias is returned as the name that it stands for: `-h` and `-?` are "help", `-V` is "version".
    ///
    /// # Errors
    /// [`OptionsError`] for an argument that is not an option, an unknown option, or a value of a switch.
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator could not be borrowed to read values"
    )]
    pub fn next(&mut self) -> Result<Option<String>, OptionsError> {
        let name = match self.parser.next() {
            Ok(None) => return Ok(None),
            Ok(Some(Arg::Long(name))) => name.to_owned(),
            Ok(Some(Arg::Short(letter))) => letter.to_string(),
            Ok(Some(Arg::Value(word))) => {
                return Err(OptionsError(format!("unexpected argument '{}'", word.display())));
            }
            Err(_) => return Err(self.error("takes no value")),
        };
        self.option = format!("-{name}");
        match (self.command, name.as_str()) {
            (None, "h" | "?") => Ok(Some("help".to_owned())),
            (None, "V") => Ok(Some("version".to_owned())),
            (None, _) => Ok(Some(name)),
            (Some(command), _) => match command.find(&name) {
                Some(entry) => Ok(Some(entry.name().to_owned())),
                None => Err(self.unknown()),
            },
        }
    }

    /// The error for an unknown option: the current one. Suggests a similar option.
    pub fn unknown(&self) -> OptionsError {
        let name = self.option.get(1..).unwrap_or_default();
        match self.command.and_then(|command| command.nearest(name)) {
            Some(near) => OptionsError(format!("unknown option -{name}; did you mean -{near}?")),
            None => OptionsError(format!("unknown option -{name}")),
        }
    }

    /// An error about the current option. `why` follows its name, as in "needs root".
    pub fn error(&self, why: &str) -> OptionsError {
        OptionsError(format!("{} {why}", self.option))
    }

    /// The value of the current option.
    ///
    /// # Errors
    /// [`OptionsError`] if it is missing, empty, or looks like an option. `-pidfile=-odd` is accepted.
    /// The methods below have these errors, too, and one for a value that does not fit.
    pub fn value(&mut self) -> Result<OsString, OptionsError> {
        let value = self.parser.optional_value().or_else(|| {
            let mut words = self.parser.try_raw_args()?;
            let is_option = words.peek()?.as_bytes().starts_with(b"-");
            words.next_if(|_| !is_option)
        });
        value.filter(|value| !value.is_empty()).ok_or_else(|| self.error("needs a value"))
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

    /// The value as a path, made absolute: a daemon changes its directory.
    pub fn absolute_path(&mut self) -> Result<PathBuf, OptionsError> {
        let path = self.path()?;
        std::path::absolute(path).map_err(|error| {
            self.error(&format!("needs a path that can be made absolute: {error}"))
        })
    }

    /// The value as a decimal number in `range`.
    pub fn number(&mut self, range: RangeInclusive<u64>) -> Result<u64, OptionsError> {
        self.in_units(&units::PLAIN, range)
    }

    /// The value as a count in `range`; the units k and M are 1,000 and 1,000,000.
    pub fn count(&mut self, range: RangeInclusive<u64>) -> Result<u64, OptionsError> {
        self.in_units(&units::COUNT, range)
    }

    /// The value as a number of bytes in `range`; the units K, M, G and T, also KB, KiB and so on, are
    /// powers of 1024.
    pub fn bytes(&mut self, range: RangeInclusive<u64>) -> Result<u64, OptionsError> {
        self.in_units(&units::BYTES, range)
    }

    /// The value as a time in `range`, in milliseconds; the units are ms, s, m, h and d.
    pub fn millis(&mut self, range: RangeInclusive<u64>) -> Result<u64, OptionsError> {
        self.in_units(&units::MILLIS, range)
    }

    /// The value as [`Options::millis`] reads it, where 0 stands for no limit.
    pub fn limit(&mut self, range: RangeInclusive<u64>) -> Result<Option<Duration>, OptionsError> {
        Ok(Some(self.millis(range)?).filter(|millis| *millis > 0).map(Duration::from_millis))
    }

    /// The value as a time in `range`, in seconds; the units are s, m, h and d.
    pub fn seconds(&mut self, range: RangeInclusive<u64>) -> Result<u64, OptionsError> {
        self.in_units(&units::SECONDS, range)
    }

    /// The value as a time in `range`, in seconds with a fraction; the units are ms, s, m and h.
    pub fn duration(&mut self, range: RangeInclusive<Duration>) -> Result<Duration, OptionsError> {
        let text = self.text()?;
        let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let unit = match unit {
            "" | "s" => Some(1.0),
            "ms" => Some(0.001),
            "m" => Some(60.0),
            "h" => Some(3600.0),
            _ => None,
        };
        let seconds = number.parse::<f64>().ok().zip(unit).map(|(number, unit)| number * unit);
        let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        time.filter(|time| range.contains(time)).ok_or_else(|| {
            let (low, high) = (range.start().as_secs_f64(), range.end().as_secs_f64());
            self.error(&format!("needs seconds from {low} to {high}, not '{text}'"))
        })
    }

    /// The value as permission bits in octal, 0 to 777.
    pub fn mode(&mut self) -> Result<u32, OptionsError> {
        let text = self.text()?;
        let octal = text.bytes().all(|byte| byte.is_ascii_digit());
        match u32::from_str_radix(&text, 8) {
            Ok(bits) if octal && bits <= 0o777 => Ok(bits),
            _ => {
                Err(self.error(&format!("needs permission bits in octal, 0 to 777, not '{text}'")))
            }
        }
    }

    /// The value as an address to listen on, for streams or datagrams, with an absolute path.
    pub fn service_address(&mut self) -> Result<Address, OptionsError> {
        let text = self.text()?;
        let address = text.parse::<Address>();
        // A path may contain a comma. In a list, another address follows it.
        let mut parts = text.split(',');
        let is_list = parts.next().is_some() && parts.any(|part| part.parse::<Address>().is_ok());
        if is_list || address.is_err() && text.contains(',') {
            return Err(self.list_error(&text));
        }
        let address = address.and_then(Address::absolute);
        address.map_err(|error| OptionsError(format!("{}: {error}", self.option)))
    }

    /// The value as an address to listen on for streams, with an absolute path.
    pub fn listen_address(&mut self) -> Result<Address, OptionsError> {
        let address = self.service_address()?;
        match address.streaming() {
            Ok(()) => Ok(address),
            Err(error) => Err(OptionsError(format!("{}: {error}", self.option))),
        }
    }

    /// The value as an address to connect to, with an absolute path.
    pub fn server_address(&mut self) -> Result<Address, OptionsError> {
        let address = self.service_address()?;
        match address.connectable() {
            Ok(()) => Ok(address),
            Err(error) => Err(OptionsError(format!("{}: {error}", self.option))),
        }
    }

    /// The error for a list of addresses.
    fn list_error(&self, text: &str) -> OptionsError {
        let name = self.option.get(1..).unwrap_or_default();
        let entry = self.command.and_then(|command| command.find(name));
        let option = &self.option;
        OptionsError(match entry {
            Some(entry) if entry.repeated => match name {
                "listen" => {
                    format!("{option} takes one address, not '{text}'; give it once for each")
                }
                _ => format!("give {option} once for each server, not '{text}'"),
            },
            _ => format!("{option} takes one address, not '{text}'"),
        })
    }

    fn in_units(&mut self, units: &Units, range: RangeInclusive<u64>) -> Result<u64, OptionsError> {
        let (low, high) = (*range.start(), *range.end());
        if let Some(negative) = self.negative() {
            let most = if low > 0 { "must be positive" } else { "must not be negative" };
            return Err(self.error(&format!("{most}, not '{negative}'")));
        }
        let text = self.text()?;
        let number = units.parse(&text).filter(|number| range.contains(number));
        number
            .ok_or_else(|| self.error(&format!("needs {}, not '{text}'", units.needed(low, high))))
    }

    /// The next word, if it is a negative number and not an option.
    fn negative(&mut self) -> Option<String> {
        let words = self.parser.try_raw_args()?;
        let word = words.peek()?.to_str()?.strip_prefix("--")?;
        word.starts_with(|c: char| c.is_ascii_digit()).then(|| format!("-{word}"))
    }
}

/// Adds a second dash to a word with one.
fn two_dashes(word: OsString) -> OsString {
    match word.as_bytes() {
        [b'-', second, ..] if *second != b'-' => {
            OsString::from_vec([b"-", word.as_bytes()].concat())
        }
        _ => word,
    }
}

/// An invalid command line. Prints as one line with the option and the reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OptionsError(String);

impl OptionsError {
    /// An error about a combination of options, as in "-server is missing".
    pub fn new(line: impl Into<String>) -> Self {
        Self(line.into())
    }
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The arguments may contain newlines; the message must not.
        self.0.chars().try_for_each(|c| match c.is_control() {
            true => write!(f, "{}", c.escape_default()),
            false => f.write_char(c),
        })
    }
}

impl std::error::Error for OptionsError {}

#[cfg(test)]
mod tests;
