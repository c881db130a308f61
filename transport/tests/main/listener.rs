//! The socket file, and the limits of callers.

use crate::caller;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use budget::Budget;
use caller::Caller;
use futures_util::FutureExt as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Duration, Instant, timeout};
use transport::{BindError, Connection, Listener, Options, SILENCE};

/// Options with these limits of connections.
pub(crate) fn options(whole: usize, spare: usize, group: usize) -> Options {
    let bytes = budget::Limits { whole: 100, spare: 0, group: 80, account: 60, work: u64::MAX };
    Options {
        slots: budget::Limits { whole, spare, group, account: 1, work: u64::MAX },
        bytes: Budget::new(bytes),
        proc: "/proc".into(),
        mode: 0o777,
    }
}

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
        Listener::bind(&self.path, options(100, 1, 90))
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
    let listener = Listener::bind(&path, options(100, 1, 90)).expect("a listener");
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
    let mut listener = place.bind().expect("a listener");
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
    Listener::bind(&longest, options(100, 1, 90)).expect("107 bytes are fine");
    let error =
        Listener::bind(&longest.with_extension("y"), options(100, 1, 90)).expect_err("109 bytes are not");
    assert!(matches!(error, BindError::TooLong { .. }));
    assert!(error.to_string().contains("is 109 bytes long"), "{error}");
}

#[tokio::test]
async fn serves_what_another_has_bound() {
    let place = place();
    let socket = UnixListener::bind(&place.path).expect("a socket");
    let _client = UnixStream::connect(&place.path).expect("a connection");
    let mut listener = Listener::inherit(socket, &place.path, options(1, 0, 1)).expect("a listener");
    assert_eq!(listener.path(), place.path);
    assert_eq!(listener.accept().await.peer().process.pid, own_pid());
}

#[tokio::test]
async fn a_group_has_so_many_places() {
    let place = place();
    let mut listener = Listener::bind(&place.path, options(5, 1, 3)).expect("a listener");
    let (_clients, mut accepted) = accept(&mut listener, &place, 3).await;
    let fourth = UnixStream::connect(&place.path).expect("a connection");
    assert!(listener.accept().now_or_never().is_none());
    assert!(is_closed(fourth).await);
    accepted.pop();
    let _fifth = UnixStream::connect(&place.path).expect("a connection");
    assert_eq!(listener.accept().await.peer().process.pid, own_pid());
}

/// Both processes belong to this user; the `/proc` that gives their cgroups is made up.
#[tokio::test]
async fn a_newcomer_of_another_group_is_served_and_the_idlest_of_the_greediest_goes() {
    let place = place();
    let proc = place.folder.path().join("proc");
    in_container(&proc, own_pid(), 'a');
    let options = Options { proc: proc.clone(), ..options(2, 1, 2) };
    let mut listener = Listener::bind(&place.path, options).expect("a listener");
    let (mut clients, mut accepted) = accept(&mut listener, &place, 2).await;
    clients[0].write_all(b"busy").expect("written");
    accepted[0].read_exact(&mut [0; 4]).await.expect("read");
    let mut idle = accepted.pop().expect("the second");
    let reading = tokio::spawn(async move { idle.read(&mut [0]).await.expect_err("ended").kind() });
    tokio::task::yield_now().await;

    let other = Caller::connect(&place.path, 1);
    in_container(&proc, other.pid(), 'b');
    let newcomer = listener.accept().await.peer();
    assert_eq!(newcomer.process.pid, other.pid());
    assert_eq!(newcomer.group().key(), container('b'));
    assert_eq!(reading.await.expect("no panic"), std::io::ErrorKind::ConnectionAborted);
    clients[0].write_all(b"busy").expect("written");
    accepted[0].read_exact(&mut [0; 4]).await.expect("the one that does something stays");
}

#[tokio::test]
async fn a_group_is_that_of_the_container_else_of_the_user() {
    let place = place();
    let proc = place.folder.path().join("proc");
    let options = Options { proc: proc.clone(), ..options(9, 1, 8) };
    let bytes = options.bytes.clone();
    let mut listener = Listener::bind(&place.path, options).expect("a listener");
    let (_first, accepted) = accept(&mut listener, &place, 1).await;
    let user = format!("uid:{}", nix::unistd::geteuid());
    assert_eq!(accepted[0].peer().group().key(), user);

    // A group that could not be read is read again for the next connection. Once read, it does not change.
    in_container(&proc, own_pid(), 'a');
    let (_second, second) = accept(&mut listener, &place, 1).await;
    in_container(&proc, own_pid(), 'b');
    let (_third, third) = accept(&mut listener, &place, 1).await;
    let [second, third] = [second[0].peer(), third[0].peer()];
    assert_eq!([second.group().key(), third.group().key()], [container('a'), container('a')]);

    // Each connection has an account of its own, in one group.
    let charges =
        [second.account().charge(50), third.account().charge(30)].map(|charge| charge.expect("room"));
    assert_eq!((second.account().held(), second.group().held(), bytes.held()), (50, 80, 80));
    assert!(third.account().charge(1).is_err());
    drop(charges);
    assert_eq!(bytes.held(), 0);
}

