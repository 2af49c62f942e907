//! A cache server, a proxy and a client in static memory, for a program without a heap, an operating
//! system or Rust: it has bytes, and a clock of milliseconds.
//!
//! Each function is one verb of the machines. `peer` is the number that `open` returned; -1 is the
//! proxy's server. Every call needs `init` first: until then all return -1, or 0 for no work. The
//! script `check` in this directory proves that the library contains no heap and no std.
#![no_std]

use core::cell::UnsafeCell;
use core::slice::{from_raw_parts, from_raw_parts_mut};
use core::time::Duration;
use distcache_core::client::{self, Connection};
use distcache_core::proxy::{self, Dial, InFlightSlot, Upstream};
use distcache_core::server::{self, ClientSlot};
use distcache_core::table::Line;
use distcache_core::{Add, Id, Instant, Key, Layout, Limits, Machine, Peer, Pool, Proxy, Reply};
use distcache_core::{Request, Server, ServerKey, Table};

const CLIENTS: usize = 4;
const LIMITS: Limits =
    Limits { idle: Some(Duration::from_secs(60)), patience: Some(Duration::from_secs(10)) };
const SERVER_SIZES: server::Sizes = server::Sizes::for_clients(CLIENTS);
const PROXY_SIZES: proxy::Sizes = proxy::Sizes::new(CLIENTS, 1);
const PROXY_CONFIG: proxy::Config = proxy::Config::new(LIMITS, Duration::from_secs(5));
/// 64 sessions in 64 KiB.
const LAYOUT: Option<Layout> = Layout::new(64, 64 * 1024);
const LAYOUT_SIZE: usize = match LAYOUT {
    Some(layout) => layout.size(),
    None => 0,
};

/// Static memory.
///
/// One thread must make all calls of this library, and no signal or interrupt handler while another
/// call runs.
struct Fixed<T>(UnsafeCell<T>);

// SAFETY: there is one thread: see above.
unsafe impl<T> Sync for Fixed<T> {}

impl<T> Fixed<T> {
    const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// # Safety
    /// No other reference to it may be in use.
    #[allow(clippy::mut_from_ref, reason = "the caller makes sure that there is no other")]
    unsafe fn get(&'static self) -> &'static mut T {
        // SAFETY: as the caller says.
        unsafe { &mut *self.0.get() }
    }
}

// What is large is borrowed from statics of zeros, which take no room in the program's image. The slots
// are small, so the machines have their own.
static SERVER_BUFFERS: Fixed<[u8; SERVER_SIZES.bytes()]> = Fixed::new([0; SERVER_SIZES.bytes()]);
static SESSIONS: Fixed<[u8; LAYOUT_SIZE]> = Fixed::new([0; LAYOUT_SIZE]);
static PROXY_BUFFERS: Fixed<[u8; PROXY_SIZES.bytes()]> = Fixed::new([0; PROXY_SIZES.bytes()]);
static CLIENT_BUFFERS: Fixed<[u8; client::MEMORY]> = Fixed::new([0; client::MEMORY]);

type StaticServer = Server<Table<&'static mut [Line]>, [ClientSlot; CLIENTS], &'static mut [u8]>;
type StaticProxy = Proxy<(
    [ClientSlot; CLIENTS],
    [InFlightSlot; PROXY_SIZES.in_flight],
    [Upstream; 1],
    &'static mut [u8],
)>;

static SERVER: Fixed<Option<Station<StaticServer>>> = Fixed::new(None);
static PROXY: Fixed<Option<Station<StaticProxy>>> = Fixed::new(None);
static CLIENT: Fixed<Option<Connection<&'static mut [u8; client::MEMORY]>>> = Fixed::new(None);

/// A machine, its clients by number, and the last connection of the proxy to its server.
struct Station<M> {
    machine: M,
    server: Option<ServerKey>,
    keys: [Option<Key>; CLIENTS],
}

impl<M: Machine> Station<M> {
    const fn new(machine: M) -> Self {
        Self { machine, server: None, keys: [None; CLIENTS] }
    }

