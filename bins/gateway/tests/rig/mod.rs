//! Real engines, and a gateway in front of them. All end with the test, by their ids.
#![allow(dead_code, reason = "each test takes what it needs")]

pub(crate) mod load;

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use distcache_testing::process::{Dir, Program, until};
use distcache_testing::rig::{can_run, succeed};

/// The program under test.
pub(crate) fn dc_gateway() -> String {
    match option_env!("CARGO_BIN_EXE_dc_gateway") {
        Some(path) => path.to_owned(),
        // A test of another package: the program is built beside that one's own.
        None => {
            succeed(Command::new(env!("CARGO")).args(["build", "-p", "distcache-gateway"]));
            let test = std::env::current_exe().expect("the path of this test");
            let beside = test.ancestors().nth(2).expect("a directory above that of the tests");
            beside.join("dc_gateway").display().to_string()
        }
    }
}

/// The engines to test with: Debian's, and the one at `DC_VALKEY` where that is set. Empty, and said by
/// name, where there is none and that is allowed.
pub(crate) fn engines(test: &str) -> Vec<String> {
    let mut engines = Vec::new();
    if can_run(test, false, &["redis-server", "redis-cli"]) {
        engines.push("redis-server".to_owned());
    }
    match std::env::var("DC_VALKEY") {
        Ok(path) if !path.is_empty() => engines.push(path),
        _ => eprintln!("SKIPPED: {test} with Valkey: DC_VALKEY names no valkey-server"),
    }
    engines
}

/// Ports that nothing listens on, and that this process has not given out before.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().expect("nobody panics with it");
    let mut sockets = Vec::new();
    let mut ports = Vec::new();
    while ports.len() < count {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("its number").port();
        if !given.contains(&port) {
            given.push(port);
            ports.push(port);
        }
        sockets.push(socket);
    }
    ports
}

/// A directory of an engine: in memory where there is such a thing. A node of a cluster answers nobody
/// while it waits for the disk to have its nodes.conf, and that is not what is tested here.
struct Room(PathBuf);

