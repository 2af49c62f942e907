//! The proxy's own checks: memory, and attempts to connect.

use super::*;
use crate::clients::Limits;
use crate::slots::Slot;
use crate::wire::MESSAGE_MAX;
use core::time::Duration;
use std::vec;

const CONFIG: Config = Config::new(Limits::NONE, Duration::from_millis(100));

#[test]
fn insufficient_memory_is_refused() {
    let cases = [
        (1, 1, 1, 3, Some(SetupError::Buffers(4))),
        (1, 1, 3, 7, Some(SetupError::Buffers(8))),
        (1, 0, 1, 4, Some(SetupError::Slots)),
        (0, 1, 1, 4, Some(SetupError::Slots)),
        (1, 1, 0, 4, Some(SetupError::NoServers)),
        (1, 1, 33, 68, Some(SetupError::TooManyServers)),
        (1, 1, 32, 66, None),
        (1, 1, 1, 4, None),
    ];
    for (slots, in_flight, count, buffers, too_small) in cases {
        let slots: vec::Vec<_> = (0..slots).map(|_| Slot::EMPTY).collect();
        let in_flight: vec::Vec<_> = (0..in_flight).map(|_| Slot::EMPTY).collect();
        let mut servers = [const { Upstream::ONLY }; 33];
        let mut memory = vec![0; buffers * MESSAGE_MAX];
        let pool = Pool::new(&mut memory, MESSAGE_MAX);
        let made = Proxy::new(slots, in_flight, &mut servers[..count], pool, CONFIG);
        assert_eq!(made.err(), too_small);
    }
}

#[test]
fn an_attempt_to_connect_is_started_once() {
    let (mut slots, mut in_flight) = ([const { Slot::EMPTY }; 1], [const { Slot::EMPTY }; 1]);
    let mut memory = vec![0; 4 * MESSAGE_MAX];
    let pool = Pool::new(&mut memory, MESSAGE_MAX);
    let mut servers = [Upstream::ONLY];
    let mut proxy = Proxy::new(&mut slots, &mut in_flight, &mut servers, pool, CONFIG).unwrap();
    let at = Instant::from_millis;
    assert_eq!(proxy.deadline(), Some(Instant::ORIGIN));
    let dials = [7, 7, 1000].map(|time| proxy.dial(at(time)));
    let [Some(Dial::Connect(key)), None, None] = dials else { panic!("{dials:?}") };
    proxy.closed(Peer::Server(key));
    assert_eq!(proxy.deadline(), Some(at(107)));
    assert_eq!(proxy.dial(at(106)), None);
    let Some(Dial::Connect(key)) = proxy.dial(at(107)) else { panic!("it is time") };
    proxy.connected(at(108), key);
    assert!(!proxy.is_up(0) && proxy.dial(at(5000)).is_none());
}

#[test]
fn an_attempt_that_takes_too_long_is_cancelled_once() {
    let (mut slots, mut in_flight) = ([const { Slot::EMPTY }; 1], [const { Slot::EMPTY }; 1]);
    let mut memory = vec![0; 4 * MESSAGE_MAX];
    let pool = Pool::new(&mut memory, MESSAGE_MAX);
    let mut servers = [Upstream::ONLY];
    let limits = Limits { idle: None, patience: Some(Duration::from_millis(300)) };
    let config = Config { limits, ..CONFIG };
    let mut proxy = Proxy::new(&mut slots, &mut in_flight, &mut servers, pool, config).unwrap();
    let at = Instant::from_millis;
    let Some(Dial::Connect(first)) = proxy.dial(at(7)) else { panic!("it is time") };
    assert_eq!((proxy.deadline(), proxy.dial(at(306))), (Some(at(307)), None));
    assert_eq!(proxy.dial(at(307)), Some(Dial::Cancel(first)));
    assert!(proxy.wants(Peer::Server(first)).close, "its key is stale");
    let Some(Dial::Connect(second)) = proxy.dial(at(307)) else { panic!("retry is over") };
    assert_ne!(first, second);
    proxy.connected(at(308), first);
    assert_eq!(proxy.traffic().connects, 0, "the first attempt counts no more");
    // Called much later than it asked for: the result may be there and not reported yet.
    assert_eq!(proxy.dial(at(2000)), None);
    assert_eq!((proxy.deadline(), proxy.dial(at(2299))), (Some(at(2300)), None));
    assert_eq!(proxy.dial(at(2300)), Some(Dial::Cancel(second)));
}

#[test]
fn a_buffer_that_comes_back_is_due_at_once_for_the_client_that_waits_for_one() {
    let (mut slots, mut in_flight) = ([const { Slot::EMPTY }; 2], [const { Slot::EMPTY }; 1]);
    let mut memory = vec![0; 4 * MESSAGE_MAX];
    let pool = Pool::new(&mut memory[..], MESSAGE_MAX);
    let mut servers = [Upstream::ONLY];
    let proxy = Proxy::new(&mut slots[..], &mut in_flight[..], &mut servers[..], pool, CONFIG);
    let mut proxy = proxy.unwrap();
    let now = Instant::from_millis(7);
    assert!(matches!(proxy.dial(now), Some(Dial::Connect(_))));
    let [first, second] = [(); 2].map(|()| Peer::Client(proxy.open(now).unwrap()));
    assert!(!proxy.space(first).is_empty());
    proxy.filled(first, 1);
    assert_eq!(proxy.advance(now), Some(first));
    assert!(proxy.space(second).is_empty(), "the last buffer is for answers");
    assert_eq!((proxy.deadline(), proxy.advance(now)), (None, None));
    proxy.closed(first);
    assert_eq!(proxy.deadline(), Some(Instant::ORIGIN));
    assert_eq!(proxy.advance(now), Some(second));
    assert_eq!((proxy.deadline(), proxy.advance(now)), (None, None));
    assert!(!proxy.space(second).is_empty());
}
