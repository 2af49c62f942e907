//! The client: connections to a server or proxy, and operations that work with servers of any level.
//!
//! A [`Connection`] carries one request at a time. An [`Operation`] chooses the requests of a PUT or
//! TAKE, which old servers do not have.

mod connection;
mod operation;

pub use connection::{Connection, MEMORY, RequestError};
pub use operation::{Next, Operation, Outcome};