fn container(digit: char) -> String {
    format!("container:{}", digit.to_string().repeat(64))
}

fn in_container(proc: &std::path::Path, pid: i32, digit: char) {
    let folder = proc.join(pid.to_string());
    fs::create_dir_all(&folder).expect("made");
    let line = format!("0::/docker/{}\n", digit.to_string().repeat(64));
    fs::write(folder.join("cgroup"), line).expect("written");
}

#[tokio::test]
async fn many_are_taken_from_the_backlog_at_once_and_then_others_have_their_turn() {
    let place = place();
    let mut listener = Listener::bind(&place.path, options(200, 1, 200)).expect("a listener");
    let _clients: Vec<_> =
        (0..100).map(|_| UnixStream::connect(&place.path).expect("a connection")).collect();
    let mut accepted = vec![listener.accept().await];
    while let Some(connection) = listener.accept().now_or_never() {
        accepted.push(connection);
    }
    assert_eq!(accepted.len(), 1 + 16, "the first, and those that came with it");
    for _ in 17..100 {
        accepted.push(listener.accept().await);
    }
    assert!(listener.accept().now_or_never().is_none());
}

#[tokio::test]
async fn who_has_gone_is_not_looked_at() {
    let place = place();
    let proc = place.folder.path().join("proc");
    let mut listener = Listener::bind(&place.path, Options { proc, ..options(1, 0, 1) }).expect("a listener");
    {
        let _nobody_has_copies = caller::STARTING.read().expect("nobody panics with it");
        for _ in 0..20 {
            let mut gone = UnixStream::connect(&place.path).expect("a connection");
            gone.write_all(b"nobody hears the answer").expect("written");
        }
    }
    let half = UnixStream::connect(&place.path).expect("a connection");
    half.shutdown(std::net::Shutdown::Write).expect("half closed");
    let mut connection = listener.accept().await;
    connection.write_all(b"heard").await.expect("written");
    assert!(!is_closed(half).await);
}

#[tokio::test(start_paused = true)]
async fn who_never_says_a_byte_is_closed() {
    let place = place();
    let mut listener = place.bind().expect("a listener");
    let (mut clients, mut accepted) = accept(&mut listener, &place, 2).await;
    clients[1].write_all(b"x").expect("written");
    let start = Instant::now();
    accepted[1].read_exact(&mut [0]).await.expect("a byte");
    let mute = accepted[0].read(&mut [0]).await.expect_err("closed");
    assert_eq!((mute.kind(), start.elapsed().as_secs()), (std::io::ErrorKind::TimedOut, SILENCE.as_secs()));
    // A caller that has sent something may be idle for any time.
    timeout(Duration::from_secs(3600), accepted[1].read(&mut [0])).await.expect_err("still open");
}

#[tokio::test]
async fn hanging_up_ends_reading_and_writing() {
    let place = place();
    let mut listener = place.bind().expect("a listener");
    let (_clients, accepted) = accept(&mut listener, &place, 2).await;
    let peers = [&accepted[0], &accepted[1]].map(Connection::peer);
    let [mut reads, mut writes] = <[Connection; 2]>::try_from(accepted).expect("two");
    let reading = tokio::spawn(async move { reads.read(&mut [0]).await });
    // More than the buffers take without a reader.
    let writing = tokio::spawn(async move { writes.write_all(&vec![0; 10 << 20]).await });
    tokio::task::yield_now().await;
    peers.iter().for_each(|peer| peer.hang_up());
    assert!(reading.await.expect("no panic").is_err());
    assert!(writing.await.expect("no panic").is_err());
}

async fn accept(listener: &mut Listener, place: &Place, count: usize) -> (Vec<UnixStream>, Vec<Connection>) {
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
    let mut listener = place.bind().expect("a listener");
    let (_client, accepted) = accept(&mut listener, &place, 1).await;
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
    let mut listener = place.bind().expect("a listener");
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
    let mut listener = place.bind().expect("a listener");
    caller::exited(&place.path);
    let _client = UnixStream::connect(&place.path).expect("a connection");
    assert_eq!(listener.accept().await.peer().process.pid, own_pid());
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).expect("a pid")
}

/// Counts descriptors of this process that are pidfds of `pid`, if it was not reaped.
fn pidfds_of(pid: i32) -> usize {
    let wanted = format!("Pid:\t{pid}\n");
    let entries = fs::read_dir("/proc/self/fdinfo").expect("our descriptors");
    entries
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .filter(|info| info.contains(&wanted))
        .count()
}
