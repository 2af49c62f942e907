use super::*;

fn parse(text: &str) -> Result<Address, AddressError> {
    text.parse()
}

#[test]
fn every_form_prints_as_it_was_parsed() {
    for (text, back) in [
        ("UNIX:/tmp/scache", "UNIX:/tmp/scache"),
        ("UNIX:relative", "UNIX:relative"),
        ("UNIX:@abstract", "UNIX:@abstract"),
        ("IP:9001", "IP:9001"),
        ("IP::9001", "IP:9001"),
        ("IP:0", "IP:0"),
        ("IP:localhost:9001", "IP:localhost:9001"),
        ("IPv4:127.0.0.1:9001", "IPv4:127.0.0.1:9001"),
        ("IPv4:9001", "IPv4:9001"),
        ("IP:[::1]:9001", "IP:[::1]:9001"),
        ("IPv6:9001", "IPv6:9001"),
        ("IPv6:[::1]:9001", "IPv6:[::1]:9001"),
        ("IPv6:[fe80::1%eth0]:9001", "IPv6:[fe80::1%eth0]:9001"),
        ("IPv6:localhost:9001", "IPv6:localhost:9001"),
        ("FD:3", "FD:3"),
        ("FD:3:3", "FD:3"),
        ("FD:3:4", "FD:3:4"),
        ("FD:-1:4", "FD:-1:4"),
        ("FD:3:-1", "FD:3:-1"),
        ("SESSIOND:127.0.0.1:54321", "SESSIOND:127.0.0.1:54321"),
        ("SESSIOND:localhost:0", "SESSIOND:localhost:0"),
        ("SESSIOND:[::1]:54321", "SESSIOND:[::1]:54321"),
    ] {
        let address = parse(text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(address.to_string(), back, "{text}");
        assert_eq!(parse(back), Ok(address), "{back}");
    }
}

#[test]
fn an_invalid_address_is_refused_with_its_text_and_the_reason() {
    let long = format!("UNIX:/{}", "x".repeat(107));
    for (text, why) in [
        ("", "must start with UNIX:, IP:, IPv4:, IPv6:, FD: or SESSIOND:"),
        ("9001", "must start with UNIX:, IP:, IPv4:, IPv6:, FD: or SESSIOND:"),
        ("TCP:localhost:1", "must start with UNIX:, IP:, IPv4:, IPv6:, FD: or SESSIOND:"),
        ("unix:/tmp/x", "must start with UNIX:, IP:, IPv4:, IPv6:, FD: or SESSIOND:"),
        ("UNIX:", "empty"),
        ("UNIX:@", "empty"),
        ("UNIX:/a\0b", "NUL"),
        (long.as_str(), "107 bytes"),
        ("IP:", "port is missing"),
        ("IP:host:", "port is missing"),
        ("IP:host:http", "not a number"),
        ("IP:host:+1", "not a number"),
        ("IP:65536", "above 65535"),
        ("IP:127.0.0.1", "no port"),
        ("IP:cachehost", "it has no port"),
        ("IPv4:cachehost", "it has no port"),
        ("IP:::1:9001", "belongs in []"),
        ("IP:[::1]9001", "]:port"),
        ("IP:[::1]", "]:port"),
        ("IP:[]:9001", "not an IPv6"),
        ("IP:[::1%]:9001", "not an IPv6"),
        ("IP:[localhost]:9001", "not an IPv6"),
        ("IP:a b:9001", "no host has"),
        ("IPv4:[::1]:9001", "other IP version"),
        ("IPv6:127.0.0.1:9001", "other IP version"),
        ("FD:", "descriptor"),
        ("FD:x", "descriptor"),
        ("FD:-2", "descriptor"),
        ("FD:1:2:3", "descriptor"),
        ("FD:-1", "no descriptor"),
        ("FD:-1:-1", "no descriptor"),
        ("FD:99999999999", "that large"),
        ("SESSIOND:54321", "host is missing"),
        ("SESSIOND::54321", "host is missing"),
        ("SESSIOND:127.0.0.1", "no port"),
        ("SESSIOND:127.0.0.1:", "port is missing"),
        ("SESSIOND:host:65536", "above 65535"),
        ("SESSIOND:::1:54321", "belongs in []"),
        ("sessiond:host:1", "must start with UNIX:, IP:, IPv4:, IPv6:, FD: or SESSIOND:"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        let named = error.contains(&*text.escape_debug().to_string());
        assert!(named && error.contains(why), "{text:?} gave: {error}");
    }
}

#[test]
fn an_address_without_its_prefix_gets_a_suggestion() {
    for (text, meant) in [
        ("127.0.0.1:9001", "IP:127.0.0.1:9001"),
        ("localhost:9001", "IP:localhost:9001"),
        ("[::1]:9001", "IP:[::1]:9001"),
        (":9001", "IP::9001"),
        ("9001", "IP:9001"),
        ("/run/distcache/scache", "UNIX:/run/distcache/scache"),
        ("@name", "UNIX:@name"),
        ("unix:/tmp/x", "UNIX:/tmp/x"),
        ("ip:host:1", "IP:host:1"),
        ("tcp:host:1", "IP:host:1"),
        ("sessiond:host:1", "SESSIOND:host:1"),
        ("fd:3", "FD:3"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.ends_with(&format!("(did you mean {meant}?)")), "{error}");
    }
    for text in ["", "nonsense", "a b:1", "::1:9001", "unix:", "host:http"] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains("UNIX:") && !error.contains("mean"), "{error}");
    }
}

