//! The server side of HTTP/2 (RFC 9113), for gRPC over a Unix socket.
//!
//! A node agent serves thousands of connections. Nearly all of them are idle, each has one or two streams, and most
//! messages on them are read past. So a connection has no buffer of its own: it reads into a buffer that all
//! connections of a thread share, passes slices of it on, and writes responses from where they lie in memory. A
//! stream has no task of its own either: its connection polls the stream's call and body, each when it was woken.
//!
//! - [`Connection`]: a future that serves one accepted connection; [`serve`] makes it;
//! - [`RequestBody`]: what a client sends, as an [`http_body::Body`]; a response may have any such body;
//! - [`budget::Account`]: pays for everything that a connection keeps in memory for its client and counts the work
//!   that it does; the connection works only when it is the turn of the account's group;
//! - `frame`: frames as bytes; `head`: requests and responses as header blocks; [`hpack`]: header compression;
//! - `machine`: what a client's frames do to the connection, without I/O; `stream`: one call; `inbox`: its request
//!   body; `window`: flow control;
//! - `temper`: limits for traffic that only makes work; `costs`: what each operation costs;
//! - `out`: the output buffer; `wake`: which streams must be polled; `scratch`: the thread's shared buffers.
//!
//! Not implemented: clients, server push, priorities (read and ignored), upgrades from HTTP/1.1, CONNECT.
//! `:authority` may have any value: gRPC C-core sends the percent-encoded path of the socket, grpc-java a raw one.

mod connection;
mod costs;
mod frame;
mod head;
pub mod hpack;
mod inbox;
mod machine;
mod out;
mod scratch;
mod stream;
mod temper;
#[cfg(test)]
mod tests;
mod wake;
mod window;

pub use connection::{Connection, serve};
pub use frame::Reason;
pub use head::OddPath;
pub use inbox::RequestBody;

/// What one client connection may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Streams that a connection may have open at once.
    pub streams: u32,
    /// Bytes that a client may send before they are read, for each stream and for the connection. Values below
    /// 65,535, the window that every connection begins with, count as 65,535.
    pub window: u32,
    /// Bytes of a request's headers, counted as RFC 9113 §6.5.2 does: 32 bytes for each field beside its text.
    pub headers: u32,
    /// Names, in lower case, of the request headers that calls read. Other headers are checked and dropped.
    pub fields: &'static [&'static str],
}

/// Why a connection ended, unless the client closed it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client broke a rule that concerns the whole connection. A GOAWAY told it so.
    #[error("{what} ({reason:?})")]
    Protocol {
        /// The code in our GOAWAY.
        reason: Reason,
        /// The broken rule, in words.
        what: &'static str,
    },
    /// Reading from or writing to the socket failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
