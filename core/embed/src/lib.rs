//! A cache server, a proxy and a client in static memory, for a program that has no heap, no
//! operating system and no Rust: what it has is bytes, and a clock of milliseconds.
//!
//! Each function is one verb of the machines; `peer` is what `open` gave, and -1 is a proxy's
//! server. `check` beside this proves what is said here of the library that comes out.
#![no_std]

use core::cell::UnsafeCell;
use core::slice::{from_raw_parts, from_raw_parts_mut};
use distcache_core::client::{self, Connection};
use distcache_core::clients::{Client, Limits};
use distcache_core::id::Id;
use distcache_core::machine::{Machine, Peer, ServerKey};
use distcache_core::message::{Add, Reply, Request};
use distcache_core::buffer::Pool;
use distcache_core::proxy::{Config, InFlight, Proxy, Upstream};
use distcache_core::server::Server;
use distcache_core::slots::{Key, Slot};
use distcache_core::table::{Layout, Table};
use distcache_core::time::Instant;
use distcache_core::wire::MESSAGE_MAX;

const CLIENTS: usize = 4;
const BUFFERS: usize = (2 * CLIENTS + 2) * MESSAGE_MAX;
const LIMITS: Limits = Limits { idle: 60_000, patience: 10_000 };
const CONFIG: Config = Config::new(LIMITS, 5_000);
/// 64 sessions in 64 KiB.
const TABLE: Option<Layout> = Layout::new(64, 64 * 1024);
const TABLE_LEN: usize = match TABLE {
    Some(table) => table.size(),
    None => 0,
};

/// Memory that is there from the start.
///
/// All functions of this library are to be called by one thread, and not by a signal's or an
/// interrupt's handler while another of them runs.
struct Fixed<T>(UnsafeCell<T>);

// SAFETY: there is one thread, as the caller was told.
unsafe impl<T> Sync for Fixed<T> {}

impl<T> Fixed<T> {
    const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// # Safety
    /// No other reference to it may be in use.
    #[allow(clippy::mut_from_ref, reason = "that there is no other is the caller's word")]
    unsafe fn get(&'static self) -> &'static mut T {
        // SAFETY: as the caller says.
        unsafe { &mut *self.0.get() }
    }
}

type Slots = [Slot<Client>; CLIENTS];

static SERVER_SLOTS: Fixed<Slots> = Fixed::new([const { Slot::EMPTY }; CLIENTS]);
static SERVER_BUFFERS: Fixed<[u8; BUFFERS]> = Fixed::new([0; BUFFERS]);
static SESSIONS: Fixed<[u8; TABLE_LEN]> = Fixed::new([0; TABLE_LEN]);
static PROXY_SLOTS: Fixed<Slots> = Fixed::new([const { Slot::EMPTY }; CLIENTS]);
static PROXY_BUFFERS: Fixed<[u8; BUFFERS]> = Fixed::new([0; BUFFERS]);
static UPSTREAM: Fixed<[Upstream; 1]> = Fixed::new([Upstream::ONLY]);
static FLIGHTS: Fixed<[Slot<InFlight>; 2 * CLIENTS]> =
    Fixed::new([const { Slot::EMPTY }; 2 * CLIENTS]);
static CLIENT_BUFFERS: Fixed<[u8; client::MEMORY]> = Fixed::new([0; client::MEMORY]);

static SERVER: Fixed<Option<Station<Server<'static, Table<'static>>>>> = Fixed::new(None);
static PROXY: Fixed<Option<Station<Proxy<'static>>>> = Fixed::new(None);
static CLIENT: Fixed<Option<Connection<&'static mut [u8; client::MEMORY]>>> = Fixed::new(None);

/// A machine, its clients by small numbers, and the proxy's last connection.
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