impl Room {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = place.join(format!("dc-engine-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("a directory for the engine");
        Self(path)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One engine process.
pub(crate) struct Engine {
    pub(crate) program: Program,
    pub(crate) port: u16,
    _dir: Room,
    auth: Vec<String>,
}

impl Engine {
    /// A server by itself, with more words for its command line.
    pub(crate) fn start(engine: &str, words: &[&str]) -> Self {
        let port = free_ports(1)[0];
        let number = port.to_string();
        Self::at(engine, port, &[&["--port", &number, "--bind", "127.0.0.1"], words].concat())
    }

    /// A server of which `words` say where it listens.
    pub(crate) fn at(engine: &str, port: u16, words: &[&str]) -> Self {
        let dir = Room::new();
        let mut command = Command::new(engine);
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(&dir.0).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let program = Program::spawn(command);
        let engine = Self { program, port, _dir: dir, auth: Vec::new() };
        engine.program.out.wait_for("eady to accept connections");
        engine
    }

    /// Has `redis-cli` log in.
    pub(crate) fn with_password(mut self, password: &str) -> Self {
        self.auth = vec!["--no-auth-warning".into(), "-a".into(), password.into()];
        self
    }

    /// What the server says to a command.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        self.try_ask(words).expect("the server answers")
    }

    /// The same, where it may be gone.
    pub(crate) fn try_ask(&self, words: &[&str]) -> Option<String> {
        // One that is stopped never answers.
        let mut command = Command::new("timeout");
        command.args(["2", "redis-cli", "-p", &self.port.to_string()]).args(&self.auth).args(words);
        let output = command.stdin(Stdio::null()).output().expect("redis-cli runs");
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        output.status.success().then_some(text)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

/// Several engines that are one cluster.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Engine>,
    /// A word for each shard: keys with `{word}` in them are that shard's.
    pub(crate) tags: Vec<String>,
}

impl Cluster {
    /// As many shards, each with as many replicas. A shard that is away is no reason for the others
    /// to refuse.
    pub(crate) fn start(engine: &str, shards: usize, replicas: usize) -> Self {
        let count = shards * (replicas + 1);
        let ports = free_ports(2 * count);
        let node = |at: usize| {
            let (port, bus) = (ports[at].to_string(), ports[count + at].to_string());
            let words = ["--port", &port, "--cluster-port", &bus, "--bind", "127.0.0.1"];
            let more = [
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "1000",
                "--cluster-require-full-coverage",
                "no",
                "--repl-diskless-sync-delay",
                "0",
            ];
            Engine::at(engine, ports[at], &[&words[..], &more].concat())
        };
        let nodes: Vec<Engine> = (0..count).map(node).collect();
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]);
        create.args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)));
        create.args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"]);
        succeed(&mut create);
        let mut cluster = Self { nodes, tags: Vec::new() };
        for node in &cluster.nodes {
            until("a node that knows the cluster", || {
                let info = node.ask(&["cluster", "info"]);
                let whole = format!("cluster_known_nodes:{count}");
                (info.contains("cluster_state:ok") && info.contains(&whole)).then_some(())
            });
        }
        until("replicas that follow", || {
            let linked = |node: &Engine| {
                let role = node.ask(&["role"]);
                role.starts_with("master") || role.contains("connected")
            };
            cluster.nodes.iter().all(linked).then_some(())
        });
        cluster.tags = (0..shards).map(|shard| cluster.tag_of(shard)).collect();
        cluster
    }

    /// A word that makes keys those of the shard of which node number `shard` is the master now.
    fn tag_of(&self, shard: usize) -> String {
        let ranges = self.slots();
        let port = self.nodes[shard].port;
        let mut words = (0..).map(|number| format!("t{number}"));
        let owned = |word: &String| {
            let slot = self.slot(word);
            ranges.iter().any(|(first, last, at)| (first..=last).contains(&&slot) && *at == port)
        };
        words.find(owned).expect("some word is this shard's")
    }

    pub(crate) fn slot(&self, word: &str) -> u16 {
        let answer = self.nodes[0].ask(&["cluster", "keyslot", word]);
        answer.parse().expect("a number")
    }

    /// First and last slot, and the master's port, as the first node that answers sees it.
    pub(crate) fn slots(&self) -> Vec<(u16, u16, u16)> {
        let nodes = self.nodes.iter().find_map(|node| node.try_ask(&["cluster", "nodes"]));
        let mut slots = Vec::new();
        for line in nodes.expect("a node answers").lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let place = fields[1].split('@').next().unwrap_or_default();
            let port = place.rsplit(':').next().and_then(|port| port.parse().ok());
            for range in fields[8..].iter().filter(|field| !field.starts_with('[')) {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let number = |text: &str| text.parse().expect("a slot");
                slots.push((number(first), number(last), port.expect("a port")));
            }
        }
        slots
    }

    /// The port of the master of a shard's keys now.
    pub(crate) fn master_of(&self, shard: usize) -> Option<u16> {
        let slot = self.slot(&self.tags[shard]);
        let slots = self.slots();
        slots.iter().find(|(first, last, _)| (first..=last).contains(&&slot)).map(|row| row.2)
    }

    pub(crate) fn node(&self, port: u16) -> &Engine {
        self.nodes.iter().find(|node| node.port == port).expect("a node of ours")
    }

    /// The ids of the nodes by their ports.
    pub(crate) fn ids(&self) -> HashMap<u16, String> {
        let alive = |node: &&Engine| node.try_ask(&["cluster", "myid"]).is_some();
        self.nodes.iter().filter(alive).map(|n| (n.port, n.ask(&["cluster", "myid"]))).collect()
    }

    pub(crate) fn url(&self) -> String {
        let places: Vec<String> =
            self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis://{}", places.join(","))
    }
}

/// A gateway that listens on a UNIX socket in `dir`.
pub(crate) fn gateway(dir: &Dir, url: &str, words: &[&str]) -> (Program, String) {
    let address = dir.address("gateway");
    let usual = ["-listen", &address, "-engine", url];
    let program = Program::start(&dc_gateway(), &[&usual, words].concat());
    program.address();
    (program, address)
}

/// A number that the gateway has printed last before a word.
pub(crate) fn number(text: &str, behind: &str) -> u64 {
    let at = text.rfind(behind).unwrap_or_else(|| panic!("no {behind:?} in {text}"));
    let words = text[..at].trim_end();
    let digits = words.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or_else(|_| panic!("a number before {behind:?} in {text}"))
}
