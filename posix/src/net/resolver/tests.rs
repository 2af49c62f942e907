use std::os::unix::net::UnixStream;

use super::*;
use crate::net::address::{TARGETS_MAX, Target};
use crate::net::poller::{Events, Interest, Poller};
use crate::testing::in_child;
use rustix::event::{PollFd, PollFlags, poll};

/// A channel whose other end is the test, not a process.
fn channel() -> (Channel, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    (Channel::new(ours.into(), Family::Any, 9001), theirs)
}

fn targets(ips: &[&str]) -> Targets {
    ips.iter().map(|ip| Target::Ip(ip.parse().unwrap())).collect()
}

/// The number of requests that wait.
fn requests(process: &UnixStream) -> usize {
    std::io::Read::read(&mut &*process, &mut [0; 16]).unwrap_or(0)
}

fn reply(process: &UnixStream, bytes: &[u8]) {
    std::io::Write::write_all(&mut &*process, bytes).unwrap();
}

/// Requests and waits for the answer.
fn ask(resolver: &mut Resolver) -> Answer {
    resolver.request();
    loop {
        if let Some(answer) = resolver.take() {
            return answer;
        }
        let fd = resolver.fd().unwrap();
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).unwrap();
        resolver.receive();
    }
}

#[test]
fn a_numeric_address_has_one_answer_a_request_at_once_and_no_process() {
    let address: Address = "IP:127.0.0.1:9001".parse().unwrap();
    let mut resolver = Resolver::new(&address, true).unwrap();
    assert!(resolver.take().is_none() && resolver.fd().is_none());
    for _ in 0..2 {
        resolver.request();
        assert_eq!(resolver.take().unwrap(), Ok(address.resolve().unwrap()));
        assert!(resolver.take().is_none() && !resolver.take_loss());
    }
}

#[test]
fn a_name_is_resolved_by_another_process_again_and_again() {
    in_child("net::resolver::tests::a_name_is_resolved_by_another_process_again_and_again", || {
        for sandbox in [false, true] {
            let address: Address = "IPv4:localhost:9001".parse().unwrap();
            let mut resolver = Resolver::new(&address, sandbox).unwrap();
            for _ in 0..3 {
                assert_eq!(ask(&mut resolver), Ok(address.resolve().unwrap()));
                assert!(resolver.take().is_none());
            }
            let unknown = "IP:no-such-host.invalid:9001".parse().unwrap();
            assert_eq!(ask(&mut Resolver::new(&unknown, sandbox).unwrap()), Err(Unresolved));
        }
    });
}

#[test]
#[cfg(target_os = "linux")]
fn dropping_the_resolver_ends_its_process() {
    in_child("net::resolver::tests::dropping_the_resolver_ends_its_process", || {
        let address: Address = "IPv4:localhost:9001".parse().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut resolver = Resolver::new(&address, true).unwrap();
        drop(writer);
        // The process has closed what it inherited.
        poll(&mut [PollFd::new(&reader, PollFlags::IN)], None).unwrap();
        ask(&mut resolver).unwrap();
        let any = || {
            let mut threads = std::fs::read_dir("/proc/self/task").unwrap();
            threads.any(|thread| {
                let children = thread.unwrap().path().join("children");
                !std::fs::read_to_string(children).unwrap().is_empty()
            })
        };
        assert!(any());
        drop(resolver);
        while any() {
            std::thread::yield_now();
        }
    });
}

#[test]
fn an_answer_that_was_not_taken_does_not_answer_the_next_request() {
    let (mut channel, process) = channel();
    channel.request();
    reply(&process, &worker::encode(&targets(&["192.0.2.1:9001"])));
    channel.receive();
    assert!(channel.answer.is_some());
    channel.request();
    assert!(channel.answer.is_none(), "the host may be elsewhere by now");
    assert_eq!(requests(&process), 2);
}

