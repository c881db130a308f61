//! What outlives a process: listening sockets and sealed memory, held by whoever started it.
//!
//! The holder is systemd or `finial keep`. Both speak the same protocol (sd_listen_fds(3), sd_notify(3)):
//!
//! * [`Inherited`]: descriptors that come with the start, `LISTEN_FDS` of them, named by `LISTEN_FDNAMES`.
//! * [`Holder`]: messages to the holder, which may carry descriptors (`FDSTORE=1`). They come back with the next start.
//! * [`memory`]: a file in memory that has a digest, cannot grow, and is never on a disk.
//!
//! systemd has a socket by path (`NOTIFY_SOCKET`). `finial keep` passes a connected socket as one more descriptor, named
//! [`CHANNEL`], so that it needs no file, nobody else can write to it, and its end is noticed.

mod channel;
mod inherited;
pub mod memory;
mod message;

pub use self::channel::{Channel, Holder, Received, pair};
pub use self::inherited::{Inherited, Named};
pub use self::message::Message;

/// The name of the descriptor that is connected to `finial keep`.
pub const CHANNEL: &str = "finial-keep";
