use super::*;
use crate::net::poller::{Events, Interest, Poller};
use crate::testing::{Dir, in_child};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, IntoRawFd};

fn wait_writable(stream: &Stream) {
    let poller = Poller::new().unwrap();
    poller.add(stream, 1, Interest::WRITE).unwrap();
    let mut events = Events::new();
    while !events.iter().any(|event| event.writable) {
        poller.wait(&mut events, None).unwrap();
    }
    poller.remove(stream).unwrap();
}

fn connect(target: &Target) -> io::Result<Stream> {
    let (stream, open) = Stream::connect(target)?;
    if open {
        wait_writable(&stream);
        stream.connected()?;
    }
    Ok(stream)
}

/// Makes a descriptor look inherited: not closed on exec.
fn inherit(fd: impl Into<OwnedFd>) -> i32 {
    let fd = fd.into();
    rustix::io::fcntl_setfd(&fd, FdFlags::empty()).unwrap();
    fd.into_raw_fd()
}

#[test]
fn recv_distinguishes_bytes_nothing_and_the_end() {
    let (a, mut b) = Stream::pair().unwrap();
    let mut buffer = [0; 8];
    assert_eq!(a.recv(&mut buffer).unwrap(), Received::Nothing);
    assert_eq!((b.send(b"").unwrap(), b.send(b"hello").unwrap()), (0, 5));
    assert_eq!(a.recv(&mut []).unwrap(), Received::Nothing);
    assert_eq!(a.recv(&mut buffer).unwrap(), Received::Bytes(5));
    assert_eq!(&buffer[..5], b"hello");
    b.shutdown_write().unwrap();
    assert_eq!(a.recv(&mut buffer).unwrap(), Received::Ended);
    assert_eq!(a.send(b"still").unwrap(), 5, "the other direction goes on");
    assert_eq!(b.recv(&mut buffer).unwrap(), Received::Bytes(5));
}

#[test]
fn send_stops_at_a_full_socket_and_continues_when_it_has_room() {
    let (a, b) = Stream::pair().unwrap();
    let block = [1; 4096];
    while a.send(&block).unwrap() > 0 {}
    let mut buffer = vec![0; 1 << 20];
    assert!(matches!(b.recv(&mut buffer).unwrap(), Received::Bytes(_)));
    wait_writable(&a);
    assert!(a.send(&block).unwrap() > 0);
}

