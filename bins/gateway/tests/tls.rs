//! TLS between the gateway and the engine, with certificates on both sides.

mod rig;

use distcache_testing::bytes::{HAVE, add, get, have, session, status};
use distcache_testing::process::{Dir, Signal};
use distcache_testing::raw_client::{RawClient, ask_until};

use rig::{Engine, engines, free_ports, gateway};

/// A self-signed certificate for `localhost` and its key, as files.
fn certificate(dir: &Dir, name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (cert, key) = (dir.text(&format!("{name}.pem")), dir.text(&format!("{name}.key")));
    std::fs::write(&cert, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    (cert, key)
}

#[test]
fn tls_needs_valid_certificates_on_both_sides() {
    // The Valkey of PyPI has no TLS.
    for name in engines("tls").iter().filter(|name| name.ends_with("redis-server")) {
        let dir = Dir::new();
        let (cert, key) = certificate(&dir, "engine");
        let (own, own_key) = certificate(&dir, "gateway");
        let (other, other_key) = certificate(&dir, "other");
        let port = free_ports(1)[0];
        let at = port.to_string();
        let words = ["--port", "0", "--tls-port", &at, "--bind", "127.0.0.1", "--tls-cert-file"];
        let files = [&cert, "--tls-key-file", &key, "--tls-ca-cert-file", &own];
        let _engine = Engine::at(name, port, &[&words[..], &files].concat());
        let url = format!("rediss://localhost:{port}");
        let good = ["-cafile", &cert, "-tlscert", &own, "-tlskey", &own_key];
        let (program, address) = gateway(&dir, &url, &good);
        let client = RawClient::connect(&address);
        ask_until(&address, &have(1, b"a"), &status(1, HAVE, 1));
        assert_eq!(client.ask(&add(2, b"a", &[7; 5000])), status(2, 0, 0));
        assert!(client.ask(&get(3, b"a")) == session(3, &[7; 5000]));
        program.end(Signal::TERM);
        let wrong: [&[&str]; 4] = [
            &["-cafile", &other, "-tlscert", &own, "-tlskey", &own_key],
            &["-cafile", &cert, "-tlscert", &other, "-tlskey", &other_key],
            &["-cafile", &cert],
            &["-cafile", &cert, "-tlscert", &own, "-tlskey", &own_key, "-tlsname", "elsewhere"],
        ];
        for words in wrong {
            let (program, address) = gateway(&dir, &url, words);
            program.err.wait_for("cannot reach the engine");
            assert_eq!(
                RawClient::connect(&address).ask(&have(1, b"a")),
                status(1, HAVE, 2),
                "{words:?}"
            );
            program.end(Signal::TERM);
        }
    }
}
