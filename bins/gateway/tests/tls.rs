//! TLS between the gateway and the engine, with certificates on both sides.

mod rig;

use distcache_testing::bytes::{HAVE, add, get, have, session, status};
use distcache_testing::process::{Dir, Signal};
use distcache_testing::raw_client::{RawClient, ask_until};

use rig::{Engine, engines, free_ports, gateway};

/// A key and a certificate for `localhost` that vouches for itself, as files.
fn certificate(dir: &Dir, name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (cert, key) = (dir.text(&format!("{name}.pem")), dir.text(&format!("{name}.key")));
    std::fs::write(&cert, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    (cert, key)
}

#[test]
fn the_engine_is_reached_by_tls_and_only_if_both_are_who_they_claim_to_be() {
    // Valkey as PyPI has it has no TLS.
    for name in engines("tls").iter().filter(|name| name.ends_with("redis-server")) {
        let dir = Dir::new();
        let (cert, key) = certificate(&dir, "engine");
        let (ours, our_key) = certificate(&dir, "gateway");
        let (other, other_key) = certificate(&dir, "other");
        let port = free_ports(1)[0];
        let at = port.to_string();
        let words = ["--port", "0", "--tls-port", &at, "--bind", "127.0.0.1", "--tls-cert-file"];
        let files = [&cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ours];
        let _engine = Engine::at(name, port, &[&words[..], &files].concat());
        let url = format!("rediss://localhost:{port}");
        let good = ["-cafile", &cert, "-tlscert", &ours, "-tlskey", &our_key];
        let (program, address) = gateway(&dir, &url, &good);
        let caller = RawClient::connect(&address);
        ask_until(&address, &have(1, b"a"), &status(1, HAVE, 1));
        assert_eq!(caller.ask(&add(2, b"a", &[7; 5000])), status(2, 0, 0));
        assert!(caller.ask(&get(3, b"a")) == session(3, &[7; 5000]));
        program.end(Signal::TERM);
        let wrong: [&[&str]; 4] = [
            &["-cafile", &other, "-tlscert", &ours, "-tlskey", &our_key],
            &["-cafile", &cert, "-tlscert", &other, "-tlskey", &other_key],
            &["-cafile", &cert],
            &["-cafile", &cert, "-tlscert", &ours, "-tlskey", &our_key, "-tlsname", "elsewhere"],
        ];
        for words in wrong {
            let (program, address) = gateway(&dir, &url, words);
            program.err.wait_for("no engine node can be asked");
            assert_eq!(
                RawClient::connect(&address).ask(&have(1, b"a")),
                status(1, HAVE, 2),
                "{words:?}"
            );
            program.end(Signal::TERM);
        }
    }
}
