//! Two hosts with a cable between them on this machine. Each is a network namespace, which
//! disappears with the process that holds it.

use std::process::Command;

use crate::process::{Program, until};

/// The address of host `a`.
pub const A: &str = "10.91.0.1";
/// The address of host `b`.
pub const B: &str = "10.91.0.2";

/// Two hosts.
#[derive(Debug)]
pub struct Lan {
    a: Program,
    b: Program,
}

impl Lan {
    /// Creates both, and the cable.
    ///
    /// # Panics
    /// If that fails: it needs root.
    #[allow(clippy::new_without_default, reason = "it makes something in the system")]
    pub fn new() -> Self {
        // A limit, in case the test is killed.
        let host = || Program::start("unshare", &["--net", "sleep", "300"]);
        let lan = Self { a: host(), b: host() };
        let ours = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
        for host in [&lan.a, &lan.b] {
            let theirs = format!("/proc/{}/ns/net", host.pid());
            until("a network of its own", || {
                std::fs::read_link(&theirs).is_ok_and(|theirs| theirs != ours).then_some(())
            });
        }
        let b = lan.b.pid().to_string();
        lan.on_a(&[
            "ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", &b,
        ]);
        for (host, address) in [(&lan.a, A), (&lan.b, B)] {
            let address = format!("{address}/24");
            run(host, &["ip", "address", "add", &address, "dev", "wire"]);
            run(host, &["ip", "link", "set", "lo", "up"]);
            run(host, &["ip", "link", "set", "wire", "up"]);
        }
        lan
    }

    /// Runs a command on host `a`.
    ///
    /// # Panics
    /// If it fails.
    pub fn on_a(&self, words: &[&str]) {
        run(&self.a, words);
    }

    /// Runs a command on host `b`.
    ///
    /// # Panics
    /// If it fails.
    pub fn on_b(&self, words: &[&str]) {
        run(&self.b, words);
    }

    /// Starts a program on host `a`.
    pub fn start_on_a(&self, words: &[&str]) -> Program {
        start(&self.a, words)
    }

    /// Starts a program on host `b`.
    pub fn start_on_b(&self, words: &[&str]) -> Program {
        start(&self.b, words)
    }
}

fn start(host: &Program, words: &[&str]) -> Program {
    let host = host.pid().to_string();
    Program::start("nsenter", &[&["-t", &host, "-n", "--"], words].concat())
}

fn run(host: &Program, words: &[&str]) {
    let host = host.pid().to_string();
    let output = Command::new("nsenter").args(["-t", &host, "-n", "--"]).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{words:?}: {error}"));
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}
