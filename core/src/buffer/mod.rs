//! Buffers: a pool of equal ones, and the queues of bytes that take them.

mod fifo;
mod pool;
#[cfg(test)]
mod tests;
mod window;

pub use fifo::Fifo;
pub use pool::Pool;
pub(crate) use window::Window;
