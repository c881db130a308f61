//! The Unix socket door: who knocks.
//!
//! - [`Listener`]: binds (or inherits) the socket and accepts;
//! - [`BindError`]: what stands in the way of that; a socket that somebody still serves is left alone;
//! - [`Peer`]: the caller's credentials and process, taken at accept; attestors read it;
//! - [`Connection`]: the accepted stream.

mod bind;
mod connection;
mod listener;
mod peer;

pub use bind::{BindError, Leftover};
pub use connection::Connection;
pub use listener::{Limits, Listener};
pub use peer::{Peer, Process, StreamPermit};
