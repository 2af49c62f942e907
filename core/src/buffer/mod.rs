//! Buffers: equal ones lent from a pool, and the window of bytes that each holds.

mod pool;
mod window;

pub use pool::{Fifo, Pool};
pub(crate) use window::Window;
