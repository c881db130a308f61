//! The socket file, and what one caller may take.

use crate::caller;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use caller::Caller;
use futures_util::FutureExt as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::{BindError, Connection, Limits, Listener};

const LIMITS: Limits = Limits { connections_per_process: 3, streams_per_process: 2, connections: 5 };

struct Place {
    folder: TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("agent.sock");
    Place { folder, path }
}

impl Place {
    fn bind(&self) -> Result<Listener, BindError> {
        Listener::bind(&self.path, LIMITS)
    }
}

async fn is_closed(stream: UnixStream) -> bool {
    stream.set_nonblocking(true).expect("a nonblocking socket");
    let mut stream = tokio::net::UnixStream::from_std(stream).expect("a socket");
    matches!(stream.read(&mut [0]).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn makes_folder_and_socket_for_everybody() {
    let place = place();
    let path = place.folder.path().join("new/folder/agent.sock");
    let listener = Listener::bind(&path, LIMITS).expect("a listener");
    assert_eq!(listener.path(), path);
    let found = fs::metadata(&path).expect("the socket file");
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o7777, 0o777);
}

#[tokio::test]
async fn leaves_the_socket_file_behind() {
    let place = place();
    drop(place.bind().expect("a listener"));
    assert!(fs::metadata(&place.path).expect("the socket file").file_type().is_socket());
}

#[tokio::test]
async fn replaces_a_socket_file_that_nobody_serves() {
    let place = place();
    drop(UnixListener::bind(&place.path).expect("a socket file"));
    let listener = place.bind().expect("a listener");
    let _client = UnixStream::connect(&place.path).expect("a connection");
    listener.accept().await;
}

#[tokio::test]
async fn leaves_a_served_socket_alone() {
    let place = place();
    let served = UnixListener::bind(&place.path).expect("a socket");
    assert!(matches!(place.bind(), Err(BindError::InUse(path)) if path == place.path));
    let _client = UnixStream::connect(&place.path).expect("a connection");
    served.accept().expect("the connection");
}

#[tokio::test]
async fn refuses_a_path_that_is_too_long() {
    let place = place();
    let room = 107 - place.folder.path().as_os_str().len() - 1;
    let longest = place.folder.path().join("x".repeat(room));
    Listener::bind(&longest, LIMITS).expect("107 bytes are fine");
    let error = Listener::bind(&longest.with_extension("y"), LIMITS).expect_err("109 bytes are not");
    assert!(matches!(error, BindError::TooLong { .. }));
    assert!(error.to_string().contains("is 109 bytes long"), "{error}");
}

#[tokio::test]
async fn serves_what_the_supervisor_handed_over() {
    let (first, second) = (place(), place());
    let sockets = [&first, &second].map(|place| UnixListener::bind(&place.path).expect("a socket"));
    let inode = fs::metadata(&first.path).expect("the socket file").ino();
    let _clients = [&first, &second].map(|place| UnixStream::connect(&place.path).expect("a connection"));
    let mut child = caller::heir(sockets, [&second.path, &first.path]);
    let ended = tokio::task::spawn_blocking(move || child.wait()).await.expect("waited").expect("its end");
    assert!(ended.success(), "{ended}");
    assert_eq!(fs::metadata(&first.path).expect("the socket file").ino(), inode);
}

#[tokio::test]
async fn caps_the_connections_of_a_process() {
    let place = place();
    let listener = place.bind().expect("a listener");
    let mut accepted = Vec::new();
    for _ in 0..3 {
        let client = UnixStream::connect(&place.path).expect("a connection");
        accepted.push((listener.accept().await, client));
    }
    let fourth = UnixStream::connect(&place.path).expect("a connection");
    let other = Caller::connect(&place.path, 1);
    let connection = listener.accept().await;
    assert_eq!(connection.peer().process.pid, other.pid());
    assert!(is_closed(fourth).await);

    accepted.pop();
    let _fifth = UnixStream::connect(&place.path).expect("a connection");
    assert_eq!(listener.accept().await.peer().process.pid, own_pid());
}

#[tokio::test]
async fn more_connections_than_there_are_places_wait() {
    let place = place();
    let limits = Limits { connections_per_process: 9, connections: 2, ..LIMITS };
    let listener = Listener::bind(&place.path, limits).expect("a listener");
    let _clients: [_; 3] = std::array::from_fn(|_| UnixStream::connect(&place.path).expect("a connection"));
    let first = listener.accept().await;
    let _second = listener.accept().await;
    assert!(listener.accept().now_or_never().is_none());
    drop(first);
    listener.accept().await;
}

#[tokio::test]
async fn caps_the_streams_of_a_process() {
    let place = place();
    let listener = place.bind().expect("a listener");
    let (_clients, peers) = accept(&listener, &place, 2).await;
    let [first, second] = [&peers[0], &peers[1]].map(Connection::peer);
    assert!(Arc::ptr_eq(&first.process, &second.process));
    let held = [first.open_stream(), second.open_stream()];
    assert!(held.iter().all(Option::is_some));
    assert!(first.open_stream().is_none());
    drop(held);
    assert!(second.open_stream().is_some());
}

#[tokio::test]
async fn hanging_up_ends_reading_and_writing() {
    let place = place();
    let listener = place.bind().expect("a listener");
    let (_clients, accepted) = accept(&listener, &place, 2).await;
    let peers = [&accepted[0], &accepted[1]].map(Connection::peer);
    let [mut reads, mut writes] = <[Connection; 2]>::try_from(accepted).expect("two");
    let reading = tokio::spawn(async move { reads.read(&mut [0]).await });
    // More than the client's side takes unread.
    let writing = tokio::spawn(async move { writes.write_all(&vec![0; 10 << 20]).await });
    tokio::task::yield_now().await;
    peers.iter().for_each(|peer| peer.hang_up());
    assert!(reading.await.expect("no panic").is_err());
    assert!(writing.await.expect("no panic").is_err());
}

async fn accept(listener: &Listener, place: &Place, count: usize) -> (Vec<UnixStream>, Vec<Connection>) {
    let (mut clients, mut accepted) = (Vec::new(), Vec::new());
    for _ in 0..count {
        clients.push(UnixStream::connect(&place.path).expect("a connection"));
        accepted.push(listener.accept().await);
    }
    (clients, accepted)
}

#[tokio::test]
async fn knows_its_caller() {
    let place = place();
    let listener = place.bind().expect("a listener");
    let (_client, accepted) = accept(&listener, &place, 1).await;
    let peer = accepted[0].peer();
    assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
    assert_eq!(peer.gid, nix::unistd::getegid().as_raw());
    assert_eq!(peer.process.pid, own_pid());
    assert!(peer.process.is_alive());
    assert_eq!(format!("{peer:?}").matches("pid").count(), 1);
}

#[tokio::test]
async fn a_process_has_one_pidfd_however_many_connections_and_ends_with_it() {
    let place = place();
    let limits = Limits { connections_per_process: 100, connections: 100, ..LIMITS };
    let listener = Listener::bind(&place.path, limits).expect("a listener");
    let other = Caller::connect(&place.path, 20);
    let mut accepted = Vec::new();
    for _ in 0..20 {
        accepted.push(listener.accept().await);
    }
    let pid = other.pid();
    assert_eq!(pidfds_of(pid), 1);
    let process = Arc::clone(&accepted[0].peer().process);
    assert!(process.is_alive());
    other.end();
    assert!(!process.is_alive());
    drop((accepted, process));
    assert_eq!(pidfds_of(pid), 0);
}

#[tokio::test]
async fn a_caller_that_has_exited_is_refused() {
    let place = place();
    let listener = place.bind().expect("a listener");
    Caller::connect(&place.path, 2).end();
    let _client = UnixStream::connect(&place.path).expect("a connection");
    assert_eq!(listener.accept().await.peer().process.pid, own_pid());
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).expect("a pid")
}

/// Our descriptors that are pidfds of a process that was not reaped.
fn pidfds_of(pid: i32) -> usize {
    let wanted = format!("Pid:\t{pid}\n");
    let entries = fs::read_dir("/proc/self/fdinfo").expect("our descriptors");
    entries
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .filter(|info| info.contains(&wanted))
        .count()
}
