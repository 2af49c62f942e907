//! The server in another event loop than a poll loop: plain `std::net`, a thread a connection.
//!
//! All threads share one machine behind a lock. None holds it while it waits for its socket: bytes
//! are received into the thread's own buffer first, and answers are taken out whole and sent after.
//! So a slow reader keeps only its own thread, which does not read on before all is sent.
//!
//! ```text
//! cargo run --example threads -- 127.0.0.1:9001    serves until it is stopped
//! cargo run --example threads                      serves itself one session, and ends
//! ```

use distcache_core::buffer::Pool;
use distcache_core::client::{self, Connection};
use distcache_core::clients::Limits;
use distcache_core::id::Id;
use distcache_core::machine::{Machine, Peer};
use distcache_core::message::{Add, Reply, Request, Status};
use distcache_core::server::Server;
use distcache_core::slots::Slot;
use distcache_core::table::{Layout, Table};
use distcache_core::time::Instant;
use distcache_core::wire::MESSAGE_MAX;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const CLIENTS: usize = 64;
const SESSIONS: u32 = 1000;
/// How often a thread that hears nothing looks whether its client is to be closed.
const TICK: Duration = Duration::from_secs(1);

struct Shared {
    server: Mutex<Server<'static, Table<'static>>>,
    start: std::time::Instant,
}

impl Shared {
    /// A server in memory that is never given back.
    fn new(key: [u8; 16]) -> Option<&'static Self> {
        let layout = Layout::new(SESSIONS, u64::MAX)?;
        let table = Table::new(vec![0; layout.size()].leak(), layout, key).ok()?;
        let slots: Vec<_> = (0..CLIENTS).map(|_| Slot::EMPTY).collect();
        // Two buffers a client: nobody ever waits for somebody else's.
        let buffers = vec![0; 2 * CLIENTS * MESSAGE_MAX].leak();
        let limits = Limits { idle: 600_000, patience: 10_000 };
        let server = Server::new(slots.leak(), Pool::new(buffers, MESSAGE_MAX), limits, table);
        let (server, start) = (Mutex::new(server.ok()?), std::time::Instant::now());
        Some(Box::leak(Box::new(Self { server, start })))
    }

    fn now(&self) -> Instant {
        let millis = self.start.elapsed().as_millis();
        Instant::from_millis(millis.try_into().unwrap_or(u64::MAX))
    }

    fn lock(&self) -> MutexGuard<'_, Server<'static, Table<'static>>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection from its beginning to its end.
    fn attend(&self, stream: &TcpStream) {
        let Some(key) = self.lock().open(self.now()) else { return };
        let peer = Peer::Client(key);
        // Why it ended is nobody's concern.
        let _ = self.exchange(stream, peer);
        self.lock().closed(self.now(), peer);
    }

    fn exchange(&self, mut stream: &TcpStream, peer: Peer) -> Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(10 * TICK))?;
        let (mut input, mut output) = ([0; 4096], Vec::new());
        loop {
            let mut received = match stream.read(&mut input) {
                Ok(0) => return Ok(()),
                Ok(len) => &input[..len],
                Err(error) if waits(&error) => &[],
                Err(error) => return Err(error),
            };
            loop {
                let close = self.think(peer, &mut received, &mut output);
                stream.write_all(&output)?;
                if close {
                    return Ok(());
                }
                if received.is_empty() && output.is_empty() {
                    break;
                }
                output.clear();
            }
        }
    }

    /// Feeds the machine what there is room for, and takes its answers; true where the connection
    /// is to be closed.
    fn think(&self, peer: Peer, received: &mut &[u8], output: &mut Vec<u8>) -> bool {
        let (now, mut server) = (self.now(), self.lock());
        let space = server.space(peer);
        let (taken, rest) = received.split_at(received.len().min(space.len()));
        space[..taken.len()].copy_from_slice(taken);
        server.filled(now, peer, taken.len());
        *received = rest;
        while server.advance(now).is_some() {}
        output.extend(server.pending(peer));
        server.sent(now, peer, output.len());
        while server.advance(now).is_some() {}
        server.wants(peer).close
    }
}

fn waits(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Accepts for ever.
fn serve(listener: &TcpListener, shared: &'static Shared) {
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || shared.attend(&stream));
    }
}

/// Sends one request and waits for its answer.
fn ask<'c>(
    client: &'c mut Connection<Vec<u8>>,
    mut stream: &TcpStream,
    request: &Request<'_>,
) -> Result<Reply<'c>> {
    client.request(request).map_err(|error| Error::other(format!("{error:?}")))?;
    stream.write_all(client.pending())?;
    client.sent(client.pending().len());
    while !client.advance().map_err(|malformed| Error::other(malformed.reason()))? {
        match stream.read(client.space())? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            len => client.filled(len),
        }
    }
    client.reply().ok_or_else(|| ErrorKind::InvalidData.into())
}

/// Stores a session at a server and fetches it again.
fn try_out(address: SocketAddr) -> Result<()> {
    let stream = TcpStream::connect(address)?;
    let mut client = Connection::new(vec![0; client::MEMORY]).ok_or(ErrorKind::OutOfMemory)?;
    let id = Id::new(b"an id").ok_or(ErrorKind::InvalidInput)?;
    let session = &[7; 20_000];
    let add = Request::Add(Add { ttl: 60_000, id, session });
    for (request, expected) in [
        (Request::Have(id), Reply::Status(Status::NOT_OK)),
        (add, Reply::Status(Status::OK)),
        (add, Reply::Status(Status::ADD_EXISTS)),
        (Request::Get(id), Reply::Session(session)),
        (Request::Remove(id), Reply::Status(Status::OK)),
        (Request::Get(id), Reply::Status(Status::NOT_OK)),
    ] {
        let reply = ask(&mut client, &stream, &request)?;
        if reply != expected {
            return Err(Error::other(format!("{:?} was answered {reply:?}", request.op())));
        }
    }
    Ok(())
}

/// Serves on a port of its own, and tries that out.
fn serve_itself() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let shared = Shared::new([7; 16]).ok_or(ErrorKind::OutOfMemory)?;
    std::thread::spawn(move || serve(&listener, shared));
    try_out(address).map(|()| address)
}

fn main() -> Result<()> {
    let Some(address) = std::env::args().nth(1) else {
        println!("a session went to {} and back", serve_itself()?);
        return Ok(());
    };
    let mut key = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    let shared = Shared::new(key).ok_or(ErrorKind::OutOfMemory)?;
    serve(&TcpListener::bind(address)?, shared);
    Ok(())
}

#[test]
fn threads_serve_a_session_over_loopback() {
    assert!(serve_itself().is_ok_and(|address| address.port() > 0));
}