    fn peer(&self, peer: i32) -> Option<Peer> {
        match usize::try_from(peer) {
            Ok(number) => self.keys.get(number).copied().flatten().map(Peer::Client),
            Err(_) => self.server.map(Peer::Server),
        }
    }

    fn open(&mut self, now: Instant) -> Option<i32> {
        let key = self.machine.open(now)?;
        *self.keys.get_mut(key.index())? = Some(key);
        i32::try_from(key.index()).ok()
    }

    fn receive(&mut self, peer: i32, bytes: &[u8]) -> Option<usize> {
        let peer = self.peer(peer)?;
        let space = self.machine.space(peer);
        let len = space.len().min(bytes.len());
        space.get_mut(..len)?.copy_from_slice(bytes.get(..len)?);
        self.machine.filled(peer, len);
        Some(len)
    }

    fn send(&mut self, now: Instant, peer: i32, out: &mut [u8]) -> Option<usize> {
        let peer = self.peer(peer)?;
        let pending = self.machine.pending(peer);
        let len = pending.len().min(out.len());
        out.get_mut(..len)?.copy_from_slice(pending.get(..len)?);
        self.machine.sent(now, peer, len);
        Some(len)
    }

    /// 1 to read, 2 to write, 4 to close.
    fn wants(&self, peer: i32) -> Option<i32> {
        let wants = self.machine.wants(self.peer(peer)?);
        Some(i32::from(wants.read) | i32::from(wants.write) << 1 | i32::from(wants.close) << 2)
    }

    fn closed(&mut self, peer: i32) -> Option<i32> {
        let gone = self.peer(peer)?;
        self.machine.closed(gone);
        if let Some(key) = usize::try_from(peer).ok().and_then(|peer| self.keys.get_mut(peer)) {
            *key = None;
        }
        Some(0)
    }

    fn ended(&mut self, now: Instant, peer: i32) -> Option<i32> {
        let peer = self.peer(peer)?;
        self.machine.ended(now, peer);
        Some(0)
    }
}

/// The verbs of one machine under names for C. All return -1 for a peer that does not exist.
macro_rules! verbs {
    ($station:ident, $open:ident, $receive:ident, $send:ident, $wants:ident, $ended:ident, $closed:ident, $advance:ident, $deadline:ident) => {
        /// Accepts a client and returns its number; -1 if all places are taken.
        #[unsafe(no_mangle)]
        pub extern "C" fn $open(now: u64) -> i32 {
            // SAFETY: there is one thread.
            let station = unsafe { $station.get() }.as_mut();
            station.and_then(|station| station.open(at(now))).unwrap_or(-1)
        }

        /// Takes bytes from a peer, and returns how many it took.
        ///
        /// # Safety
        /// `bytes` points to `len` bytes.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $receive(peer: i32, bytes: *const u8, len: usize) -> isize {
            // SAFETY: there is one thread, and the caller has the bytes.
            let (station, bytes) = unsafe { ($station.get().as_mut(), from_raw_parts(bytes, len)) };
            count(station.and_then(|station| station.receive(peer, bytes)))
        }

        /// Writes the bytes to send to a peer, and returns how many it wrote.
        ///
        /// # Safety
        /// `out` points to `room` bytes.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $send(now: u64, peer: i32, out: *mut u8, room: usize) -> isize {
            // SAFETY: there is one thread, and the caller has the room.
            let (station, out) =
                unsafe { ($station.get().as_mut(), from_raw_parts_mut(out, room)) };
            count(station.and_then(|station| station.send(at(now), peer, out)))
        }

        /// What to do with a peer: the sum of 1 to read from it, 2 to write to it and 4 to close.
        #[unsafe(no_mangle)]
        pub extern "C" fn $wants(peer: i32) -> i32 {
            // SAFETY: there is one thread.
            let station = unsafe { $station.get() }.as_ref();
            station.and_then(|station| station.wants(peer)).unwrap_or(-1)
        }

        /// A peer sends no more.
        #[unsafe(no_mangle)]
        pub extern "C" fn $ended(now: u64, peer: i32) -> i32 {
            // SAFETY: there is one thread.
            let station = unsafe { $station.get() }.as_mut();
            station.and_then(|station| station.ended(at(now), peer)).unwrap_or(-1)
        }

