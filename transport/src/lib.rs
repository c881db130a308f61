//! The Unix socket door: who knocks, and bytes that an HTTP/2 server can digest.
//!
//! - [`Listener`]: binds (or inherits) the socket and accepts; a socket file that somebody still serves is left alone;
//! - [`Peer`]: the caller's credentials and process, taken at accept; attestors read it;
//! - [`Connection`]: the accepted stream; mends the `:authority` of gRPC C-core clients on the way in ([`repair`]).

mod connection;
mod listener;
mod peer;
pub mod repair;

pub use connection::Connection;
pub use listener::{BindError, Limits, Listener};
pub use peer::{Peer, Process, StreamPermit};
