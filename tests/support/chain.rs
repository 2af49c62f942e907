//! A proxy with a server behind it, both real, in one world.

use crate::net::{End, Net, Pieces, Probes, SERVER};
use distcache_core::proxy;
use distcache_core::server::{self, Store};

/// A proxy, its clients, and its server.
#[derive(Debug)]
pub struct Chain<'m, S> {
    /// The proxy and its clients.
    pub front: Net<proxy::Borrowed<'m>>,
    /// The server, whose client is the proxy.
    pub back: Net<server::Borrowed<'m, S>>,
    /// The server's end, and how many times the proxy had dialed by then.
    link: Option<(End, usize)>,
}

impl<'m, S: Store> Chain<'m, S> {
    /// A proxy that is about to connect to a server.
    pub fn new(
        proxy: proxy::Borrowed<'m>,
        server: server::Borrowed<'m, S>,
        pieces: Pieces,
    ) -> Self {
        let mut front = Net::new(proxy, pieces.clone());
        front.probes = Probes::Seen;
        let back = Net::new(server, pieces);
        Self { front, back, link: None }
    }

    /// Turns both until nothing moves any more.
    pub fn drive(&mut self) {
        loop {
            self.front.drive();
            self.back.drive();
            if !self.carry() {
                return;
            }
        }
    }

    /// Lets time pass for both, a millisecond at a time.
    pub fn pass(&mut self, millis: u64) {
        for _ in 0..millis {
            self.front.pass(1);
            self.back.pass(1);
            self.drive();
        }
    }

    /// Moves what is between the two; false where nothing is.
    fn carry(&mut self) -> bool {
        let dials = self.front.dials.len();
        let alive = |end: End| self.front.is_open(SERVER) && self.back.is_open(end);
        let Some((link, _)) = self.link.filter(|(end, made)| alive(*end) && *made == dials) else {
            return self.relink(dials);
        };
        let (requests, answers) = (self.front.take(SERVER), self.back.take(link));
        self.back.send(link, &requests);
        self.front.send(SERVER, &answers);
        !requests.is_empty() || !answers.is_empty()
    }

    /// Lets both know that their connection is gone, or has come.
    fn relink(&mut self, dials: usize) -> bool {
        let up = self.front.is_open(SERVER);
        match self.link.take() {
            Some((end, made)) => {
                self.back.cut(end);
                if up && made == dials {
                    self.front.cut(SERVER);
                }
                true
            }
            None if up => {
                self.link = self.back.try_connect().map(|end| (end, dials));
                if self.link.is_none() {
                    self.front.cut(SERVER);
                }
                true
            }
            None => false,
        }
    }

    /// Breaks the connection between the two.
    pub fn break_link(&mut self) {
        self.front.cut(SERVER);
    }
}