#[test]
fn while_name_service_hangs_the_last_addresses_are_the_answer() {
    let (mut channel, process) = channel();
    channel.request();
    channel.request();
    assert_eq!((requests(&process), channel.answer.take()), (1, None), "none is known yet");
    let known = targets(&["192.0.2.1:9001", "[2001:db8::1]:9001"]);
    reply(&process, &worker::encode(&known));
    channel.receive();
    assert_eq!(channel.answer.take(), Some(Ok(known.clone())));
    channel.request();
    assert_eq!(channel.answer, None);
    channel.request();
    assert_eq!(channel.answer.take(), Some(Ok(known)));
    assert_eq!(requests(&process), 1);
    let moved = targets(&["192.0.2.2:9001"]);
    reply(&process, &worker::encode(&moved));
    channel.receive();
    channel.request();
    channel.request();
    assert_eq!(channel.answer.take(), Some(Ok(moved)));
}

#[test]
fn after_the_end_of_the_process_the_last_addresses_are_the_answer() {
    let (mut channel, process) = channel();
    let known = targets(&["192.0.2.1:9001"]);
    channel.request();
    reply(&process, &worker::encode(&known));
    channel.receive();
    channel.request();
    drop(process);
    channel.receive();
    assert_eq!(channel.answer.take(), Some(Ok(known.clone())), "the request under way");
    assert!(std::mem::take(&mut channel.lost) && channel.fd.is_none());
    channel.request();
    assert_eq!(channel.answer.take(), Some(Ok(known)));
    assert!(!channel.lost, "it is lost once");
}

#[test]
fn an_answer_arrives_in_pieces_too() {
    let (mut channel, process) = channel();
    let known = targets(&["[fe80::1%7]:9001", "192.0.2.1:9001"]);
    channel.request();
    for byte in worker::encode(&known) {
        assert_eq!(channel.answer, None);
        reply(&process, &[byte]);
        channel.receive();
    }
    assert_eq!(channel.answer, Some(Ok(known)));
}

#[test]
fn a_process_that_lies_is_given_up_and_chooses_no_port_and_no_family() {
    let known = targets(&["192.0.2.1:1"; TARGETS_MAX]);
    let good = worker::encode(&known);
    let decoded = worker::decode(&good, Family::Any, 9001).unwrap();
    assert_eq!(decoded, targets(&["192.0.2.1:9001"; TARGETS_MAX]));
    assert_eq!(worker::decode(&good, Family::V6, 9001), None);
    let changed = |at: usize, to: u8| {
        let mut answer = good;
        answer[at] = to;
        answer
    };
    for lie in [changed(0, TARGETS_MAX as u8 + 1), changed(0, 255), changed(1, 5), changed(22, 0)] {
        assert_eq!(worker::decode(&lie, Family::Any, 9001), None);
        let (mut channel, process) = channel();
        channel.request();
        reply(&process, &lie);
        channel.receive();
        assert_eq!(channel.answer, Some(Err(Unresolved)));
        assert!(channel.lost && channel.fd.is_none());
    }
    // Nobody asked.
    let (mut channel, process) = channel();
    reply(&process, &good);
    channel.receive();
    assert!(channel.lost && channel.fd.is_none());
    // More than one answer.
    let (mut channel, process) = self::channel();
    channel.request();
    reply(&process, &good);
    reply(&process, &good);
    channel.receive();
    assert!(channel.answer.take().unwrap().is_ok() && !channel.lost);
    channel.receive();
    assert!(channel.lost);
}

#[test]
fn the_poller_reports_an_answer() {
    let (mut channel, process) = channel();
    let poller = Poller::new().unwrap();
    poller.add_fd(channel.fd.as_ref().unwrap().as_fd(), 5, Interest::READ).unwrap();
    channel.request();
    reply(&process, &worker::encode(&Targets::new()));
    let mut events = Events::new();
    poller.wait(&mut events, None).unwrap();
    assert!(events.iter().all(|event| event.key == 5));
    channel.receive();
    assert_eq!(channel.answer, Some(Err(Unresolved)));
}
