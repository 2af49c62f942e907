//! A server with `tokio` and a task for each connection.
//!
//! All tasks share one machine behind a lock, which no task holds across an `await`.
//!
//! ```text
//! cargo run --example tokio                      serves on a free port of 127.0.0.1
//! cargo run --example tokio -- 127.0.0.1:9001    serves on this address
//! ```

use distcache_core::server::{self, ClientSlot};
use distcache_core::table::Line;
use distcache_core::{Instant, Layout, Machine, Next, Peer, Pool, Server, Table};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

const CLIENTS: usize = 64;
const SESSIONS: u32 = 1000;
/// How often a task whose client is silent checks whether to close the connection.
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
    async fn serve(&self, stream: TcpStream) {
        // Without a free place, dropping the stream refuses the client.
        let Some(key) = self.lock().open(self.now()) else { return };
        let peer = Peer::Client(key);
        if let Err(error) = self.exchange(stream, peer).await {
            eprintln!("{error}");
        }
        self.lock().closed(peer);
    }

    async fn exchange(&self, mut stream: TcpStream, peer: Peer) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut input, mut output) = ([0; 4096], [0; 4096]);
        loop {
            let mut received = match timeout(TICK, stream.read(&mut input)).await {
                Ok(Ok(0)) => return Ok(()),
                Ok(len) => &input[..len?],
                Err(_) => &[],
            };
            loop {
                let done = self.lock().exchange(self.now(), peer, received, &mut output);
                timeout(10 * TICK, stream.write_all(&output[..done.written])).await??;
                received = &received[done.taken..];
                match done.next {
                    Next::Receive => break,
                    Next::Send => {}
                    // Not with two buffers for each client.
                    Next::Wait => sleep(TICK / 100).await,
                    Next::Close => return Ok(()),
                }
            }
        }
    }
}

async fn run() -> io::Result<()> {
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:0")).await?;
    let mut key = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    let shared = Arc::new(Shared::new(key));
    println!("tokio: listening on IP:{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let shared = Arc::clone(&shared);
        tokio::spawn(async move { shared.serve(stream).await });
    }
}

fn main() -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run())
}
