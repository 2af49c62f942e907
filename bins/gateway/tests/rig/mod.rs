//! Real engines and a gateway. All processes end with the test.
#![allow(dead_code, reason = "each test uses a part")]

pub(crate) mod load;

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use distcache_testing::process::{Dir, Program, skip, until};
use distcache_testing::rig::{can_run, succeed};

/// The program under test.
pub(crate) fn dc_gateway() -> String {
    match option_env!("CARGO_BIN_EXE_dc_gateway") {
        Some(path) => path.to_owned(),
        // For a test of another package, cargo does not build the program.
        None => {
            succeed(Command::new(env!("CARGO")).args(["build", "-p", "distcache-gateway"]));
            let test = std::env::current_exe().expect("the path of this test");
            let dir = test.ancestors().nth(2).expect("the directory above that of the tests");
            dir.join("dc_gateway").display().to_string()
        }
    }
}

/// The engines to test with: Debian's Redis, and the Valkey at `DC_VALKEY` if that is set. Prints the name
/// of the test for each that is missing.
pub(crate) fn engines(test: &str) -> Vec<String> {
    let mut engines = Vec::new();
    if can_run(test, false, &["redis-server", "redis-cli"]) {
        engines.push("redis-server".to_owned());
    }
    match std::env::var("DC_VALKEY") {
        Ok(path) if !path.is_empty() => engines.push(path),
        _ => skip("a valkey-server at DC_VALKEY"),
    }
    engines
}

/// Ports without a listener, which this process has not returned before.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().expect("no thread panics with it");
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

/// The directory of an engine, in memory if possible. A node of a cluster does not reply while it waits
/// for the disk to store its nodes.conf, and these tests are not about disks.
struct EngineDir(PathBuf);

impl EngineDir {
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

impl Drop for EngineDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One engine process.
pub(crate) struct Engine {
    pub(crate) program: Program,
    pub(crate) port: u16,
    _dir: EngineDir,
    auth: Vec<String>,
}

impl Engine {
    /// A server by itself, with more words for its command line.
    pub(crate) fn start(engine: &str, words: &[&str]) -> Self {
        let port = free_ports(1)[0];
        let number = port.to_string();
        Self::at(engine, port, &[&["--port", &number, "--bind", "127.0.0.1"], words].concat())
    }

    /// Starts a server with `words`, which name its port.
    pub(crate) fn at(engine: &str, port: u16, words: &[&str]) -> Self {
        let dir = EngineDir::new();
        let mut command = Command::new(engine);
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(&dir.0).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let program = Program::spawn(command);
        let engine = Self { program, port, _dir: dir, auth: Vec::new() };
        engine.program.out.wait_for("eady to accept connections");
        engine
    }

    /// Makes `redis-cli` authenticate.
    pub(crate) fn with_password(mut self, password: &str) -> Self {
        self.auth = vec!["--no-auth-warning".into(), "-a".into(), password.into()];
        self
    }

    /// The reply of the server to a command.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        self.try_ask(words).expect("the server answers")
    }

    /// The same for a server that may have ended.
    pub(crate) fn try_ask(&self, words: &[&str]) -> Option<String> {
        // A stopped server never replies.
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

/// The engines of a cluster.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Engine>,
    /// A word for each shard: keys with `{word}` belong to the shard.
    pub(crate) tags: Vec<String>,
}

impl Cluster {
    /// Starts a cluster. A failed shard does not make the others refuse.
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

    /// A word whose keys belong to the shard with node number `shard` as its master.
    fn tag_of(&self, shard: usize) -> String {
        let ranges = self.slots();
        let port = self.nodes[shard].port;
        let mut words = (0..).map(|number| format!("t{number}"));
        let owned = |word: &String| {
            let slot = self.slot(word);
            ranges.iter().any(|(first, last, at)| (first..=last).contains(&&slot) && *at == port)
        };
        words.find(owned).expect("a word of this shard")
    }

    pub(crate) fn slot(&self, word: &str) -> u16 {
        let answer = self.nodes[0].ask(&["cluster", "keyslot", word]);
        answer.parse().expect("a number")
    }

    /// Rows of the first and last slot and the master's port, from the first node that replies.
    pub(crate) fn slots(&self) -> Vec<(u16, u16, u16)> {
        let nodes = self.nodes.iter().find_map(|node| node.try_ask(&["cluster", "nodes"]));
        let mut slots = Vec::new();
        for line in nodes.expect("a node that replies").lines() {
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

    /// The port of the present master of a shard.
    pub(crate) fn master_of(&self, shard: usize) -> Option<u16> {
        let slot = self.slot(&self.tags[shard]);
        let slots = self.slots();
        slots.iter().find(|(first, last, _)| (first..=last).contains(&&slot)).map(|row| row.2)
    }

    pub(crate) fn node(&self, port: u16) -> &Engine {
        self.nodes.iter().find(|node| node.port == port).expect("a node of this cluster")
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

/// Starts a gateway on a UNIX socket in `dir`.
pub(crate) fn gateway(dir: &Dir, url: &str, words: &[&str]) -> (Program, String) {
    let address = dir.address("gateway");
    let common = ["-listen", &address, "-engine", url];
    let program = Program::start(&dc_gateway(), &[&common, words].concat());
    program.address();
    (program, address)
}

/// The last number that is printed before a word.
pub(crate) fn number(text: &str, behind: &str) -> u64 {
    let at = text.rfind(behind).unwrap_or_else(|| panic!("no {behind:?} in {text}"));
    let words = text[..at].trim_end();
    let digits = words.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or_else(|_| panic!("a number before {behind:?} in {text}"))
}
