//! Starts the programs as most tests need them.

use crate::process::Program;

/// Listens on a port that the system chooses.
pub const ANY_PORT: &str = "IP:127.0.0.1:0";

/// Starts a server, and waits until it listens.
///
/// # Panics
/// If it does not.
pub fn server(dc_server: &str, listen: &str, arguments: &[&str]) -> Program {
    listening(dc_server, &["-listen", listen], arguments)
}

/// Starts a proxy or a snoop in front of a server, and waits until it listens.
///
/// # Panics
/// If it does not.
pub fn before(program: &str, listen: &str, server: &str, arguments: &[&str]) -> Program {
    listening(program, &["-listen", listen, "-server", server], arguments)
}

/// Starts a proxy, and waits until it listens and is connected to its server. The server's timeout
/// is long by default, since a server may be slow on a busy machine.
///
/// # Panics
/// If either does not happen.
pub fn connected(dc_client: &str, listen: &str, server: &str, arguments: &[&str]) -> Program {
    let arguments = [&["-servertimeout", "10000"], arguments].concat();
    let program = before(dc_client, listen, server, &arguments);
    program.err.wait_for("connected to ");
    program
}

fn listening(program: &str, usual: &[&str], arguments: &[&str]) -> Program {
    let program = Program::start(program, &[usual, arguments].concat());
    program.address();
    program
}
