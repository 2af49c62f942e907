//! A server with `mio`: one thread, and bytes that are never copied.
//!
//! This uses the machine's verbs. It receives straight into the machine's buffers, sends from them,
//! and sleeps until the machine's deadline.
//!
//! ```text
//! cargo run --example mio                      serves on a free port of 127.0.0.1
//! cargo run --example mio -- 127.0.0.1:9001    serves on this address
//! ```

use distcache_core::server::{self, ClientSlot};
use distcache_core::table::Line;
use distcache_core::{Instant, Key, Layout, Machine, Peer, Pool, Server, Table};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::io::{self, ErrorKind, Read, Write};

const CLIENTS: usize = 64;
const SESSIONS: u32 = 1000;
/// The listener's token; those of clients are the indices of their keys.
const LISTENER: Token = Token(CLIENTS);

type OwnedServer = Server<Table<Vec<Line>>, Vec<ClientSlot>, Vec<u8>>;

fn new_server(key: [u8; 16]) -> OwnedServer {
    let layout = Layout::for_sessions(SESSIONS).expect("a valid number of sessions");
    let table = Table::new(layout, key, |lines| vec![[0; 64]; lines]).expect("enough lines");
    let sizes = server::Sizes::for_clients(CLIENTS);
    let pool = Pool::new(vec![0; sizes.bytes()], sizes.buffer_len);
    let slots = sizes.slots().collect();
    Server::new(slots, pool, server::Config::default(), table).expect("enough memory")
}

struct Loop {
    server: OwnedServer,
    poll: Poll,
    listener: TcpListener,
    /// By the indices of their keys.
    clients: Vec<Option<(Key, TcpStream)>>,
}

impl Loop {
    fn run(&mut self) -> io::Result<()> {
        let start = std::time::Instant::now();
        let clock = || Instant::from_elapsed(start.elapsed());
        let mut events = Events::with_capacity(CLIENTS + 1);
        loop {
            let wait = |at: Instant| at.saturating_duration_since(clock());
            match self.poll.poll(&mut events, self.server.deadline().map(wait)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            let now = clock();
            for event in &events {
                match self.clients.get(event.token().0) {
                    Some(Some((key, _))) => self.move_bytes(now, Peer::Client(*key)),
                    Some(None) => {}
                    None => self.accept(now),
                }
            }
            while let Some(peer) = self.server.advance(now) {
                self.move_bytes(now, peer);
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        while let Ok((mut stream, _)) = self.listener.accept() {
            // Without a free place, dropping the stream refuses the client.
            let Some(key) = self.server.open(now) else { continue };
            let interest = Interest::READABLE | Interest::WRITABLE;
            let token = Token(key.index());
            if self.poll.registry().register(&mut stream, token, interest).is_ok() {
                self.clients[key.index()] = Some((key, stream));
                self.move_bytes(now, Peer::Client(key));
            } else {
                self.server.closed(Peer::Client(key));
            }
        }
    }

    /// Sends and receives as much as the machine and the socket allow. `mio` reports a socket only
    /// when its state changes, so this goes on until the socket would block.
    fn move_bytes(&mut self, now: Instant, peer: Peer) {
        let Peer::Client(key) = peer else { return };
        let place = &mut self.clients[key.index()];
        let Some((_, stream)) = place.as_mut().filter(|(current, _)| *current == key) else {
            return;
        };
        loop {
            let wants = self.server.wants(peer);
            let moved = if wants.write {
                let sent = stream.write(self.server.pending(peer));
                self.server.sent(now, peer, *sent.as_ref().unwrap_or(&0));
                sent
            } else if wants.read {
                let received = stream.read(self.server.space(peer));
                self.server.filled(peer, *received.as_ref().unwrap_or(&0));
                received
            } else if wants.close {
                Err(ErrorKind::ConnectionAborted.into())
            } else {
                return;
            };
            match moved {
                Ok(0) => self.server.ended(now, peer),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    *place = None;
                    return self.server.closed(peer);
                }
            }
        }
    }
}

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:0".into());
    let mut listener = TcpListener::bind(address.parse().map_err(io::Error::other)?)?;
    let mut key = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    let poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("mio: listening on IP:{}", listener.local_addr()?);
    let clients = (0..CLIENTS).map(|_| None).collect();
    Loop { server: new_server(key), poll, listener, clients }.run()
}
