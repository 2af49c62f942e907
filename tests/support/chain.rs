//! A proxy in front of a server, both real, over virtual connections.

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
    /// The server's end, and how often the proxy had dialed when it was made.
    link: Option<(End, usize)>,
}

impl<'m, S: Store> Chain<'m, S> {
    /// Creates both. The proxy is about to connect to the server.
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

    /// Runs both until nothing moves any more.
    pub fn drive(&mut self) {
        loop {
            self.front.drive();
            self.back.drive();
            if !self.carry() {
                return;
            }
        }
    }

    /// Lets time pass for both, one millisecond at a time.
    pub fn pass(&mut self, millis: u64) {
        for _ in 0..millis {
            self.front.pass(1);
            self.back.pass(1);
            self.drive();
        }
    }

    /// Moves bytes between the two. Returns whether anything moved.
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

    /// Reports to both that their connection is gone, or makes a new one.
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
