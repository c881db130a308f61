//! The server's side of HTTP/2 (RFC 9113), for gRPC over a Unix socket.
//!
//! Made for a node's agent: thousands of connections, nearly all of them idle, each with a stream or two, whose messages
//! are mostly passed over. So a connection has no buffer of its own: it reads into one that the thread's connections
//! share, hands on slices of it, and writes from where the response lies. It has no task per stream either: the streams'
//! calls and bodies are polled by their connection, each when it was woken.
//!
//! - [`Connection`]: a future that serves one accepted stream; [`serve`] makes it;
//! - [`RequestBody`]: what a client sends, as an [`http_body::Body`]; what is answered is any such body;
//! - [`budget::Account`]: all that a connection keeps for its client is charged there, and all that it does is counted
//!   there; it works only when it is its group's turn;
//! - `frame`: frames as bytes; `head`: requests and responses as header blocks; [`hpack`]: header compression;
//! - `machine`: what a client's frames do to the connection, without I/O; `stream`: one call; `window`: flow control;
//! - `temper`: how much of what only makes work is put up with; `costs`: what things cost;
//! - `out`: what waits to be written; `wake`: which streams are to be polled; `scratch`: the thread's buffers.
//!
//! Not here: clients, server push, priorities (read and passed over), upgrades from HTTP/1.1, CONNECT.
//! `:authority` may be anything: gRPC C-core sends the percent-encoded path of the socket, grpc-java a raw one.

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

/// What a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Streams at once on one connection.
    pub streams: u32,
    /// Bytes that a stream, and a connection, may send ahead of being read; 65,535 at least, with which every client begins.
    pub window: u32,
    /// Bytes of a request's headers, counted as RFC 9113 §6.5.2 says: 32 for each beside its text.
    pub headers: u32,
    /// Names, in lower case, of the request headers that calls read. The others are checked and dropped.
    pub fields: &'static [&'static str],
}

/// Why a connection ended other than by the client's closing it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client broke a rule that concerns the whole connection; it was told so.
    #[error("{what} ({reason:?})")]
    Protocol {
        /// The code in our GOAWAY.
        reason: Reason,
        /// The rule.
        what: &'static str,
    },
    /// The socket.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
