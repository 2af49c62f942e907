//! The programs under siege, and what they say of it.

use std::time::Duration;

use crate::load::{Load, Timings, alone};
use crate::process::{Program, Signal, until};
use crate::start::{self, ANY_PORT};

/// How many rounds a load goes through in quiet, and again under siege.
pub const ROUNDS: usize = 100;

/// A program under siege, with what it needs behind it.
#[derive(Debug)]
pub struct Siege {
    /// What the besieged is called.
    pub name: &'static str,
    /// The besieged.
    pub program: Program,
    /// Where it listens.
    pub address: String,
    /// The server behind a proxy.
    pub server: Option<Program>,
}

/// What a program says at its end became of clients.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Clients taken.
    pub clients: u64,
    /// Clients refused.
    pub refused: u64,
    /// Clients closed for what they sent.
    pub malformed: u64,
    /// Clients closed for their silence.
    pub idle: u64,
    /// Clients closed in the middle of a request, or of an answer.
    pub stalled: u64,
}

impl Counters {
    /// Those of the last such line.
    pub fn last(text: &str) -> Option<Self> {
        text.lines().rev().find_map(Self::read)
    }

    /// Those of a line, where it is such a one.
    pub fn read(line: &str) -> Option<Self> {
        let (_, line) = line.split_once(": ")?;
        let (clients, line) = line.split_once(" clients accepted, ")?;
        let (refused, line) = line.split_once(" refused; closed: ")?;
        let (malformed, line) = line.split_once(" malformed, ")?;
        let (idle, line) = line.split_once(" idle, ")?;
        let number = |text: &str| text.parse().ok();
        Some(Self {
            clients: number(clients)?,
            refused: number(refused)?,
            malformed: number(malformed)?,
            idle: number(idle)?,
            stalled: number(line.strip_suffix(" stalled")?)?,
        })
    }
}

/// Besieges both programs, one after the other, and nobody else meanwhile.
pub fn each(dc_client: &str, dc_server: &str, arguments: &[&str], mut besiege: impl FnMut(Siege)) {
    let _alone = alone();
    besiege(Siege::server(dc_server, arguments));
    besiege(Siege::proxy(dc_client, dc_server, arguments));
}

impl Siege {
    /// A server.
    pub fn server(dc_server: &str, arguments: &[&str]) -> Self {
        let program = start::server(dc_server, ANY_PORT, arguments);
        let address = program.address();
        Self { name: "dc_server", program, address, server: None }
    }

    /// A proxy, with a server behind it that is told nothing.
    pub fn proxy(dc_client: &str, dc_server: &str, arguments: &[&str]) -> Self {
        let server = Self::server(dc_server, &[]);
        let words = [&["-retry", "50"], arguments].concat();
        let program = start::connected(dc_client, ANY_PORT, &server.address, &words);
        let address = program.address();
        Self { name: "dc_client", program, address, server: Some(server.program) }
    }

    /// Measures a load in quiet, to be measured again.
    pub fn load(&self) -> (Load, Timings) {
        let mut load = Load::to(&self.address);
        // What is done for the first time takes its own time.
        load.quiet(20);
        let quiet = load.quiet(ROUNDS);
        (load, quiet)
    }

    /// Ends it in good order, prints what the siege did to a load, and says what it counted.
    ///
    /// # Panics
    /// Where it does not end in good order, or does not say.
    pub fn lifted(self, abuse: &str, quiet: &Timings, under: &Timings) -> Counters {
        let ended = self.program.end(Signal::TERM);
        assert_eq!(ended.code, 0, "{}", ended.err);
        let counters = Counters::last(&ended.err);
        let counters = counters.unwrap_or_else(|| panic!("no counters in {}", ended.err));
        if let Some(server) = self.server {
            let ended = server.end(Signal::TERM);
            assert_eq!(ended.code, 0, "{}", ended.err);
            let behind = Counters::last(&ended.err).expect("the server's counters");
            assert_eq!((behind.clients, behind.malformed), (1, 0), "all of it ends at the proxy");
        }
        row(self.name, abuse, quiet, under, &counters);
        counters
    }
}

/// Prints a line of the table of all sieges.
pub fn row(name: &str, abuse: &str, quiet: &Timings, under: &Timings, counters: &Counters) {
    let Counters { clients, refused, malformed, idle, stalled } = counters;
    println!(
        "| {name} | {abuse} | {} | {} / {} us | {} / {} us | {clients} clients, {refused} refused, \
         {malformed} malformed, {idle} idle, {stalled} stalled |",
        quiet.answers + under.answers,
        quiet.percentile(50),
        quiet.percentile(99),
        under.percentile(50),
        under.percentile(99),
    );
}

/// How much time of a processor a process has used, in hundredths of a second.
///
/// # Panics
/// Where it is gone.
pub fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a program that runs");
    // The name is in brackets, and may have anything in it.
    let (_, behind) = stat.rsplit_once(") ").expect("a name in brackets");
    let number = |at: usize| behind.split(' ').nth(at).and_then(|word| word.parse().ok());
    let (user, system): (Option<u64>, Option<u64>) = (number(11), number(12));
    user.zip(system).map(|(user, system)| user + system).expect("its times")
}

/// Waits until a process has nothing to do: who spins never has.
///
/// # Panics
/// Where it goes on and on.
pub fn rests(pid: u32) {
    until("a while in which it uses no time", || {
        let before = ticks(pid);
        // That nothing happens is no event: the while itself is what is measured.
        std::thread::sleep(Duration::from_millis(400));
        (ticks(pid) - before <= 2).then_some(())
    });
}

/// Whether a test may make namespaces, for which it must be root.
///
/// # Panics
/// See [`crate::rig::can_run`].
pub fn may_make_namespaces(test: &str) -> bool {
    crate::rig::can_run(test, true, &["ip", "nsenter", "unshare"])
}
