//! Sockets that do not answer as an agent would, and the texts of errors.

use nix::sys::socket::{Backlog, listen};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::time::Instant;

use super::*;

/// A socket that accepts no connection from its backlog.
pub(in crate::cli) fn mute() -> (TempDir, PathBuf, UnixListener) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let listener = UnixListener::bind(&path).unwrap();
    (folder, path, listener)
}

/// A server that sends its HTTP/2 settings and nothing else.
pub(in crate::cli) fn speaks_once() -> (TempDir, PathBuf) {
    let (folder, path, listener) = mute();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        while stream.read(&mut [0; 1024]).await.unwrap() > 0 {}
    });
    (folder, path)
}

#[tokio::test(start_paused = true)]
async fn a_mute_socket_is_given_up() {
    let (_folder, path, _listener) = mute();
    let start = Instant::now();
    let late = connect(&path).await.unwrap_err();
    assert_eq!(start.elapsed().as_secs(), CONNECT_LIMIT.as_secs());
    assert_eq!(late.code(), Code::Unavailable);
    let (_folder, path, listener) = mute();
    let accepted = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        while stream.read(&mut [0; 1024]).await.unwrap() > 0 {}
    });
    assert!(matches!(connect(&path).await, Err(RpcError::Mute)));
    assert_eq!(start.elapsed().as_secs(), 2 * CONNECT_LIMIT.as_secs());
    accepted.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_backlog_is_an_error_at_once() {
    let (_folder, path, listener) = mute();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let _waits = UnixStream::connect(&path).await.unwrap();
    let start = Instant::now();
    let full = connect(&path).await.unwrap_err();
    assert!(full.to_string().contains("connect: resource temporarily unavailable"), "{full}");
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn who_has_spoken_is_connected_to() {
    let (_folder, path) = speaks_once();
    let start = Instant::now();
    connect(&path).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_call_includes_connecting() {
    let (_folder, path, _listener) = mute();
    let limit = Duration::from_secs(5);
    let start = Instant::now();
    let late = within(Some(limit), async { x509_svids(connect(&path).await?).await }).await;
    assert!(matches!(late, Err(RpcError::Deadline)));
    assert_eq!(start.elapsed().as_secs(), 5);
    let (_folder, path) = speaks_once();
    let late = within(Some(limit), async { x509_svids(connect(&path).await?).await }).await;
    assert!(matches!(late, Err(RpcError::Deadline)));
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[test]
fn errors_read_as_those_of_grpc_go() {
    let refused = RpcError::from(Status::permission_denied("no identity issued"));
    assert_eq!(refused.to_string(), "rpc error: code = PermissionDenied desc = no identity issued");
    let late = RpcError::Deadline.to_string();
    assert_eq!(late, "rpc error: code = DeadlineExceeded desc = context deadline exceeded");
    let absent = RpcError::Dial { path: "/x".into(), source: io::Error::from_raw_os_error(2) };
    assert_eq!(
        absent.to_string(),
        "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: \
         dial unix /x: connect: no such file or directory\""
    );
    assert_eq!(RpcError::Canceled.to_string(), "rpc error: code = Canceled desc = context canceled");
    assert_eq!(RpcError::End.to_string(), "EOF");
}
