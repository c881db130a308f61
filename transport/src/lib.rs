//! The Unix socket door: who knocks.
//!
//! - [`Listener`]: binds (or inherits) the socket and accepts; a socket file that somebody still serves is left alone;
//! - [`Peer`]: the caller's credentials and process, taken at accept; attestors read it;
//! - [`Connection`]: the accepted stream.

mod connection;
mod listener;
mod peer;

pub use connection::Connection;
pub use listener::{BindError, Limits, Listener};
pub use peer::{Peer, Process, StreamPermit};
