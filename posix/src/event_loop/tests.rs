//! Turns of the loop, one by one, on real sockets and at times of the test's own.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use std::time::Duration;

use distcache_core::proxy::{self, InFlightSlot, Upstream};
use distcache_core::server::{self, ClientSlot};
use distcache_core::table::Line;
use distcache_core::{
    Add, Id, Layout, Limits, MESSAGE_MAX, Pool, Proxy, Request, Server as Cache, Slot, Table,
    client, wire,
};
use rustix::process::{Signal as Number, getpid, kill_process};

use super::*;
use crate::net::listener::Ownership;
use crate::net::resolver::Resolver;
use crate::process::signals::Hangup;
use crate::testing::{Dir, in_child};

pub(super) const PATIENCE: Duration = Duration::from_secs(1000);
const LIMITS: Limits = Limits { idle: Some(PATIENCE), patience: Some(PATIENCE) };

/// A server in memory of its own.
pub(super) type OwnedCache = Cache<Table<Vec<Line>>, Vec<ClientSlot>, Vec<u8>>;
/// A proxy in memory of its own.
pub(super) type OwnedProxy = Proxy<(Vec<ClientSlot>, Vec<InFlightSlot>, Vec<Upstream>, Vec<u8>)>;

fn slots<T>(count: usize) -> Vec<Slot<T>> {
    std::iter::repeat_with(|| Slot::EMPTY).take(count).collect()
}

fn pool(buffers: usize) -> Pool<Vec<u8>> {
    Pool::new(vec![0; buffers * MESSAGE_MAX], MESSAGE_MAX)
}

/// A server with room for this many clients.
pub(super) fn cache(clients: usize) -> OwnedCache {
    let layout = Layout::new(1000, 1 << 20).unwrap();
    let table = Table::new(layout, [7; 16], |lines| vec![[0; 64]; lines]).unwrap();
    Cache::new(slots(clients), pool(2 * clients), server::Config::new(LIMITS), table).unwrap()
}

/// A proxy with room for this many clients, and one server.
pub(super) fn proxy(clients: usize) -> OwnedProxy {
    let config = proxy::Config::new(LIMITS, Duration::from_secs(1));
    let (slots, in_flight) = (slots(clients), slots(2 * clients));
    let pool = pool(2 * clients + 2);
    Proxy::new(slots, in_flight, vec![Upstream::new(b"server")], pool, config).unwrap()
}

/// An event loop that listens on one address. It takes over the signals of the process, so a test of it runs
/// in a child.
pub(super) fn event_loop<M: Machine>(machine: M, clients: usize, at: &str) -> EventLoop<M> {
    let listener = Listener::open(&at.parse().unwrap(), &Ownership::default()).unwrap();
    let signals = Signals::install(true, Hangup::Reload).unwrap();
    EventLoop::new(machine, clients, vec![listener], signals).unwrap()
}

/// Connects the proxy to its server, and returns the server's end.
pub(super) fn connect_server(event_loop: &mut EventLoop<OwnedProxy>) -> Stream {
    let (_dir, address) = place();
    let address = address.parse().unwrap();
    let server = Listener::open(&address, &Ownership::default()).unwrap();
    event_loop.set_servers(vec![Resolver::new(&address, false).unwrap()]).unwrap();
    event_loop.connect_servers(event_loop.now());
    server.accept().unwrap().expect("a connection from the proxy")
}

/// A directory, and the address of a socket in it.
fn place() -> (Dir, String) {
    let dir = Dir::new();
    let address = format!("UNIX:{}", dir.join("s").display());
    (dir, address)
}

/// Waits until something happens, and takes one turn.
pub(super) fn turn<M: Machine>(event_loop: &mut EventLoop<M>) {
    let mut events = Events::new();
    while events.iter().next().is_none() {
        event_loop.wait(&mut events, None).unwrap();
    }
    event_loop.turn(event_loop.now(), &events);
}

/// Takes turns until nothing happens any more.
pub(super) fn rest<M: Machine>(event_loop: &mut EventLoop<M>) {
    let mut events = Events::new();
    loop {
        let now = event_loop.now();
        let wake = event_loop.wait(&mut events, Some(now)).unwrap();
        if events.iter().next().is_none() && event_loop.machine.advance(wake).is_none() {
            return;
        }
        event_loop.turn(wake, &events);
    }
}

/// The bytes of a request.
pub(super) fn request(request: &Request<'_>) -> Vec<u8> {
    let mut machine = client::Connection::new(vec![0; client::MEMORY]).unwrap();
    machine.request(request).unwrap();
    machine.pending().to_vec()
}

fn id() -> Id<'static> {
    Id::new(b"id").unwrap()
}