#[test]
fn sending_to_a_closed_peer_is_an_error_and_not_a_signal() {
    in_child("net::stream::tests::sending_to_a_closed_peer_is_an_error_and_not_a_signal", || {
        let (a, b) = Stream::pair().unwrap();
        drop(b);
        assert_eq!(a.send(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_tcp_stream_has_no_nagle_delay() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = connect(&Target::Ip(listener.local_addr().unwrap())).unwrap();
    let fd = stream.read_fd().unwrap();
    assert!(sockopt::tcp_nodelay(fd).unwrap());
    assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
    assert!(rustix::fs::fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK));
    stream.keepalive(Duration::from_secs(30), Duration::from_secs(5), 3).unwrap();
    assert!(sockopt::socket_keepalive(fd).unwrap());
    assert_eq!(sockopt::tcp_keepidle(fd).unwrap(), Duration::from_secs(30));
    assert_eq!(sockopt::tcp_keepintvl(fd).unwrap(), Duration::from_secs(5));
    assert_eq!(sockopt::tcp_keepcnt(fd).unwrap(), 3);
    // Probes are not sent while data waits to be acknowledged: another limit is for that.
    #[cfg(target_os = "linux")]
    assert_eq!(sockopt::tcp_user_timeout(fd).unwrap(), 45_000);
    let (peer, _) = listener.accept().unwrap();
    assert_eq!(stream.send(b"hello").unwrap(), 5);
    drop(peer);
}

#[test]
fn connecting_to_a_port_without_a_listener_is_refused() {
    in_child("net::stream::tests::connecting_to_a_port_without_a_listener_is_refused", || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::Ip(listener.local_addr().unwrap());
        drop(listener);
        assert_eq!(connect(&target).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_socket_connected_to_itself_is_refused() {
    // Bound to the port that it connects to, it always connects to itself.
    let stream = Stream::socket(new_socket(AddressFamily::INET).unwrap(), true);
    net::bind(stream.one(), &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let own = net::getsockname(stream.one()).unwrap();
    connect_open(net::connect(stream.one(), &own)).unwrap();
    wait_writable(&stream);
    assert_eq!(stream.connected().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn connecting_to_a_missing_unix_socket_fails_at_once() {
    let dir = Dir::new();
    let address: crate::net::address::Address =
        format!("UNIX:{}", dir.join("none").display()).parse().unwrap();
    let error = connect(&address.resolve().unwrap()[0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn an_inherited_descriptor_can_be_taken_once() {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    let own = a.as_raw_fd();
    let error = connect(&Target::Fd { read: Some(own), write: Some(own) }).unwrap_err();
    assert!(error.to_string().contains("opened by this process"), "{error}");
    let number = inherit(a);
    let target = Target::Fd { read: Some(number), write: Some(number) };
    let stream = connect(&target).unwrap();
    assert!(connect(&target).unwrap_err().to_string().contains("taken already"));
    let peer = Stream::adopt(b.into()).unwrap();
    stream.send(b"x").unwrap();
    assert_eq!(peer.recv(&mut [0; 2]).unwrap(), Received::Bytes(1));
    let closed = Target::Fd { read: Some(1 << 20), write: None };
    assert!(connect(&closed).unwrap_err().to_string().contains("not open"));
}

#[test]
fn two_pipes_make_one_stream() {
    in_child("net::stream::tests::two_pipes_make_one_stream", || {
        let (their_read, our_write) = io::pipe().unwrap();
        let (our_read, their_write) = io::pipe().unwrap();
        let (read, write) = (inherit(our_read), inherit(our_write));
        let mut stream = connect(&Target::Fd { read: Some(read), write: Some(write) }).unwrap();
        let theirs = Stream::adopt(their_read.into()).unwrap();
        let poller = Poller::new().unwrap();
        let mut events = Events::new();
        poller.add(&stream, 5, Interest::WRITE).unwrap();
        poller.wait(&mut events, None).unwrap();
        assert!(events.iter().all(|event| event.key == 5 && event.writable));
        assert_eq!(stream.send(b"out").unwrap(), 3);
        assert_eq!(theirs.recv(&mut [0; 9]).unwrap(), Received::Bytes(3));
        poller.modify(&stream, 5, Interest::READ).unwrap();
        rustix::io::write(&their_write, b"in").unwrap();
        poller.wait(&mut events, None).unwrap();
        assert!(events.iter().all(|event| event.key == 5 && event.readable && !event.writable));
        assert_eq!(stream.recv(&mut [0; 9]).unwrap(), Received::Bytes(2));
        stream.shutdown_write().unwrap();
        assert_eq!(theirs.recv(&mut [0; 9]).unwrap(), Received::Ended);
        drop(their_write);
        assert_eq!(stream.recv(&mut [0; 9]).unwrap(), Received::Ended);
        poller.remove(&stream).unwrap();
    });
}

#[test]
fn a_stream_can_have_one_direction_only() {
    let (reader, writer) = io::pipe().unwrap();
    let only_writes = connect(&Target::Fd { read: None, write: Some(inherit(writer)) }).unwrap();
    let only_reads = connect(&Target::Fd { read: Some(inherit(reader)), write: None }).unwrap();
    assert_eq!(only_writes.recv(&mut [0; 9]).unwrap(), Received::Nothing);
    assert_eq!(only_reads.send(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(only_writes.send(b"x").unwrap(), 1);
    assert_eq!(only_reads.recv(&mut [0; 9]).unwrap(), Received::Bytes(1));
}

#[test]
fn a_taken_standard_descriptor_becomes_dev_null() {
    let name = "net::stream::tests::a_taken_standard_descriptor_becomes_dev_null";
    in_child(name, || {
        let (a, b) = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| Ok((TcpStream::connect(l.local_addr()?)?, l.accept()?.0)))
            .unwrap();
        rustix::stdio::dup2_stdin(&a).unwrap();
        drop(a);
        let stream = connect(&Target::Fd { read: Some(0), write: Some(0) }).unwrap();
        assert!(stream.tcp && stream.read_fd().unwrap().as_raw_fd() > 2);
        drop(stream);
        let peer = Stream::adopt(b.into()).unwrap();
        let poller = Poller::new().unwrap();
        poller.add(&peer, 0, Interest::READ).unwrap();
        poller.wait(&mut Events::new(), None).unwrap();
        assert_eq!(peer.recv(&mut [0]).unwrap(), Received::Ended, "no copy keeps it open");
        assert_eq!(io::Read::read(&mut io::stdin(), &mut [0]).unwrap(), 0);
    });
}

#[test]
fn an_inherited_connection_over_tcp_is_made_as_one_of_our_own() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let number = inherit(theirs);
    let stream = Stream::inherited(Some(number), Some(number)).unwrap();
    let fd = stream.read_fd().unwrap();
    assert!(sockopt::tcp_nodelay(fd).unwrap());
    assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
    assert!(rustix::fs::fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK));
}

#[test]
fn the_end_of_what_is_written_reaches_a_peer_whose_socket_others_have_too() {
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let shared = ours.try_clone().unwrap();
    let (read, write) = (inherit(ours.try_clone().unwrap()), inherit(ours));
    let mut stream = Stream::inherited(Some(read), Some(write)).unwrap();
    stream.send(b"bye").unwrap();
    stream.shutdown_write().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut heard = Vec::new();
    std::io::Read::read_to_end(&mut theirs, &mut heard).unwrap();
    assert_eq!(heard, b"bye");
    drop(shared);
}

#[test]
fn whatever_is_adopted_does_not_block_and_is_closed_on_exec() {
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    rustix::io::fcntl_setfd(&ours, FdFlags::empty()).unwrap();
    let stream = Stream::adopt(ours.into()).unwrap();
    let fd = stream.read_fd().unwrap();
    assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
    assert!(rustix::fs::fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK));
}
