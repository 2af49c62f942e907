use super::*;
use crate::net::poller::{Events, Interest, Poller};
use crate::net::stream::Received;
use crate::process::accounts;
use crate::testing::{Dir, in_child, in_child_dir, is_root, skipped};
use rustix::fs;
use rustix::io::FdFlags;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Barrier;

fn unix(path: &Path) -> Address {
    format!("UNIX:{}", path.display()).parse().unwrap()
}

fn open(address: &Address) -> Result<Listener, ListenError> {
    Listener::open(address, &Ownership::default())
}

fn connect(address: &str) -> Stream {
    let targets = address.parse::<Address>().unwrap().resolve().unwrap();
    Stream::connect(&targets[0]).unwrap().0
}

fn accept(listener: &Listener) -> Stream {
    let poller = Poller::new().unwrap();
    poller.add_listener(listener, 1).unwrap();
    loop {
        if let Some(stream) = listener.accept().unwrap() {
            poller.remove_listener(listener).unwrap();
            return stream;
        }
        poller.wait(&mut Events::new(), None).unwrap();
    }
}

/// Sends a byte each way.
fn talk(a: &Stream, b: &Stream) {
    let poller = Poller::new().unwrap();
    for (from, to) in [(a, b), (b, a)] {
        poller.add(from, 1, Interest::WRITE).unwrap();
        while from.send(b"x").unwrap() == 0 {
            poller.wait(&mut Events::new(), None).unwrap();
        }
        poller.remove(from).unwrap();
        poller.add(to, 1, Interest::READ).unwrap();
        poller.wait(&mut Events::new(), None).unwrap();
        poller.remove(to).unwrap();
        assert_eq!(to.recv(&mut [0; 2]).unwrap(), Received::Bytes(1));
    }
}

fn inherit(fd: impl Into<OwnedFd>) -> String {
    let fd = fd.into();
    rustix::io::fcntl_setfd(&fd, FdFlags::empty()).unwrap();
    format!("FD:{}", fd.into_raw_fd())
}

#[test]
fn clients_are_accepted_at_every_kind_of_address() {
    let dir = Dir::new();
    let path = format!("UNIX:{}", dir.join("s").display());
    let hidden = format!("UNIX:@dc-test-{}", std::process::id());
    for text in [&path, &hidden, "IP:127.0.0.1:0", "IP:0", "IPv4:localhost:0", "IPv6:[::1]:0"] {
        if text.starts_with("IPv6") && std::net::TcpListener::bind("[::1]:0").is_err() {
            skipped("this machine has no IPv6");
            continue;
        }
        let listener = open(&text.parse().unwrap()).unwrap_or_else(|error| panic!("{error}"));
        assert!(listener.accept().unwrap().is_none());
        let client = connect(&listener.address());
        let served = accept(&listener);
        talk(&client, &served);
        assert!(!listener.finished() && !listener.ready() && listener.warnings().is_empty());
        let fd = served.read_fd().unwrap();
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC), "{text}");
        assert!(fs::fcntl_getfl(fd).unwrap().contains(fs::OFlags::NONBLOCK), "{text}");
        assert_eq!(sockopt::tcp_nodelay(fd).unwrap_or(false), text.starts_with("IP"), "{text}");
    }
}

#[test]
fn port_0_is_shown_as_the_real_port() {
    let listener = open(&"IP:0".parse().unwrap()).unwrap();
    let address: Address = listener.address().parse().unwrap();
    assert!(address.connectable().is_ok(), "{address}");
    let error = open(&address).unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
}

