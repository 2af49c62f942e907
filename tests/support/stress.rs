//! Stress tests of the programs, and what they report.

use std::time::Duration;

use crate::load::{Load, Timings, measure_alone};
use crate::process::{Program, Signal, until};
use crate::start::{self, ANY_PORT};

/// How many rounds a load goes through undisturbed, and again under stress.
pub const ROUNDS: usize = 100;

/// A program under stress.
#[derive(Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// The program itself.
    pub program: Program,
    /// Where it listens.
    pub address: String,
    /// The server behind a proxy.
    pub server: Option<Program>,
}

/// What a program reports about its clients at its end.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Clients accepted.
    pub clients: u64,
    /// Clients refused.
    pub refused: u64,
    /// Clients closed for malformed input.
    pub malformed: u64,
    /// Clients closed as idle.
    pub idle: u64,
    /// Clients closed in the middle of a request or of an answer.
    pub stalled: u64,
}

impl Counters {
    /// Returns the counters in the last line that has them.
    pub fn last(text: &str) -> Option<Self> {
        text.lines().rev().find_map(Self::read)
    }

    /// Returns the counters in a line, if it has them.
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

/// Runs a test on both programs, one after the other, and no other test at the same time.
pub fn each(dc_client: &str, dc_server: &str, arguments: &[&str], mut test: impl FnMut(Target)) {
    let _alone = measure_alone();
    test(Target::server(dc_server, arguments));
    test(Target::proxy(dc_client, dc_server, arguments));
}

impl Target {
    /// Starts a server.
    pub fn server(dc_server: &str, arguments: &[&str]) -> Self {
        let program = start::server(dc_server, ANY_PORT, arguments);
        let address = program.address();
        Self { name: "dc_server", program, address, server: None }
    }

    /// Starts a proxy, with a server behind it that has no further arguments.
    pub fn proxy(dc_client: &str, dc_server: &str, arguments: &[&str]) -> Self {
        let server = Self::server(dc_server, &[]);
        let words = [&["-retry", "50"], arguments].concat();
        let program = start::connected(dc_client, ANY_PORT, &server.address, &words);
        let address = program.address();
        Self { name: "dc_client", program, address, server: Some(server.program) }
    }

    /// Connects a load and measures it undisturbed.
    pub fn load(&self) -> (Load, Timings) {
        let mut load = Load::connect(&self.address);
        // The first rounds are slower.
        load.run(20);
        let undisturbed = load.run(ROUNDS);
        (load, undisturbed)
    }

    /// Ends the program, prints how the load fared, and returns the counters.
    ///
    /// # Panics
    /// If the program does not end with 0 and its counters.
    pub fn finish(self, attack: &str, undisturbed: &Timings, stressed: &Timings) -> Counters {
        let ended = self.program.end(Signal::TERM);
        assert_eq!(ended.code, 0, "{}", ended.err);
        let counters = Counters::last(&ended.err);
        let counters = counters.unwrap_or_else(|| panic!("no counters in {}", ended.err));
        if let Some(server) = self.server {
            let ended = server.end(Signal::TERM);
            assert_eq!(ended.code, 0, "{}", ended.err);
            let behind = Counters::last(&ended.err).expect("the server's counters");
            assert_eq!(
                (behind.clients, behind.malformed),
                (1, 0),
                "the proxy lets no bad client through"
            );
        }
        print_row(self.name, attack, undisturbed, stressed, &counters);
        counters
    }
}

/// Prints a row of the table of all stress tests.
pub fn print_row(
    name: &str,
    attack: &str,
    undisturbed: &Timings,
    stressed: &Timings,
    counters: &Counters,
) {
    let Counters { clients, refused, malformed, idle, stalled } = counters;
    println!(
        "| {name} | {attack} | {} | {} / {} us | {} / {} us | {clients} clients, {refused} refused, \
         {malformed} malformed, {idle} idle, {stalled} stalled |",
        undisturbed.answers + stressed.answers,
        undisturbed.percentile(50),
        undisturbed.percentile(99),
        stressed.percentile(50),
        stressed.percentile(99),
    );
}

/// Returns how much processor time a process has used, in hundredths of a second.
///
/// # Panics
/// If it has ended.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the program runs");
    // The name is in brackets, and may contain anything.
    let (_, behind) = stat.rsplit_once(") ").expect("a name in brackets");
    let number = |at: usize| behind.split(' ').nth(at).and_then(|word| word.parse().ok());
    let (user, system): (Option<u64>, Option<u64>) = (number(11), number(12));
    user.zip(system).map(|(user, system)| user + system).expect("its times")
}

/// Waits until a process has nothing to do. One that spins never has.
///
/// # Panics
/// If it never is idle.
pub fn wait_until_idle(pid: u32) {
    until("a while without processor time", || {
        let before = cpu_ticks(pid);
        // There is no event to wait for: the time itself is what is measured.
        std::thread::sleep(Duration::from_millis(400));
        (cpu_ticks(pid) - before <= 2).then_some(())
    });
}

/// Returns whether the test on this thread can create namespaces, which needs root.
///
/// # Panics
/// See [`crate::rig::can_run`].
pub fn can_make_namespaces() -> bool {
    let thread = std::thread::current();
    crate::rig::can_run(thread.name().unwrap_or("a test"), true, &["ip", "nsenter", "unshare"])
}
