//! A server that stores nothing: what the kernel alone costs.
//!
//! Every GET is answered with the session that a load expects, which follows from its id, and
//! everything else with "done". One thread, one receive and one send for all requests that have
//! arrived, no checks except of lengths, no limits, no time.

use std::io;

use distcache_posix::load::session;
use distcache_posix::net::address::Address;
use distcache_posix::net::listener::{Listener, Ownership};
use distcache_posix::net::poller::{Events, Interest, Poller};
use distcache_posix::net::stream::{Received, Stream};

const LISTENER: usize = 0;
const HEADER: usize = 14;
const GET: u8 = 1;
/// Bytes of each session.
pub const DATA_LEN: usize = 200;
const INPUT: usize = 1 << 16;
/// The shortest request has 15 bytes; no answer is longer than this.
const ANSWER: usize = HEADER + DATA_LEN;
/// Room for as many answers as requests fit into the input.
const OUTPUT: usize = INPUT / (HEADER + 1) * ANSWER;

/// Serves at `address` as long as the process lives. Calls `ready` with the real address.
///
/// # Errors
/// It can't listen, or the poller fails.
pub fn run(address: &Address, ready: impl FnOnce(&str)) -> io::Result<()> {
    let listener = Listener::open(address, &Ownership::default()).map_err(io::Error::other)?;
    let poller = Poller::new()?;
    poller.add_listener(&listener, LISTENER)?;
    ready(&listener.address());
    let mut floor = Floor {
        clients: Vec::new(),
        free: Vec::new(),
        input: vec![0; INPUT].into(),
        output: vec![0; OUTPUT].into(),
    };
    let mut events = Events::new();
    loop {
        poller.wait(&mut events, None)?;
        for event in events.iter() {
            if event.key == LISTENER {
                floor.accept(&listener, &poller)?;
            } else if !floor.serve(event.key - 1) {
                floor.clients[event.key - 1] = None;
                floor.free.push(event.key - 1);
            }
        }
    }
}

struct Floor {
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    input: Box<[u8]>,
    output: Box<[u8]>,
}

struct Client {
    stream: Stream,
    /// The beginning of an incomplete request.
    begun: Vec<u8>,
}

impl Floor {
    fn accept(&mut self, listener: &Listener, poller: &Poller) -> io::Result<()> {
        while let Some(stream) = listener.accept()? {
            let number = self.free.pop().unwrap_or_else(|| {
                self.clients.push(None);
                self.clients.len() - 1
            });
            poller.add(&stream, number + 1, Interest::READ)?;
            self.clients[number] = Some(Client { stream, begun: Vec::new() });
            // A client that connects for one request has mostly sent it by now; our own server does
            // the same.
            if !self.serve(number) {
                self.clients[number] = None;
                self.free.push(number);
            }
        }
        Ok(())
    }

    /// Receives and sends once. Returns false if the client is gone.
    fn serve(&mut self, number: usize) -> bool {
        let Self { clients, input, output, .. } = self;
        let Some(client) = &mut clients[number] else { return true };
        let begun = client.begun.len();
        input[..begun].copy_from_slice(&client.begun);
        let len = match client.stream.recv(&mut input[begun..]) {
            Ok(Received::Bytes(len)) => begun + len,
            Ok(Received::Nothing) => return true,
            Ok(Received::Ended) | Err(_) => return false,
        };
        let (used, written) = answer(&input[..len], output);
        client.begun.clear();
        client.begun.extend_from_slice(&input[used..len]);
        let mut sent = 0;
        while sent < written {
            match client.stream.send(&output[sent..written]) {
                Ok(len) => sent += len,
                Err(_) => return false,
            }
        }
        true
    }
}

/// Answers all whole requests. Returns the length of the requests and of the answers.
fn answer(input: &[u8], output: &mut [u8]) -> (usize, usize) {
    let (mut rest, mut written) = (input, 0);
    while let Some((header, behind)) = rest.split_first_chunk::<HEADER>() {
        let [_, _, _, _, _, u0, u1, u2, u3, _, op, _, l0, l1] = *header;
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        let Some((payload, behind)) = behind.split_at_checked(len) else { break };
        rest = behind;
        let out = &mut output[written..][..ANSWER];
        let len = match payload.first_chunk() {
            Some(word) if op == GET => {
                session::repeat(*word, &mut out[HEADER..]);
                DATA_LEN
            }
            _ => {
                out[HEADER] = 0;
                1
            }
        };
        let [l0, l1] = (len as u16).to_be_bytes();
        out[..HEADER].copy_from_slice(&[0, 0x11, 0, 0, 1, u0, u1, u2, u3, 0, op, 1, l0, l1]);
        written += HEADER + len;
    }
    (input.len() - rest.len(), written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use distcache_core::wire::Op;
    use distcache_posix::load::protocol::{Answer, Asked, Distcache, Protocol};
    use distcache_posix::load::session::Session;

    #[test]
    fn every_request_is_answered_as_a_load_expects() {
        let session = Session::new(9, 32, DATA_LEN);
        let (mut input, mut len) = ([0; 900], 0);
        let ops = [Op::Get, Op::Add, Op::Remove];
        for op in ops {
            let asked = Asked { op, session: 9, uid: 7 };
            len += Distcache.request(&asked, &session, 1, &mut input[len..]);
        }
        let mut output = [0; 900];
        let (used, written) = answer(&input[..len - 1], &mut output);
        let (rest, more) = answer(&input[used..len], &mut output[written..]);
        assert_eq!((used + rest, written + more), (len, HEADER + DATA_LEN + 2 * (HEADER + 1)));
        let mut at = 0;
        for op in ops {
            let asked = Asked { op, session: 9, uid: 7 };
            let answer = Distcache.answer(&asked, &session, &mut output[at..written + more]);
            let Ok(Some(Answer { len, done: true })) = answer else { panic!("{answer:?}") };
            at += len;
        }
    }
}
