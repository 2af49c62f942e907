//! A server with plain `std::net` and a thread for each connection.
//!
//! All threads share one machine behind a lock. No thread holds the lock while it waits for its
//! socket, so a slow client delays only its own thread.
//!
//! ```text
//! cargo run --example threads                      serves on a free port of 127.0.0.1
//! cargo run --example threads -- 127.0.0.1:9001    serves on this address
//! ```

use distcache_core::server::{self, ClientSlot};
use distcache_core::table::Line;
use distcache_core::{Instant, Layout, Machine, Next, Peer, Pool, Server, Table};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const CLIENTS: usize = 64;
const SESSIONS: u32 = 1000;
/// How often a thread whose client is silent checks whether to close the connection.
const TICK: Duration = Duration::from_secs(1);

type OwnedServer = Server<Table<Vec<Line>>, Vec<ClientSlot>, Vec<u8>>;

struct Shared {
    server: Mutex<OwnedServer>,
    start: std::time::Instant,
}

impl Shared {
    fn new(key: [u8; 16]) -> Self {
        let layout = Layout::for_sessions(SESSIONS).expect("a valid number of sessions");
        let table = Table::new(layout, key, |lines| vec![[0; 64]; lines]);
        let sizes = server::Sizes::for_clients(CLIENTS);
        let pool = Pool::new(vec![0; sizes.bytes()], sizes.buffer_len);
        let (slots, config) = (sizes.slots().collect(), server::Config::default());
        let server = Server::new(slots, pool, config, table.expect("enough lines"));
        let server = Mutex::new(server.expect("enough memory"));
        Self { server, start: std::time::Instant::now() }
    }

    fn now(&self) -> Instant {
        Instant::from_elapsed(self.start.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, OwnedServer> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves one connection from beginning to end.
    fn serve(&self, stream: &TcpStream) {
        // Without a free place, dropping the stream refuses the client.
        let Some(key) = self.lock().open(self.now()) else { return };
        let peer = Peer::Client(key);
        if let Err(error) = self.exchange(stream, peer) {
            eprintln!("{error}");
        }
        self.lock().closed(peer);
    }

    fn exchange(&self, mut stream: &TcpStream, peer: Peer) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(10 * TICK))?;
        let (mut input, mut output) = ([0; 4096], [0; 4096]);
        loop {
            let mut received = match stream.read(&mut input) {
                Ok(0) => return Ok(()),
                Ok(len) => &input[..len],
                Err(error) if is_temporary(&error) => &[],
                Err(error) => return Err(error),
            };
            loop {
                let done = self.lock().exchange(self.now(), peer, received, &mut output);
                stream.write_all(&output[..done.written])?;
                received = &received[done.taken..];
                match done.next {
                    Next::Receive => break,
                    Next::Send => {}
                    // Not with two buffers for each client.
                    Next::Wait => std::thread::sleep(TICK / 100),
                    Next::Close => return Ok(()),
                }
            }
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:0"))?;
    let mut key = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    let shared = Arc::new(Shared::new(key));
    println!("threads: listening on IP:{}", listener.local_addr()?);
    for stream in listener.incoming().flatten() {
        let shared = Arc::clone(&shared);
        std::thread::spawn(move || shared.serve(&stream));
    }
    Ok(())
}
