//! stunnel's sessiond: each datagram is an exchange of a few requests.

use std::cell::Cell;
use std::rc::Rc;

use tokio::io::Interest;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::answers::Owned;
use crate::client::UNAVAILABLE;
use crate::command::{Asked, Asker, Request};
use crate::parts::{
    Direction, Envelope, Exchange, HEADER_LEN, Heard, LEVEL, Listener, MESSAGE_MAX, Message,
    PACKET_MAX, REQUEST_MAX, Sender, raise_ttl, wire,
};
use crate::watch::watch;
use crate::worker::Worker;

/// The most datagrams of one listener that are being answered at a time.
const OPEN_MAX: usize = 256;

/// Answers datagrams for as long as the listener works.
pub(crate) async fn serve(worker: Rc<Worker>, listener: Rc<Listener>) -> std::io::Result<()> {
    let Some(fd) = listener.fd() else { return Ok(()) };
    let fd = watch(fd, Interest::READABLE)?;
    let open = Rc::new(Cell::new(0));
    // One byte more than the longest, to know longer ones.
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
        if open.get() >= OPEN_MAX || worker.shared.load.is_full() {
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

/// Makes the requests of an exchange until there is nothing more to ask.
async fn run(worker: &Rc<Worker>, exchange: &mut Exchange) {
    let deadline = Instant::now() + worker.config.deadline;
    let mut request = [0; REQUEST_MAX];
    let mut said = vec![0; MESSAGE_MAX];
    loop {
        let Some(len) = exchange.request(&mut request) else { return };
        let Ok(Some(message)) = Message::measure(&request[..len], Direction::Request) else {
            return;
        };
        let answer = ask(worker, &message, &mut request[..len], deadline).await;
        let envelope = Envelope::answer(&message.header, LEVEL);
        let answer = answer.lend();
        let payload = answer.payload();
        said[HEADER_LEN..][..payload.len()].copy_from_slice(payload);
        let Some(len) = wire::frame(&mut said, &envelope, payload.len()) else { return };
        if exchange.receive(&said[..len]) != Heard::Ask {
            return;
        }
    }
}

async fn ask(worker: &Rc<Worker>, message: &Message, wire: &mut [u8], deadline: Instant) -> Owned {
    if message.header.op.stores() {
        raise_ttl(&mut wire[HEADER_LEN..], worker.config.min_ttl);
    }
    worker.shared.counters.requests.count();
    let request = match Request::read(message, wire, deadline, &worker.shared) {
        Asked::Engine(request) => request,
        Asked::Nobody(reply) => return reply.into(),
        Asked::Malformed => return UNAVAILABLE.into(),
    };
    let (sender, answer) = oneshot::channel();
    // Without room the request is dropped, and that answers it.
    drop(worker.engine.submit(request.asked_by(Asker::Once(sender))));
    answer.await.unwrap_or(UNAVAILABLE.into())
}
