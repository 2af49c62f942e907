//! Addresses as people write them, read.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::RawFd;
use std::str::FromStr;

use super::{Address, AddressError, Family, UnixName};

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let parse = || {
            let (kind, rest) =
                text.split_once(':').ok_or("it does not start with UNIX:, IP: or FD:")?;
            match kind {
                "UNIX" => parse_unix(rest),
                "IP" => parse_ip(Family::Any, rest),
                "IPv4" => parse_ip(Family::V4, rest),
                "IPv6" => parse_ip(Family::V6, rest),
                "FD" => parse_fd(rest),
                "SESSIOND" => parse_sessiond(rest),
                _ => Err("it does not start with UNIX:, IP: or FD:"),
            }
        };
        parse().map_err(|why| AddressError::new(text, why))
    }
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
            return Err("what stands in [] is not an IPv6 address");
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

/// A host is not left out by mistake: whoever reaches the port may read and write all sessions.
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
