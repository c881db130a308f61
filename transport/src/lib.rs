//! The Unix socket door: who knocks.
//!
//! - [`Listener`]: binds (or inherits) the socket and accepts;
//! - [`BindError`]: what stands in the way of that; a socket that somebody still serves is left alone;
//! - [`Peer`]: the caller's credentials, process and group, taken at accept; attestors read it;
//! - [`Connection`]: the accepted stream.

mod bind;
mod connection;
mod group;
mod listener;
mod peer;
mod refusals;

pub use bind::{BindError, Leftover};
pub use connection::{Connection, SILENCE};
pub use listener::{Listener, Options};
pub use peer::{Peer, Process};
