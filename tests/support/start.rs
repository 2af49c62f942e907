//! The programs, started as most tests need them.

use crate::process::Program;

/// Where to listen: the system chooses the port.
pub const ANY_PORT: &str = "IP:127.0.0.1:0";

/// A server, once it listens.
///
/// # Panics
/// Where it does not come up.
pub fn server(dc_server: &str, listen: &str, arguments: &[&str]) -> Program {
    listening(dc_server, &["-listen", listen], arguments)
}

/// A proxy or a snoop in front of a server, once it listens.
///
/// # Panics
/// Where it does not come up.
pub fn before(program: &str, listen: &str, server: &str, arguments: &[&str]) -> Program {
    listening(program, &["-listen", listen, "-server", server], arguments)
}

/// A proxy, once it listens and is connected to its server. It is patient with that, unless
/// `arguments` say otherwise: a busy machine may let a server wait for long.
///
/// # Panics
/// Where it does not come up, or does not find its server.
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