        /// The connection of a peer is closed.
        #[unsafe(no_mangle)]
        pub extern "C" fn $closed(peer: i32) -> i32 {
            // SAFETY: there is one thread.
            let station = unsafe { $station.get() }.as_mut();
            station.and_then(|station| station.closed(peer)).unwrap_or(-1)
        }

        /// Does one piece of work; 0 if there is none. The wants of every peer may change.
        #[unsafe(no_mangle)]
        pub extern "C" fn $advance(now: u64) -> i32 {
            // SAFETY: there is one thread.
            let station = unsafe { $station.get() }.as_mut();
            let peer = station.and_then(|station| station.machine.advance(at(now)));
            i32::from(peer.is_some())
        }

        /// When there is work even if nothing arrives; the largest number for never.
        #[unsafe(no_mangle)]
        pub extern "C" fn $deadline() -> u64 {
            // SAFETY: there is one thread.
            let station = unsafe { $station.get() }.as_ref();
            let deadline = station.and_then(|station| station.machine.deadline());
            deadline.map_or(u64::MAX, Instant::as_millis)
        }
    };
}

verbs!(
    SERVER,
    dc_server_open,
    dc_server_receive,
    dc_server_send,
    dc_server_wants,
    dc_server_ended,
    dc_server_closed,
    dc_server_advance,
    dc_server_deadline
);
verbs!(
    PROXY,
    dc_proxy_open,
    dc_proxy_receive,
    dc_proxy_send,
    dc_proxy_wants,
    dc_proxy_ended,
    dc_proxy_closed,
    dc_proxy_advance,
    dc_proxy_deadline
);

/// Makes the server, once; -1 after the first time. `key` is 16 random bytes.
///
/// # Safety
/// `key` points to 16 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dc_server_init(key: *const [u8; 16]) -> i32 {
    // SAFETY: there is one thread, and memory is lent only while there is no server.
    let (server, key) = unsafe { (SERVER.get(), *key) };
    let Some(layout) = LAYOUT.filter(|_| server.is_none()) else {
        return -1;
    };
    // SAFETY: as above.
    let (buffers, sessions) = unsafe { (SERVER_BUFFERS.get(), SESSIONS.get()) };
    let Ok(table) = Table::in_memory(layout, key, sessions) else {
        return -1;
    };
    let pool = Pool::new(&mut buffers[..], SERVER_SIZES.buffer_len);
    let slots = [const { ClientSlot::EMPTY }; CLIENTS];
    let made = Server::new(slots, pool, server::Config::new(LIMITS), table);
    *server = made.ok().map(Station::new);
    if server.is_some() { 0 } else { -1 }
}

/// Makes the proxy, once; -1 after the first time.
#[unsafe(no_mangle)]
pub extern "C" fn dc_proxy_init() -> i32 {
    // SAFETY: there is one thread.
    let proxy = unsafe { PROXY.get() };
    if proxy.is_some() {
        return -1;
    }
    // SAFETY: there is one thread, and memory is lent only while there is no proxy.
    let buffers = unsafe { PROXY_BUFFERS.get() };
    let pool = Pool::new(&mut buffers[..], PROXY_SIZES.buffer_len);
    let slots = [const { ClientSlot::EMPTY }; CLIENTS];
    let in_flight = [const { InFlightSlot::EMPTY }; PROXY_SIZES.in_flight];
    let made = Proxy::new(slots, in_flight, [Upstream::ONLY], pool, PROXY_CONFIG);
    *proxy = made.ok().map(Station::new);
    if proxy.is_some() { 0 } else { -1 }
}

/// 1 if the proxy's server must be dialed now, -1 if the attempt must be cancelled.
#[unsafe(no_mangle)]
pub extern "C" fn dc_proxy_dial(now: u64) -> i32 {
    // SAFETY: there is one thread.
    let Some(proxy) = (unsafe { PROXY.get() }) else {
        return 0;
    };
    match proxy.machine.dial(at(now)) {
        Some(Dial::Connect(key)) => {
            proxy.server = Some(key);
            1
        }
        Some(Dial::Cancel(_)) => -1,
        None => 0,
    }
}

