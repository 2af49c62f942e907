//! Detects a proxy that is configured as its own server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};

use crate::net::address::{Address, Family};

/// Whether a connection to `server` reaches the listener on `listen`, as far as that is known without
/// asking a name server.
pub fn reaches(server: &Address, listen: &Address) -> bool {
    match (server, listen) {
        (Address::Unix(server), Address::Unix(listen)) => {
            let same = |server, listen| canonical(server) == canonical(listen);
            server == listen || server.path().zip(listen.path()).is_some_and(|(a, b)| same(a, b))
        }
        (
            Address::Ip { host: Some(server), port, .. },
            Address::Ip { family, host, port: listen_port },
        ) => *port == *listen_port && *port > 0 && reaches_host(server, *family, host.as_deref()),
        _ => false,
    }
}

/// The path in canonical form: equal for all paths to the same socket, which need not be there yet.
fn canonical(path: &Path) -> Option<PathBuf> {
    let linked = path.read_link().ok().and_then(|to| Some(path.parent()?.join(to)));
    let path = linked.as_deref().unwrap_or(path);
    Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?))
}

fn reaches_host(server: &str, family: Family, listen: Option<&str>) -> bool {
    let listens_on = |ip: IpAddr| match family {
        Family::Any => true,
        Family::V4 => ip.is_ipv4(),
        Family::V6 => ip.is_ipv6(),
    };
    let mut ips = numeric(server).into_iter().map(reached).filter(|ip| listens_on(*ip));
    let Some(listen) = listen else {
        return ips.any(is_ours);
    };
    server.eq_ignore_ascii_case(listen)
        || ips.any(|ip| {
            let here = |listen: IpAddr| match listen.is_unspecified() {
                true => listen.is_ipv4() == ip.is_ipv4() && is_ours(ip),
                false => listen == ip,
            };
            numeric(listen).into_iter().any(here)
        })
}

/// The address that a connection to `ip` goes to.
fn reached(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// The addresses of a host that need no name server; none for other names.
fn numeric(host: &str) -> Vec<IpAddr> {
    if host.eq_ignore_ascii_case("localhost") {
        return vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    host.parse().into_iter().collect()
}

/// Whether `ip` is an address of this machine: no other can be bound to.
fn is_ours(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    fn reaches(server: &str, listen: &str) -> bool {
        super::reaches(&server.parse().unwrap(), &listen.parse().unwrap())
    }

    #[test]
    fn the_same_address_is_recognized_in_every_spelling() {
        for (server, listen) in [
            ("UNIX:/tmp/scache", "UNIX:/tmp/scache"),
            ("UNIX:/tmp/../tmp/scache", "UNIX:/tmp/scache"),
            ("UNIX:@name", "UNIX:@name"),
            ("IP:127.0.0.1:9001", "IP:127.0.0.1:9001"),
            ("IPv4:127.0.0.1:9001", "IP:9001"),
            ("IP:127.0.0.5:9001", "IPv4:9001"),
            ("IP:localhost:9001", "IP:9001"),
            ("IP:localhost:9001", "IP:127.0.0.1:9001"),
            ("IP:127.0.0.1:9001", "IP:0.0.0.0:9001"),
            ("IP:0.0.0.0:9001", "IP:127.0.0.1:9001"),
            ("IP:[::]:9001", "IP:[::1]:9001"),
            ("IP:[::1]:9001", "IPv6:9001"),
            ("IP:cachehost:9001", "IP:cachehost:9001"),
        ] {
            assert!(reaches(server, listen), "{server} {listen}");
        }
    }

    #[test]
    fn a_link_to_the_socket_is_recognized_before_the_socket_is_there() {
        let dir = crate::testing::Dir::new();
        std::os::unix::fs::symlink("socket", dir.join("link")).unwrap();
        let address = |name| format!("UNIX:{}", dir.join(name).display());
        assert!(reaches(&address("link"), &address("socket")));
        assert!(!reaches(&address("link"), &address("other")));
    }

    #[test]
    fn different_addresses_are_told_apart() {
        for (server, listen) in [
            ("UNIX:/tmp/scache", "UNIX:/run/scache"),
            ("UNIX:@tmp", "UNIX:/tmp"),
            ("IP:127.0.0.1:9001", "IP:127.0.0.1:9002"),
            ("IP:127.0.0.1:9001", "IP:127.0.0.2:9001"),
            ("IP:127.0.0.1:9001", "IPv6:9001"),
            // An address that no machine has.
            ("IP:192.0.2.7:9001", "IP:9001"),
            ("IP:cachehost:9001", "IP:9001"),
            ("FD:3", "IP:9001"),
        ] {
            assert!(!reaches(server, listen), "{server} {listen}");
        }
    }
}