    fn receive(&mut self, now: Instant, peer: i32, bytes: &[u8]) -> Option<usize> {
        let peer = self.peer(peer)?;
        let space = self.machine.space(peer);
        let len = space.len().min(bytes.len());
        space.get_mut(..len)?.copy_from_slice(bytes.get(..len)?);
        self.machine.filled(now, peer, len);
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

    fn closed(&mut self, now: Instant, peer: i32) -> Option<i32> {
        let gone = self.peer(peer)?;
        self.machine.closed(now, gone);
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

/// The verbs of one machine under names that C can call. All give -1 for a peer that is not there.
macro_rules! verbs {
    ($station:ident, $open:ident, $receive:ident, $send:ident, $wants:ident, $ended:ident, $closed:ident, $advance:ident, $deadline:ident) => {
        /// Takes a client, and gives its number.
        #[unsafe(no_mangle)]
        pub extern "C" fn $open(now: u64) -> i32 {
            // SAFETY: there is one thread.
            let station = unsafe { $station.get() }.as_mut();
            station.and_then(|station| station.open(at(now))).unwrap_or(-1)
        }

        /// Takes bytes from a peer, and gives how many it took.
        ///
        /// # Safety
        /// `bytes` points to `len` bytes.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $receive(
            now: u64,
            peer: i32,
            bytes: *const u8,
            len: usize,
        ) -> isize {
            // SAFETY: there is one thread, and the caller has the bytes.
            let (station, bytes) = unsafe { ($station.get().as_mut(), from_raw_parts(bytes, len)) };
            count(station.and_then(|station| station.receive(at(now), peer, bytes)))
        }

        /// Writes down what is for a peer, and gives how much it wrote.
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

        /// 1 to read from a peer, 2 to write to it, 4 to close.
        #[unsafe(no_mangle)]
        pub extern "C" fn $wants(peer: i32) -> i32 {
            // SAFETY: there is one thread.
            let station = unsafe { $station.get() }.as_ref();
            station.and_then(|station| station.wants(peer)).unwrap_or(-1)
        }

        /// A peer will send no more.
        #[unsafe(no_mangle)]
        pub extern "C" fn $ended(now: u64, peer: i32) -> i32 {
            // SAFETY: there is one thread.
            let station = unsafe { $station.get() }.as_mut();
            station.and_then(|station| station.ended(at(now), peer)).unwrap_or(-1)
        }

        /// A peer is gone.
        #[unsafe(no_mangle)]
        pub extern "C" fn $closed(now: u64, peer: i32) -> i32 {
            // SAFETY: there is one thread.
            let station = unsafe { $station.get() }.as_mut();
            station.and_then(|station| station.closed(at(now), peer)).unwrap_or(-1)
        }

        /// Does one piece of work; 0 where there is none. All peers' wants may be others then.
        #[unsafe(no_mangle)]
        pub extern "C" fn $advance(now: u64) -> i32 {
            // SAFETY: there is one thread.
            let station = unsafe { $station.get() }.as_mut();
            let peer = station.and_then(|station| station.machine.advance(at(now)));
            i32::from(peer.is_some())
        }

        /// When there is work even if nothing comes; the largest number where never.
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

/// Makes the server, once; -1 after that. `key` is 16 random bytes.
///
/// # Safety
/// `key` points to 16 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dc_server_init(key: *const [u8; 16]) -> i32 {
    // SAFETY: there is one thread, and memory is lent only while there is no server.
    let (server, key) = unsafe { (SERVER.get(), *key) };
    let Some(layout) = TABLE.filter(|_| server.is_none()) else {
        return -1;
    };
    // SAFETY: as above.
    let (slots, buffers, sessions) =
        unsafe { (SERVER_SLOTS.get(), SERVER_BUFFERS.get(), SESSIONS.get()) };
    let Ok(table) = Table::new(sessions, layout, key) else {
        return -1;
    };
    let made = Server::new(slots, Pool::new(buffers, MESSAGE_MAX), LIMITS, table);
    *server = made.ok().map(Station::new);
    if server.is_some() { 0 } else { -1 }
}

/// Makes the proxy, once; -1 after that.
#[unsafe(no_mangle)]
pub extern "C" fn dc_proxy_init() -> i32 {
    // SAFETY: there is one thread.
    let proxy = unsafe { PROXY.get() };
    if proxy.is_some() {
        return -1;
    }
    // SAFETY: there is one thread, and memory is lent only while there is no proxy.
    let (slots, in_flight, buffers) =
        unsafe { (PROXY_SLOTS.get(), FLIGHTS.get(), PROXY_BUFFERS.get()) };
    // SAFETY: as above.
    let servers = unsafe { UPSTREAM.get() };
    let made = Proxy::new(slots, in_flight, servers, Pool::new(buffers, MESSAGE_MAX), CONFIG);
    *proxy = made.ok().map(Station::new);
    if proxy.is_some() { 0 } else { -1 }
}

/// 1 where the proxy's server is to be dialed now.
#[unsafe(no_mangle)]
pub extern "C" fn dc_proxy_dial(now: u64) -> i32 {
    // SAFETY: there is one thread.
    let Some(proxy) = (unsafe { PROXY.get() }) else {
        return 0;
    };
    let key = proxy.machine.dial(at(now));
    proxy.server = key.or(proxy.server);
    i32::from(key.is_some())
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

/// Makes the client of a new connection, in place of the last one.
#[unsafe(no_mangle)]
pub extern "C" fn dc_client_init() -> i32 {
    // SAFETY: there is one thread.
    let client = unsafe { CLIENT.get() };
    *client = None;
    // SAFETY: the last one, which had this memory, is gone.
    *client = Connection::new(unsafe { CLIENT_BUFFERS.get() });
    if client.is_some() { 0 } else { -1 }
}

/// Asks for a session.
///
/// # Safety
/// `id` points to `id_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dc_client_get(id: *const u8, id_len: usize) -> i32 {
    // SAFETY: the caller has the bytes.
    ask(Id::new(unsafe { from_raw_parts(id, id_len) }).map(Request::Get))
}

/// Has a session stored.
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

/// Writes down what is for the server, and gives how much it wrote.
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

/// Takes bytes from the server: 1 where the answer is there, 0 where not yet, -1 where it is none.
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

/// The answer: 256 and more is the length of a session plus 256, less is a status; -1 is none.
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
