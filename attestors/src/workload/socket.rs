//! Connects to a daemon's Unix socket without trust in its path: the path may lead through a file system of a user's own,
//! which answers when it likes.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream as StdStream;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_to, socket};
use tokio::net::UnixStream;

/// Opens a connection, on another thread, where `check` may judge it. A daemon whose queue is full is an error.
///
/// The thread is kept until the path has been followed, also when the caller has gone. `turn` is dropped after that, so
/// whoever gives it out bounds the number of threads that are stuck.
pub(super) async fn connect<T: Send + 'static>(
    address: UnixAddr,
    turn: T,
    check: impl FnOnce(&StdStream) -> io::Result<()> + Send + 'static,
) -> io::Result<(UnixStream, T)> {
    let connecting = tokio::task::spawn_blocking(move || {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let stream = StdStream::from(socket(AddressFamily::Unix, SockType::Stream, flags, None)?);
        connect_to(stream.as_raw_fd(), &address)?;
        check(&stream)?;
        Ok::<_, io::Error>((stream, turn))
    });
    let (stream, turn) = connecting.await.map_err(io::Error::other)??;
    Ok((UnixStream::from_std(stream)?, turn))
}
