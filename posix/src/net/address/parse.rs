//! Parsing addresses, and suggesting the one that was meant.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::RawFd;
use std::str::FromStr;

use super::{Address, AddressError, Family, UnixName};

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match parse(text) {
            Some(parsed) => parsed.map_err(|why| AddressError::new(text, why)),
            None => Err(AddressError { meant: meant(text), ..AddressError::new(text, NO_PREFIX) }),
        }
    }
}

impl TryFrom<&str> for Address {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<&Self> for Address {
    fn from(address: &Self) -> Self {
        address.clone()
    }
}

const NO_PREFIX: &str = "it must start with UNIX:, IP:, IPv4:, IPv6:, FD: or SESSIOND:";

/// Parses an address; `None` if it begins with none of the prefixes.
fn parse(text: &str) -> Option<Result<Address, &'static str>> {
    let (kind, rest) = text.split_once(':')?;
    match kind {
        "UNIX" => Some(parse_unix(rest)),
        "IP" => Some(parse_ip(Family::Any, rest)),
        "IPv4" => Some(parse_ip(Family::V4, rest)),
        "IPv6" => Some(parse_ip(Family::V6, rest)),
        "FD" => Some(parse_fd(rest)),
        "SESSIOND" => Some(parse_sessiond(rest)),
        _ => None,
    }
}

/// The address that was probably meant by one without a prefix, or with a prefix in the wrong case.
fn meant(text: &str) -> Option<String> {
    let prefixed = |prefix: &str, rest: &str| format!("{prefix}:{rest}");
    let same_letters = text.split_once(':').and_then(|(kind, rest)| {
        let prefixes = ["UNIX", "IP", "IPv4", "IPv6", "FD", "SESSIOND"];
        let prefix = prefixes.into_iter().find(|prefix| prefix.eq_ignore_ascii_case(kind));
        let prefix = prefix.or(kind.eq_ignore_ascii_case("tcp").then_some("IP"));
        prefix.map(|prefix| prefixed(prefix, rest))
    });
    let kind = if text.starts_with(['/', '@', '.']) { "UNIX" } else { "IP" };
    let guesses = [same_letters, Some(prefixed(kind, text))];
    guesses.into_iter().flatten().find(|guess| matches!(parse(guess), Some(Ok(_))))
}

fn parse_unix(rest: &str) -> Result<Address, &'static str> {
    let (name, is_abstract) = match rest.strip_prefix('@') {
        Some(name) if cfg!(target_os = "linux") => (name, true),
        Some(_) => return Err("names with @ exist on Linux only"),
        None => (rest, false),
    };
    UnixName::new(name.as_bytes(), is_abstract).map(Address::Unix)
}

fn parse_ip(family: Family, rest: &str) -> Result<Address, &'static str> {
    let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
        let (host, port) = bracketed.split_once("]:").ok_or("no ]:port follows the [")?;
        let (ip, zone) = host.split_once('%').unwrap_or((host, "1"));
        if ip.parse::<Ipv6Addr>().is_err() || zone.is_empty() {
            return Err("the text in [] is not an IPv6 address");
        }
        (host, port)
    } else {
        rest.rsplit_once(':').unwrap_or(("", rest))
    };
    if host.contains(':') && !rest.starts_with('[') {
        return Err("an IPv6 host belongs in [], and ports are numbers");
    }
    if host.contains(|c: char| c.is_whitespace() || c == '/' || c == '\0') {
        return Err("its host has characters that no host has");
    }
    if host.parse::<IpAddr>().is_ok_and(|ip| !family.has(ip)) {
        return Err("its host is of the other IP version");
    }
    if !rest.contains(':') && port.contains(|c: char| !c.is_ascii_digit()) {
        return Err("it has no port");
    }
    let host = (!host.is_empty()).then(|| host.to_owned());
    Ok(Address::Ip { family, host, port: parse_port(port)? })
}

/// The host is required: anyone who can reach the port can read and write all sessions.
fn parse_sessiond(rest: &str) -> Result<Address, &'static str> {
    match parse_ip(Family::Any, rest)? {
        Address::Ip { host: Some(host), port, .. } => Ok(Address::Sessiond { host, port }),
        _ => Err("its host is missing: write SESSIOND:host:port"),
    }
}

fn parse_port(text: &str) -> Result<u16, &'static str> {
    if text.is_empty() {
        return Err("its port is missing");
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("its port is not a number");
    }
    text.parse().map_err(|_| "its port is above 65535")
}

fn parse_fd(rest: &str) -> Result<Address, &'static str> {
    let number = |text: &str| match text {
        "-1" => Ok(None),
        _ if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) => {
            Err("a descriptor is a number, or -1 for none")
        }
        _ => text.parse::<RawFd>().map(Some).map_err(|_| "no descriptor has a number that large"),
    };
    let (read, write) = match rest.split_once(':') {
        Some((read, write)) => (number(read)?, number(write)?),
        None => (number(rest)?, number(rest)?),
    };
    if read.is_none() && write.is_none() {
        return Err("it names no descriptor at all");
    }
    Ok(Address::Fd { read, write })
}
