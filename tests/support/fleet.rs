//! Several proxies in front of several servers, all real, over virtual connections that can be held.

use crate::net::{self, End, Net, Pieces, Probes};
use distcache_core::proxy;
use distcache_core::server::{self, Store};

/// Proxies, their clients, and the servers that all of them have.
#[derive(Debug)]
pub struct Fleet<'m, S> {
    /// The proxies.
    pub fronts: Vec<Net<proxy::Borrowed<'m>>>,
    /// The servers, whose clients are the proxies. `None` for one that is down.
    pub backs: Vec<Option<Net<server::Borrowed<'m, S>>>>,
    /// By proxy, then by server: the server's end, and how often the proxy had connected.
    links: Vec<Vec<Option<(End, usize)>>>,
    /// Connections whose requests stay on their way, by proxy and server.
    pub held: Vec<(usize, usize)>,
    /// Every request that was carried: proxy, server, operation.
    pub carried: Vec<(usize, usize, u8)>,
}

impl<'m, S: Store> Fleet<'m, S> {
    /// Creates all of them. The proxies are about to connect.
    pub fn new(
        proxies: impl IntoIterator<Item = proxy::Borrowed<'m>>,
        servers: impl IntoIterator<Item = server::Borrowed<'m, S>>,
    ) -> Self {
        let front = |proxy| {
            let mut front = Net::new(proxy, Pieces::Whole);
            front.probes = Probes::Seen;
            front
        };
        let fronts: Vec<_> = proxies.into_iter().map(front).collect();
        let backs: Vec<_> =
            servers.into_iter().map(|server| Some(Net::new(server, Pieces::Whole))).collect();
        let links = fronts.iter().map(|_| vec![None; backs.len()]).collect();
        Self { fronts, backs, links, held: Vec::new(), carried: Vec::new() }
    }

    /// Runs all until nothing moves any more.
    pub fn drive(&mut self) {
        loop {
            self.fronts.iter_mut().for_each(Net::drive);
            self.backs.iter_mut().flatten().for_each(Net::drive);
            let mut moved = false;
            for front in 0..self.fronts.len() {
                for back in 0..self.backs.len() {
                    moved |= self.carry(front, back);
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Lets time pass for all, one millisecond at a time.
    pub fn pass(&mut self, millis: u64) {
        for _ in 0..millis {
            self.fronts.iter_mut().for_each(|front| front.pass(1));
            self.backs.iter_mut().flatten().for_each(|back| back.pass(1));
            self.drive();
        }
    }

    /// Replaces a server: all its connections break. Without a new one it is down.
    pub fn replace(&mut self, number: usize, server: Option<server::Borrowed<'m, S>>) {
        let now = self.fronts[0].now;
        self.backs[number] = server.map(|server| {
            let mut back = Net::new(server, Pieces::Whole);
            back.now = now;
            back
        });
        let reach = if self.backs[number].is_some() { None } else { Some(net::Reach::Refuses) };
        for front in 0..self.fronts.len() {
            self.links[front][number] = None;
            self.fronts[front].reach_of[number] = reach;
            self.fronts[front].cut(net::server(number as u8));
        }
        self.drive();
    }

    fn carry(&mut self, number: usize, to: usize) -> bool {
        let (front, end) = (&mut self.fronts[number], net::server(to as u8));
        let Some(back) = &mut self.backs[to] else { return false };
        let connects = front.connects[to];
        let link = self.links[number][to];
        let Some((link, _)) = link.filter(|(end, made)| back.is_open(*end) && *made == connects)
        else {
            if let Some((old, _)) = self.links[number][to].take() {
                back.cut(old);
            }
            if !front.is_open(end) {
                return false;
            }
            self.links[number][to] = back.try_connect().map(|end| (end, connects));
            if self.links[number][to].is_none() {
                front.cut(end);
            }
            return true;
        };
        if !front.is_open(end) {
            // What is on its way still arrives.
            let requests = front.take(end);
            back.send(link, &requests);
            back.hang_up(link);
            self.links[number][to] = None;
            return true;
        }
        let answers = back.take(link);
        front.send(end, &answers);
        if self.held.contains(&(number, to)) {
            return !answers.is_empty();
        }
        let requests = front.take(end);
        let whole = crate::bytes::whole_messages(&requests).0;
        self.carried.extend(whole.into_iter().map(|(_, op, _)| (number, to, op)));
        back.send(link, &requests);
        !requests.is_empty() || !answers.is_empty()
    }
}