#[test]
fn without_ipv6_all_interfaces_means_ipv4() {
    let address: Address = "IP:0".parse().unwrap();
    let without = |ip: SocketAddr| match ip {
        SocketAddr::V6(_) => Err(Errno::AFNOSUPPORT.into()),
        SocketAddr::V4(_) => {
            let fd = bind_tcp(ip, Some(false))?;
            Ok(Source::Socket { fd, tcp: true, path: None })
        }
    };
    let Ok(Source::Socket { fd, .. }) = open_ip(&address, without) else { panic!("it listens") };
    assert!(written(&fd, bound(&fd).unwrap()).starts_with("IP:0.0.0.0:"));
    // If the port is taken for IPv6, IPv4 alone is not enough.
    let taken = |ip: SocketAddr| match ip {
        SocketAddr::V6(_) => Err(Errno::ADDRINUSE.into()),
        SocketAddr::V4(_) => panic!("IPv4 must not be tried"),
    };
    assert!(matches!(open_ip(&address, taken), Err(ListenErrorKind::InUse)));
}

#[test]
fn a_live_server_keeps_its_path_and_its_clients() {
    let dir = Dir::new();
    let address = unix(&dir.join("s"));
    let live = open(&address).unwrap();
    for _ in 0..2 {
        let error = open(&address).unwrap_err().to_string();
        assert!(error.contains("in use") && error.contains(&address.to_string()), "{error}");
    }
    drop(live.accept().unwrap());
    talk(&connect(&live.address()), &accept_last(&live));
    assert_eq!(dir.names(), ["s"]);
}

/// The last of the waiting connections. Those before are probes of other servers, closed already.
fn accept_last(listener: &Listener) -> Stream {
    let mut last = accept(listener);
    while let Some(next) = listener.accept().unwrap() {
        last = next;
    }
    last
}

#[test]
#[cfg(target_os = "linux")]
fn a_server_with_a_full_backlog_is_alive_and_refuses_at_once() {
    let dir = Dir::new();
    let address = unix(&dir.join("s"));
    let full = UnixListener::bind(dir.join("s")).unwrap();
    net::listen(&full, 0).unwrap();
    let target = address.resolve().unwrap()[0];
    let mut waiting = Vec::new();
    let error = loop {
        match Stream::connect(&target) {
            Ok((stream, open)) => waiting.push((stream, assert!(!open))),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    assert!(open(&address).unwrap_err().to_string().contains("in use"));
}

#[test]
fn a_stale_socket_is_replaced() {
    in_child("net::listener::tests::a_stale_socket_is_replaced", || {
        let dir = Dir::new();
        let path = dir.join("s");
        drop(UnixListener::bind(&path).unwrap());
        let before = path.symlink_metadata().unwrap().ino();
        let listener = open(&unix(&path)).unwrap();
        assert_eq!(dir.names(), ["s"]);
        assert!(path.symlink_metadata().unwrap().ino() != before || cfg!(not(target_os = "linux")));
        talk(&connect(&listener.address()), &accept(&listener));
    });
}

#[test]
fn a_file_that_is_not_a_socket_is_left_alone() {
    let dir = Dir::new();
    let path = dir.join("s");
    std::fs::write(&path, "precious").unwrap();
    let error = open(&unix(&path)).unwrap_err().to_string();
    assert!(error.contains("left alone") && error.contains("UNIX:"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    assert!(open(&unix(&path)).is_err(), "not even through a link");
    assert_eq!(dir.names(), ["s"]);
}

#[test]
fn of_several_servers_that_start_at_once_over_a_stale_socket_one_serves() {
    in_child(
        "net::listener::tests::of_several_servers_that_start_at_once_over_a_stale_socket_one_serves",
        || {
            for _ in 0..20 {
                let dir = Dir::new();
                let path = dir.join("s");
                drop(UnixListener::bind(&path).unwrap());
                let (address, start) = (unix(&path), Barrier::new(4));
                let opened: Vec<_> = std::thread::scope(|scope| {
                    let start_one = || {
                        start.wait();
                        open(&address)
                    };
                    let threads: Vec<_> = (0..4).map(|_| scope.spawn(start_one)).collect();
                    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
                });
                let serving: Vec<_> = opened.into_iter().filter_map(Result::ok).collect();
                assert_eq!(serving.len(), 1);
                talk(&connect(&serving[0].address()), &accept_last(&serving[0]));
                assert_eq!(dir.names(), ["s"]);
            }
        },
    );
}

#[test]
fn a_lock_on_the_directory_does_not_prevent_listening() {
    let dir = Dir::new();
    let held = std::fs::File::open(dir.path()).unwrap();
    fs::flock(&held, fs::FlockOperation::LockExclusive).unwrap();
    assert!(open(&unix(&dir.join("s"))).is_ok());
}

#[test]
fn a_listener_removes_its_own_path_and_no_other() {
    let dir = Dir::new();
    let path = dir.join("s");
    open(&unix(&path)).unwrap().close();
    assert!(dir.names().is_empty());
    let listener = open(&unix(&path)).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(listener);
    assert_eq!(dir.names(), ["s"], "the other socket stays");
}

#[test]
fn a_path_of_the_maximum_length_works() {
    let dir = Dir::new();
    let room = 107 - dir.path().as_os_str().len() - 1;
    let path = dir.join(&"x".repeat(room.min(100)));
    let listener = open(&unix(&path)).unwrap();
    talk(&connect(&listener.address()), &accept(&listener));
}

#[test]
fn owner_group_and_mode_are_set_before_a_client_can_connect() {
    if !is_root() {
        return;
    }
    let dir = Dir::new();
    let path = dir.join("s");
    let ownership =
        Ownership { owner: Some("12".into()), group: Some("34".into()), mode: Some(0o640) };
    for _ in 0..20 {
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                while UnixStream::connect(&path).is_err() {}
                let stat = path.symlink_metadata().unwrap();
                (stat.uid(), stat.gid(), stat.mode() & 0o7777)
            });
            let listener = Listener::open(&unix(&path), &ownership).unwrap();
            assert_eq!(watcher.join().unwrap(), (12, 34, 0o640));
            assert!(listener.warnings().is_empty());
        });
    }
}