/// The proxy's server is connected.
#[unsafe(no_mangle)]
pub extern "C" fn dc_proxy_connected(now: u64) {
    // SAFETY: there is one thread.
    if let Some(proxy) = unsafe { PROXY.get() }
        && let Some(key) = proxy.server
    {
        proxy.machine.connected(at(now), key);
    }
}

/// Makes the client of a new connection, which replaces the last one.
#[unsafe(no_mangle)]
pub extern "C" fn dc_client_init() -> i32 {
    // SAFETY: there is one thread.
    let client = unsafe { CLIENT.get() };
    *client = None;
    // SAFETY: the last one, which had this memory, is gone.
    *client = Connection::new(unsafe { CLIENT_BUFFERS.get() });
    if client.is_some() { 0 } else { -1 }
}

/// Begins a request for a session.
///
/// # Safety
/// `id` points to `id_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dc_client_get(id: *const u8, id_len: usize) -> i32 {
    // SAFETY: the caller has the bytes.
    ask(Id::new(unsafe { from_raw_parts(id, id_len) }).map(Request::Get))
}

/// Begins a request to store a session for `ttl` milliseconds.
///
/// # Safety
/// `id` and `session` point to as many bytes as said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dc_client_add(
    ttl: u32,
    id: *const u8,
    id_len: usize,
    session: *const u8,
    session_len: usize,
) -> i32 {
    // SAFETY: the caller has the bytes.
    let (id, session) =
        unsafe { (from_raw_parts(id, id_len), from_raw_parts(session, session_len)) };
    ask(Id::new(id).map(|id| Request::Add(Add { ttl, id, session })))
}

/// Writes the bytes to send to the server, and returns how many it wrote.
///
/// # Safety
/// `out` points to `room` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dc_client_send(out: *mut u8, room: usize) -> isize {
    // SAFETY: there is one thread, and the caller has the room.
    let (client, out) = unsafe { (CLIENT.get().as_mut(), from_raw_parts_mut(out, room)) };
    count(client.and_then(|client| {
        let len = client.pending().len().min(out.len());
        out.get_mut(..len)?.copy_from_slice(client.pending().get(..len)?);
        client.sent(len);
        Some(len)
    }))
}

/// Takes bytes from the server: 1 if the answer is complete, 0 if not yet, -1 if they are no answer.
///
/// # Safety
/// `bytes` points to `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dc_client_receive(bytes: *const u8, len: usize) -> i32 {
    // SAFETY: there is one thread, and the caller has the bytes.
    let (client, bytes) = unsafe { (CLIENT.get().as_mut(), from_raw_parts(bytes, len)) };
    let answered = client.and_then(|client| {
        client.space().get_mut(..bytes.len())?.copy_from_slice(bytes);
        client.filled(bytes.len());
        client.advance().ok()
    });
    answered.map_or(-1, i32::from)
}

/// The answer: a status below 256, or 256 plus the length of a session; -1 if there is none.
///
/// # Safety
/// `out` points to `room` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dc_client_reply(out: *mut u8, room: usize) -> i32 {
    // SAFETY: there is one thread, and the caller has the room.
    let (client, out) = unsafe { (CLIENT.get().as_ref(), from_raw_parts_mut(out, room)) };
    match client.and_then(Connection::reply) {
        None => -1,
        Some(Reply::Status(status)) => status.0.into(),
        Some(Reply::Session(session)) => {
            for (to, from) in out.iter_mut().zip(session) {
                *to = *from;
            }
            i32::try_from(session.len()).map_or(-1, |len| len.saturating_add(256))
        }
    }
}

fn ask(request: Option<Request<'_>>) -> i32 {
    // SAFETY: there is one thread.
    let client = unsafe { CLIENT.get() }.as_mut();
    let asked =
        client.zip(request).is_some_and(|(client, request)| client.request(&request).is_ok());
    if asked { 0 } else { -1 }
}

const fn at(now: u64) -> Instant {
    Instant::from_millis(now)
}

fn count(len: Option<usize>) -> isize {
    len.and_then(|len| isize::try_from(len).ok()).unwrap_or(-1)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
