//! Room and time of clients, without a machine around them.

use super::*;
use core::time::Duration;
use std::vec;

#[test]
fn space_asked_for_twice_is_the_same_space() {
    let pool = Pool::new(vec![0; 2 * MESSAGE_MAX], MESSAGE_MAX);
    let mut clients = Clients::new([const { Slot::EMPTY }; 2], pool, 2, Limits::NONE).unwrap();
    let key = clients.open(Instant::ORIGIN).unwrap();
    assert_eq!(clients.space(key).len(), MESSAGE_MAX);
    assert_eq!(clients.space(key).len(), MESSAGE_MAX);
    clients.filled(key, 1);
    assert_eq!(clients.first(), Some(key));
    clients.closed(key);
    assert_eq!(clients.pool.free(), 2);
}

#[test]
fn a_client_that_waits_for_a_buffer_is_not_idle() {
    let pool = Pool::new(vec![0; 2 * MESSAGE_MAX], MESSAGE_MAX);
    let limits = Limits { idle: Some(Duration::from_millis(10)), patience: None };
    let mut clients = Clients::new([const { Slot::EMPTY }; 2], pool, 2, limits).unwrap();
    let at = Instant::from_millis;
    let (first, second) = (clients.open(at(0)).unwrap(), clients.open(at(0)).unwrap());
    clients.space(first);
    clients.filled(first, 1);
    assert!(clients.space(second).is_empty(), "the last buffer is for answers");
    // Nor is a client whose bytes `advance` has not looked at yet.
    for waits in [first, second] {
        assert_eq!(clients.expire_next(at(12), false), Some(waits));
        assert!(!clients.wants(waits).close);
    }
    assert_eq!((clients.expire_next(at(12), false), clients.counters.idle), (None, 0));
    assert_eq!(clients.deadline(), Some(at(22)));
}
