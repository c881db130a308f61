//! The server's side of HTTP/2 (RFC 9113), for gRPC over a Unix socket.

pub mod hpack;