#[test]
fn a_unix_path_of_107_bytes_is_the_longest() {
    assert!(parse(&format!("UNIX:/{}", "x".repeat(106))).is_ok());
    assert!(parse(&format!("UNIX:@{}", "x".repeat(107))).is_ok());
}

#[test]
fn numeric_addresses_resolve_without_a_name_server() {
    for (text, target) in [
        ("IP:9001", "IP:[::]:9001 IP:0.0.0.0:9001"),
        ("IPv4:9001", "IP:0.0.0.0:9001"),
        ("IPv6:9001", "IP:[::]:9001"),
        ("IP:127.0.0.1:9001", "IP:127.0.0.1:9001"),
        ("IPv6:[::1]:9001", "IP:[::1]:9001"),
        ("UNIX:/tmp/x", "UNIX:/tmp/x"),
        ("FD:3:-1", "FD:3:-1"),
        ("SESSIOND:127.0.0.1:9", "IP:127.0.0.1:9"),
    ] {
        let address = parse(text).unwrap();
        assert!(address.is_numeric(), "{text}");
        let targets = address.resolve().unwrap();
        let targets: Vec<_> = targets.iter().map(Target::to_string).collect();
        assert_eq!(targets.join(" "), target, "{text}");
    }
    assert!(!parse("IP:localhost:1").unwrap().is_numeric());
    assert!(!parse("IP:[fe80::1%lo]:1").unwrap().is_numeric());
}

#[test]
fn a_name_resolves_to_addresses_of_the_requested_family() {
    for target in parse("IPv4:localhost:9001").unwrap().resolve().unwrap() {
        assert!(matches!(target, Target::Ip(SocketAddr::V4(_))), "{target}");
    }
    assert!(!parse("IP:localhost:9001").unwrap().resolve().unwrap().is_empty());
}

#[test]
fn only_an_address_with_host_and_port_is_connectable() {
    for (text, lawful) in [
        ("IP:9001", false),
        ("IP:h:0", false),
        ("IP:h:1", true),
        ("UNIX:/x", true),
        ("FD:3", true),
        ("SESSIOND:h:1", false),
    ] {
        assert_eq!(parse(text).unwrap().connectable().is_ok(), lawful, "{text}");
    }
}

#[test]
fn a_relative_path_starts_at_the_working_directory() {
    let address = parse("UNIX:here").unwrap().absolute().unwrap();
    let Address::Unix(name) = address else { panic!("still a UNIX address") };
    assert_eq!(name.path().unwrap(), std::env::current_dir().unwrap().join("here"));
}