/// A server with a client that asks for more than it reads, so the server can never finish with it.
fn with_a_client_that_does_not_read(address: &str) -> (EventLoop<OwnedCache>, UnixStream) {
    let mut event_loop = event_loop(cache(4), 4, address);
    let path = address.strip_prefix("UNIX:").unwrap();
    let mut client = UnixStream::connect(path).unwrap();
    let add = Add { ttl: 60_000, id: id(), session: &[7; 30_000] };
    client.write_all(&request(&Request::Add(add))).unwrap();
    rest(&mut event_loop);
    let gets = request(&Request::Get(id())).repeat(100);
    client.write_all(&gets).unwrap();
    rest(&mut event_loop);
    assert!(
        event_loop
            .machine
            .wants(Peer::Client(event_loop.clients.iter().flatten().next().unwrap().key))
            .write
    );
    (event_loop, client)
}

/// Has a signal of this process arrive in its turn.
fn signal<M: Machine>(event_loop: &mut EventLoop<M>, number: Number, now: Instant) {
    kill_process(getpid(), number).unwrap();
    let mut events = Events::new();
    while !events.iter().any(|event| event.key == SIGNALS_KEY) {
        event_loop.wait(&mut events, None).unwrap();
    }
    event_loop.turn(now, &events);
}

#[test]
fn a_first_signal_leaves_time_to_finish_and_a_second_one_none() {
    in_child(
        "event_loop::tests::a_first_signal_leaves_time_to_finish_and_a_second_one_none",
        || {
            for second in [Number::TERM, Number::INT, Number::USR1] {
                let (_dir, address) = place();
                let (mut event_loop, _client) = with_a_client_that_does_not_read(&address);
                let now = event_loop.now();
                signal(&mut event_loop, Number::TERM, now);
                assert!(
                    !event_loop.is_done(now) && !event_loop.is_done(now.after(DRAIN_TIMEOUT - 1))
                );
                assert!(
                    event_loop.is_done(now.after(DRAIN_TIMEOUT)),
                    "nobody is waited for longer"
                );
                signal(&mut event_loop, second, now);
                assert!(event_loop.is_done(now));
            }
        },
    );
}

#[test]
fn a_signal_that_ends_at_once_leaves_no_time() {
    in_child("event_loop::tests::a_signal_that_ends_at_once_leaves_no_time", || {
        let (_dir, address) = place();
        let (mut event_loop, _client) = with_a_client_that_does_not_read(&address);
        let now = event_loop.now();
        signal(&mut event_loop, Number::USR2, now);
        assert!(event_loop.is_done(now));
    });
}

#[test]
fn a_hangup_asks_for_one_reload_and_ends_nothing_before_or_after_a_signal_to_end() {
    let name = "event_loop::tests::a_hangup_asks_for_one_reload_and_ends_nothing_before_or_after_a_signal_to_end";
    in_child(name, || {
        let (_dir, address) = place();
        let (mut event_loop, _client) = with_a_client_that_does_not_read(&address);
        let now = event_loop.now();
        assert!(!event_loop.take_reload());
        signal(&mut event_loop, Number::HUP, now);
        signal(&mut event_loop, Number::HUP, now);
        assert!(!event_loop.is_done(now.after(DRAIN_TIMEOUT)));
        assert!(event_loop.take_reload() && !event_loop.take_reload());
        signal(&mut event_loop, Number::TERM, now);
        signal(&mut event_loop, Number::HUP, now);
        assert!(event_loop.take_reload() && !event_loop.is_done(now.after(DRAIN_TIMEOUT - 1)));
    });
}

#[test]
fn a_client_that_waits_for_the_server_and_leaves_is_closed_at_once() {
    in_child(
        "event_loop::tests::a_client_that_waits_for_the_server_and_leaves_is_closed_at_once",
        || {
            let (dir, address) = place();
            let mut event_loop = event_loop(proxy(2), 2, &address);
            let theirs = connect_server(&mut event_loop);
            let mut client = UnixStream::connect(dir.join("s")).unwrap();
            client.write_all(&request(&Request::Get(id()))).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            rest(&mut event_loop);
            let peer = Peer::Client(event_loop.clients[0].as_ref().unwrap().key);
            assert_eq!(event_loop.machine.wants(peer), Default::default(), "it only waits");
            assert!(matches!(
                theirs.recv(&mut [0; 99]).unwrap(),
                crate::net::stream::Received::Bytes(_)
            ));
            drop(client);
            turn(&mut event_loop);
            assert_eq!(event_loop.connected, 0);
            rest(&mut event_loop);
            let mut next = UnixStream::connect(dir.join("s")).unwrap();
            rest(&mut event_loop);
            assert_eq!(event_loop.connected, 1, "its place is free");
            next.shutdown(std::net::Shutdown::Write).unwrap();
            rest(&mut event_loop);
            assert_eq!(next.read(&mut [0]).unwrap(), 0);
        },
    );
}

