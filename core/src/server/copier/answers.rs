//! What an answer of the other server means, and which sessions are added.

use super::{Asked, COPIES, Copier, CopyFailure, EMPTY_MAX, PACE, PACE_TIME, TIME_MAX};
use crate::copy::Piece;
use crate::id::Id;
use crate::message::{Fetched, Status};
use crate::proxy::{hash, rank};
use crate::server::Store;
use crate::table::Layout;
use crate::time::Instant;
use crate::wire::{Message, Op};

impl Copier {
    /// Takes an answer.
    pub(super) fn receive(
        &mut self,
        message: &Message,
        wire: &mut [u8],
        now: Instant,
        store: &mut impl Store,
        max_ttl: u32,
    ) -> Result<(), CopyFailure> {
        let header = &message.header;
        if Some(header.op) != self.asked.op() || header.uid != self.uid {
            return Err(CopyFailure::Malformed);
        }
        let payload: &[u8] = message.payload(wire);
        match self.asked {
            Asked::Level if header.patch < Op::Copy.level() => Err(CopyFailure::OldLevel),
            Asked::Level | Asked::Nothing(_) => Ok(()),
            Asked::Piece if *payload == [Status::UNSUPPORTED.0] => Err(CopyFailure::Refused),
            Asked::Piece => {
                let piece = Piece::parse(payload).map_err(|_| CopyFailure::Malformed)?;
                self.take_piece(&piece, now, store, max_ttl)
            }
            Asked::Session => {
                let id = core::mem::take(&mut self.wanted);
                match (Id::new(&id), Fetched::parse(payload)) {
                    (Some(id), Ok(Fetched::Session { ttl, session })) => {
                        self.add(now, store, ttl.min(max_ttl), id, session)?;
                    }
                    // It is gone.
                    (_, Ok(Fetched::Missing(_))) => {}
                    _ => return Err(CopyFailure::Malformed),
                }
                Ok(())
            }
        }
    }

    fn take_piece(
        &mut self,
        piece: &Piece<'_>,
        now: Instant,
        store: &mut impl Store,
        max_ttl: u32,
    ) -> Result<(), CopyFailure> {
        let before = self.seen;
        for record in piece.records() {
            self.seen = self.seen.saturating_add(1);
            match record.session {
                _ if !self.is_ours(record.id) => {}
                Some(session) => {
                    self.add(now, store, record.ttl.min(max_ttl), record.id, session)?;
                }
                None => {
                    self.wanted = heapless::Vec::from_slice(record.id.bytes()).unwrap_or_default();
                }
            }
        }
        self.empty = self.empty.saturating_add((self.seen == before).into());
        let endless = self.seen > Layout::SESSIONS_MAX || self.empty > EMPTY_MAX;
        if endless || piece.next <= self.cursor {
            return Err(CopyFailure::Malformed);
        }
        self.cursor = piece.next;
        Ok(())
    }

    /// Whether proxies with two copies keep this session here, and at the server that it comes from. A
    /// third server may have stood in for one of the two, and then no removal visits its copy.
    fn is_ours(&self, id: Id<'_>) -> bool {
        let Some(own) = self.own else {
            return true;
        };
        let id = hash(id.bytes());
        let names = || self.sources.iter().copied().chain([own]);
        let keeps =
            |name| names().filter(|other| rank(*other, id) > rank(name, id)).count() < COPIES;
        keeps(own) && self.sources.get(usize::from(self.number)).is_some_and(|name| keeps(*name))
    }

    fn add(
        &mut self,
        now: Instant,
        store: &mut impl Store,
        ttl: u32,
        id: Id<'_>,
        session: &[u8],
    ) -> Result<(), CopyFailure> {
        match store.repair_if_room(now, self.stamp, ttl, id, session) {
            Ok(()) => self.copied.sessions = self.copied.sessions.saturating_add(1),
            Err(Status::REMOVED) => self.copied.removed = self.copied.removed.saturating_add(1),
            Err(Status::NOT_OK) => return Err(CopyFailure::Full),
            // It is here already, or too large for this store.
            Err(_) => {}
        }
        Ok(())
    }

    /// Counts an answer, and whether there are enough of them.
    pub(super) fn keep_pace(&mut self, now: Instant) -> Result<(), CopyFailure> {
        self.answers = self.answers.saturating_add(1);
        if now.since(self.began) > TIME_MAX {
            return Err(CopyFailure::Slow);
        }
        if now.since(self.pace_since) >= PACE_TIME {
            if self.answers < PACE {
                return Err(CopyFailure::Slow);
            }
            (self.pace_since, self.answers) = (now, 0);
        }
        Ok(())
    }
}