#[test]
fn without_a_mode_the_umask_decides() {
    in_child("net::listener::tests::without_a_mode_the_umask_decides", || {
        let dir = Dir::new();
        for (mask, mode) in [(0o022, 0o755), (0o077, 0o700), (0, 0o777)] {
            rustix::process::umask(fs::Mode::from_raw_mode(mask));
            let path = dir.join("s");
            let _listener = open(&unix(&path)).unwrap();
            assert_eq!(path.symlink_metadata().unwrap().mode() & 0o777, mode);
        }
    });
}

#[test]
fn an_unknown_owner_or_group_is_an_error_that_leaves_no_file() {
    let dir = Dir::new();
    let name = || Some("no-such-name".to_owned());
    let owner = Ownership { owner: name(), ..Ownership::default() };
    let group = Ownership { group: name(), mode: Some(0o770), ..Ownership::default() };
    for (ownership, what) in [(owner, "owner"), (group, "group")] {
        let error = Listener::open(&unix(&dir.join("s")), &ownership).unwrap_err().to_string();
        let line = format!("cannot set the socket's {what} to no-such-name: there is no ");
        assert!(error.contains(&line), "{error}");
        assert!(dir.names().is_empty());
    }
}

#[test]
fn a_process_that_may_not_chown_does_not_listen() {
    let body = |dir: &Path| {
        if !is_root() {
            return;
        }
        fs::chmod(dir, fs::Mode::from_raw_mode(0o777)).unwrap();
        crate::process::change_user("nobody").unwrap();
        let to_root = |owner: Option<&str>, group: Option<&str>| {
            let (owner, group) = (owner.map(str::to_owned), group.map(str::to_owned));
            let ownership = Ownership { owner, group, mode: None };
            Listener::open(&unix(&dir.join("s")), &ownership)
        };
        for refused in [to_root(Some("root"), None), to_root(None, Some("0"))] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("Operation not permitted"), "{error}");
        }
        let own = accounts::owner("nobody").unwrap().to_string();
        drop(to_root(Some(&own), None).expect("the user's own id"));
    };
    in_child_dir(
        "net::listener::tests::a_process_that_may_not_chown_does_not_listen",
        body,
        |dir| {
            assert!(dir.names().is_empty());
        },
    );
}

