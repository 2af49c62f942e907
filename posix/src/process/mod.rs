//! The process: starting, detaching, pid file, dropping privileges, signals, limits and logging.

pub mod accounts;
mod activation;
mod detach;
pub mod limits;
pub(crate) mod log;
mod pid_file;
pub mod sandbox;
pub mod signals;
pub mod start;
mod user;

pub use activation::ActivationError;
pub(crate) use activation::take as take_activation;
pub use detach::{DetachError, Detached, detach};
pub use pid_file::{PidFile, PidFileError};
pub(crate) use user::can_remove;
pub use user::{UserError, change_user};
