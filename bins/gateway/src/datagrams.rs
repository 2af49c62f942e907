//! stunnel's sessiond: each datagram becomes an exchange of a few requests.

use std::cell::Cell;
use std::rc::Rc;

use tokio::io::Interest;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::answers::OwnedReply;
use crate::client::UNAVAILABLE;
use crate::command::{Parsed, ReplyTo, Request};
use crate::watch::watch;
use crate::worker::Worker;
use distcache_core::message::raise_ttl;
use distcache_core::sessiond::{Exchange, PACKET_MAX, REQUEST_MAX, Received};
use distcache_core::wire::{self, Direction, Envelope, HEADER_LEN, LEVEL, MESSAGE_MAX, Message};
use distcache_posix::net::listener::{Listener, Sender};

/// The most exchanges of one listener at a time.
const OPEN_MAX: usize = 256;

/// Answers datagrams until the worker drains or the listener fails.
pub(crate) async fn serve(worker: Rc<Worker>, listener: Rc<Listener>) -> std::io::Result<()> {
    let Some(fd) = listener.fd() else { return Ok(()) };
    let fd = watch(fd, Interest::READABLE)?;
    let open = Rc::new(Cell::new(0));
    // One byte more than the longest packet, to recognize longer ones.
    let mut buffer = [0; PACKET_MAX + 1];
    while !worker.draining.get() {
        let mut ready = fd.readable().await?;
        let Ok(Some((len, from))) = listener.receive(&mut buffer) else {
            ready.clear_ready();
            continue;
        };
        let counters = &worker.shared.counters;
        let Some(exchange) = buffer.get(..len).and_then(Exchange::new) else {
            counters.dropped.count();
            continue;
        };
        counters.datagrams.count();
        if open.get() >= OPEN_MAX || worker.shared.in_flight.is_full() {
            counters.dropped.count();
            reply(&worker, &listener, &exchange, from);
            continue;
        }
        open.set(open.get() + 1);
        let (worker, listener, open) = (worker.clone(), listener.clone(), open.clone());
        tokio::task::spawn_local(async move {
            let mut exchange = exchange;
            run(&worker, &mut exchange).await;
            reply(&worker, &listener, &exchange, from);
            open.set(open.get() - 1);
        });
    }
    Ok(())
}

fn reply(worker: &Worker, listener: &Listener, exchange: &Exchange, to: Sender) {
    if let Some(datagram) = exchange.reply()
        && !listener.send(datagram, to)
    {
        worker.shared.counters.unsent.count();
    }
}

/// Makes the requests of an exchange, one after the other.
async fn run(worker: &Rc<Worker>, exchange: &mut Exchange) {
    let deadline = Instant::now() + worker.config.deadline;
    let mut request = [0; REQUEST_MAX];
    let mut out = Vec::new();
    loop {
        let Some(len) = exchange.request(&mut request) else { return };
        let Ok(Some(message)) = Message::measure(&request[..len], Direction::Request) else {
            return;
        };
        let answer = ask(worker, &message, &mut request[..len], deadline).await;
        let envelope = Envelope::answer(&message.header, LEVEL);
        out.clear();
        out.resize(HEADER_LEN, 0);
        answer.as_reply().write(&mut out);
        let payload_len = out.len() - HEADER_LEN;
        out.resize(MESSAGE_MAX, 0);
        let Some(len) = wire::frame(&mut out, &envelope, payload_len) else { return };
        if exchange.receive(&out[..len]) != Received::Ask {
            return;
        }
    }
}

async fn ask(
    worker: &Rc<Worker>,
    message: &Message,
    wire: &mut [u8],
    deadline: Instant,
) -> OwnedReply {
    if message.header.op.stores() {
        raise_ttl(&mut wire[HEADER_LEN..], worker.config.min_ttl);
    }
    worker.shared.counters.requests.count();
    let request = match Request::parse(message, wire, deadline, &worker.shared) {
        Parsed::Command(request) => request,
        Parsed::Reply(reply) => return reply.into(),
        Parsed::Malformed => return UNAVAILABLE.into(),
    };
    let (sender, answer) = oneshot::channel();
    // Without room the request is dropped, which answers it.
    drop(worker.engine.submit(request.with_reply_to(ReplyTo::Channel(sender))));
    answer.await.unwrap_or(UNAVAILABLE.into())
}
