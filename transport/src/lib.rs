//! The Unix socket that callers connect to, and who they are.
//!
//! - [`Listener`]: binds or inherits the socket, and accepts connections;
//! - [`BindError`]: why that fails; a socket that another process still serves is left alone;
//! - [`Peer`]: the caller's credentials, process and group, taken at accept; attestors read it;
//! - [`Connection`]: an accepted connection;
//! - [`Complaints`], [`Words`]: limit what callers can cause in the log.

mod bind;
mod complaints;
mod connection;
mod group;
mod listener;
mod peer;

pub use bind::{BindError, Leftover, Present, inspect};
pub use complaints::{Complaints, WORDS, Words, left_out};
pub use connection::{Connection, SILENCE};
pub use listener::{Listener, Options};
pub use peer::{Peer, Process};