#[test]
fn a_turn_accepts_no_more_than_so_many_connections_of_a_listener() {
    in_child(
        "event_loop::tests::a_turn_accepts_no_more_than_so_many_connections_of_a_listener",
        || {
            let (dir, address) = place();
            let mut event_loop =
                event_loop(cache(3 * ACCEPTS_PER_TURN), 3 * ACCEPTS_PER_TURN, &address);
            let connect = || UnixStream::connect(dir.join("s")).unwrap();
            let _clients: Vec<_> = (0..2 * ACCEPTS_PER_TURN + 1).map(|_| connect()).collect();
            for connected in [ACCEPTS_PER_TURN, 2 * ACCEPTS_PER_TURN, 2 * ACCEPTS_PER_TURN + 1] {
                turn(&mut event_loop);
                assert_eq!(event_loop.connected, connected);
            }
        },
    );
}

#[test]
fn a_signal_closes_clients_once_they_have_their_answers() {
    in_child("event_loop::tests::a_signal_closes_clients_once_they_have_their_answers", || {
        let (dir, address) = place();
        let mut event_loop = event_loop(cache(4), 4, &address);
        let mut clients = [(); 3].map(|()| UnixStream::connect(dir.join("s")).unwrap());
        rest(&mut event_loop);
        assert_eq!(event_loop.connected, 3);
        clients[0].write_all(&request(&Request::Get(id()))).unwrap();
        clients[1].write_all(&request(&Request::Get(id()))[..5]).unwrap();
        let now = event_loop.now();
        signal(&mut event_loop, Number::INT, now);
        assert!(
            event_loop.connected == 0 && event_loop.is_done(now),
            "no client is left to wait for"
        );
        let mut answer = Vec::new();
        clients[0].read_to_end(&mut answer).unwrap();
        assert_eq!(answer.len(), wire::HEADER_LEN + 1, "what had come is answered");
    });
}

#[test]
fn after_a_signal_no_client_is_accepted_and_waiting_ones_cost_no_turns() {
    let name =
        "event_loop::tests::after_a_signal_no_client_is_accepted_and_waiting_ones_cost_no_turns";
    in_child(name, || {
        let (dir, address) = place();
        let (mut event_loop, _client) = with_a_client_that_does_not_read(&address);
        let connect = || UnixStream::connect(dir.join("s")).unwrap();
        let _before = connect();
        let now = event_loop.now();
        signal(&mut event_loop, Number::TERM, now);
        assert_eq!(event_loop.connected, 1, "the signal comes first in its turn");
        let _after = connect();
        let mut events = Events::new();
        event_loop.wait(&mut events, Some(now)).unwrap();
        assert_eq!(events.iter().count(), 0);
        event_loop.accept(now);
        assert_eq!(event_loop.connected, 1);
    });
}

#[test]
fn an_inherited_connection_is_out_of_the_poller_once_it_is_closed() {
    let name = "event_loop::tests::an_inherited_connection_is_out_of_the_poller_once_it_is_closed";
    in_child(name, || {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        // As in another process that has it open: closing one descriptor does not close the connection.
        let _shared = ours.try_clone().unwrap();
        rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::empty()).unwrap();
        let listener = std::os::fd::IntoRawFd::into_raw_fd(ours);
        let mut event_loop = event_loop(cache(2), 2, &format!("FD:{listener}"));
        event_loop.turn(event_loop.now(), &Events::new());
        assert_eq!(event_loop.connected, 1);
        theirs.write_all(b"this is no request").unwrap();
        turn(&mut event_loop);
        assert_eq!(event_loop.connected, 0);
        theirs.write_all(b"and this is for nobody").unwrap();
        let mut events = Events::new();
        event_loop.wait(&mut events, Some(Instant::ORIGIN)).unwrap();
        assert_eq!(events.iter().count(), 0);
    });
}

#[test]
fn what_a_client_sent_behind_nonsense_does_not_take_its_answer_away() {
    let name =
        "event_loop::tests::what_a_client_sent_behind_nonsense_does_not_take_its_answer_away";
    in_child(name, || {
        let (dir, address) = place();
        let mut event_loop = event_loop(cache(2), 2, &address);
        let mut client = UnixStream::connect(dir.join("s")).unwrap();
        let mut bytes = request(&Request::Get(id()));
        // More than one receive takes.
        bytes.resize(wire::MESSAGE_MAX + 8000, b'x');
        client.write_all(&bytes).unwrap();
        rest(&mut event_loop);
        assert_eq!((event_loop.connected, event_loop.machine.counters().malformed), (0, 1));
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("an end in good order");
        assert_eq!(answer.len(), wire::HEADER_LEN + 1);
    });
}

#[test]
fn the_descriptor_of_a_lost_server_is_kept_for_its_successor() {
    in_child(
        "event_loop::tests::the_descriptor_of_a_lost_server_is_kept_for_its_successor",
        || {
            let (_dir, address) = place();
            let mut event_loop = event_loop(proxy(2), 2, &address);
            let server = connect_server(&mut event_loop);
            rest(&mut event_loop);
            let open = || std::fs::read_dir("/dev/fd").unwrap().count();
            let before = open();
            drop(server);
            turn(&mut event_loop);
            assert!(event_loop.upstreams()[0].is_idle());
            assert_eq!(open(), before - 1, "another stands in for the proxy's own");
        },
    );
}
