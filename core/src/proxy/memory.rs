//! The memory that a proxy works in.

use core::ops::{Deref, DerefMut};

use super::{InFlight, Proxy, Upstream};
use crate::clients::ClientSlot;
use crate::memory::Array;
use crate::slots::Slot;
use crate::wire::MESSAGE_MAX;

/// Memory for one request in flight.
pub type InFlightSlot = Slot<InFlight>;

/// The containers that a [`Proxy`] keeps its state in, borrowed or owned: see [`Array`]. A tuple of
/// the four is one, in this order.
pub trait Memory {
    /// Clients.
    type Clients: Array<ClientSlot>;
    /// Requests in flight.
    type InFlight: Array<InFlightSlot>;
    /// Servers.
    type Servers: Array<Upstream>;
    /// The bytes of all buffers.
    type Buffers: Array<u8>;
}

impl<C, F, U, B> Memory for (C, F, U, B)
where
    C: Array<ClientSlot>,
    F: Array<InFlightSlot>,
    U: Array<Upstream>,
    B: Array<u8>,
{
    type Clients = C;
    type InFlight = F;
    type Servers = U;
    type Buffers = B;
}

/// A proxy in borrowed memory.
pub type Borrowed<'m> =
    Proxy<(&'m mut [ClientSlot], &'m mut [InFlightSlot], &'m mut [Upstream], &'m mut [u8])>;

/// A proxy in memory of its own, of a size that is known when it is compiled.
pub type Fixed<
    const CLIENTS: usize,
    const IN_FLIGHT: usize,
    const SERVERS: usize,
    const BYTES: usize,
> = Proxy<([ClientSlot; CLIENTS], [InFlightSlot; IN_FLIGHT], [Upstream; SERVERS], [u8; BYTES])>;

/// The memory that a proxy takes: see [`Proxy::new`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sizes {
    /// The most clients at a time.
    pub clients: usize,
    /// The most requests in flight, of clients that have left too.
    pub in_flight: usize,
    /// The number of buffers: 2 for each server and 2 more at least.
    pub buffers: usize,
    /// The bytes of each buffer: [`MESSAGE_MAX`] at least.
    pub buffer_len: usize,
}

impl Sizes {
    /// Two buffers of [`MESSAGE_MAX`] bytes for each client and each server, so that no client waits
    /// for a buffer, and more requests in flight for each server than there are clients, so that a
    /// server that hangs takes nothing from the others.
    pub const fn new(clients: usize, servers: usize) -> Self {
        let buffers = clients.saturating_add(servers).saturating_mul(2);
        let in_flight = clients.saturating_mul(servers.saturating_add(1));
        Self { clients, in_flight, buffers, buffer_len: MESSAGE_MAX }
    }

    /// The bytes of all buffers.
    pub const fn bytes(&self) -> usize {
        self.buffers.saturating_mul(self.buffer_len)
    }

    /// An empty slot for each client.
    pub fn client_slots(&self) -> impl Iterator<Item = ClientSlot> + use<> {
        core::iter::repeat_with(ClientSlot::default).take(self.clients)
    }

    /// An empty slot for each request in flight.
    pub fn in_flight_slots(&self) -> impl Iterator<Item = InFlightSlot> + use<> {
        core::iter::repeat_with(InFlightSlot::default).take(self.in_flight)
    }
}

/// The servers, as a slice.
#[derive(Debug)]
pub(super) struct Servers<U>(pub(super) U);

impl<U: Array<Upstream>> Deref for Servers<U> {
    type Target = [Upstream];

    #[inline]
    fn deref(&self) -> &[Upstream] {
        self.0.as_ref()
    }
}

impl<U: Array<Upstream>> DerefMut for Servers<U> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Upstream] {
        self.0.as_mut()
    }
}