#[test]
fn an_owner_for_a_tcp_socket_is_a_warning() {
    let wanted = Ownership { mode: Some(0o600), ..Ownership::default() };
    let listener = Listener::open(&"IP:127.0.0.1:0".parse().unwrap(), &wanted).unwrap();
    assert!(listener.warnings()[0].contains("no owner"));
}

#[test]
fn a_missing_directory_is_named() {
    let dir = Dir::new();
    let error = open(&unix(&dir.join("none").join("s"))).unwrap_err().to_string();
    assert!(error.contains("none/s") && error.ends_with("none does not exist"), "{error}");
}

#[test]
fn an_inherited_listening_socket_keeps_accepting() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let listener = open(&inherit(socket).parse().unwrap()).unwrap();
    assert!(!listener.finished() && !listener.ready() && listener.fd().is_some());
    assert!(listener.accept().unwrap().is_none());
    assert_eq!(listener.address(), format!("IP:127.0.0.1:{port}"));
    for _ in 0..3 {
        talk(&connect(&listener.address()), &accept(&listener));
        assert!(!listener.finished());
    }
}

#[test]
fn an_inherited_stream_is_accepted_once() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let listener = open(&inherit(ours).parse().unwrap()).unwrap();
    assert!(listener.ready() && !listener.finished() && listener.fd().is_none());
    Poller::new().unwrap().add_listener(&listener, 1).unwrap();
    let stream = listener.accept().unwrap().unwrap();
    assert!(listener.finished() && !listener.ready());
    assert!(listener.accept().unwrap().is_none());
    talk(&stream, &Stream::adopt(theirs.into()).unwrap());
}

#[test]
fn two_inherited_pipes_are_a_stream() {
    let (reader, their_write) = std::io::pipe().unwrap();
    let (_their_read, writer) = std::io::pipe().unwrap();
    let (read, write) = (inherit(reader), inherit(writer));
    let address = format!("{read}:{}", &write[3..]);
    let listener = open(&address.parse().unwrap()).unwrap();
    let stream = listener.accept().unwrap().unwrap();
    rustix::io::write(&their_write, b"x").unwrap();
    assert_eq!(stream.recv(&mut [0; 2]).unwrap(), Received::Bytes(1));
    assert!(listener.finished());
}

#[test]
fn a_descriptor_that_was_not_inherited_is_refused() {
    let (own, _peer) = UnixStream::pair().unwrap();
    let error = open(&format!("FD:{}", own.as_raw_fd()).parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("opened by this process"), "{error}");
    assert!(open(&"FD:1048576".parse().unwrap()).unwrap_err().to_string().contains("not open"));
}

#[test]
fn running_out_of_descriptors_is_an_error_that_passes() {
    in_child("net::listener::tests::running_out_of_descriptors_is_an_error_that_passes", || {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let listener = open(&"IP:127.0.0.1:0".parse().unwrap()).unwrap();
        let client = connect(&listener.address());
        let poller = Poller::new().unwrap();
        poller.add_listener(&listener, 1).unwrap();
        poller.wait(&mut Events::new(), None).unwrap();
        let before = getrlimit(Resource::Nofile);
        let none = rustix::process::Rlimit { current: Some(3), ..before };
        setrlimit(Resource::Nofile, none).unwrap();
        let error = listener.accept().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        setrlimit(Resource::Nofile, before).unwrap();
        talk(&client, &accept(&listener));
    });
}

#[test]
fn a_port_can_be_listened_on_again_while_the_system_remembers_its_connections() {
    let name = "net::listener::tests::\
                a_port_can_be_listened_on_again_while_the_system_remembers_its_connections";
    in_child(name, || {
        let listener = open(&"IP:127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.address();
        let client = connect(&address);
        // The side that closes first remembers.
        drop(accept(&listener));
        drop((client, listener));
        assert_eq!(open(&address.parse().unwrap()).unwrap().address(), address);
    });
}
