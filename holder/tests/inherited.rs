//! What a process inherits: this test program, started again with descriptors and a role in its environment.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::{env, io};

use holder::{Channel, Inherited, Message, memory, pair};

const FOLDER: &str = "FINIAL_TEST_FOLDER";

#[test]
fn sockets_memory_and_the_channel_are_found_by_path_and_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("public");
    let socket = UnixListener::bind(&path).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    let _caller = UnixStream::connect(&path).unwrap();
    let memory = memory::write(b"kept", 7).unwrap();
    let (ours, theirs) = pair().unwrap();
    let mut heir = Command::new("sh");
    heir.args([
        "-c",
        "exec 3<&0 4<&1 5<&2 </dev/null >/dev/null 2>&1; LISTEN_FDS=3 LISTEN_PID=$$ exec \"$@\"",
        "sh",
    ])
    .arg(env::current_exe().unwrap())
    .args(["--exact", "inherits", "--nocapture"])
    .env("LISTEN_FDNAMES", "finial.socket:memory:finial-keep")
    .env("NOTIFY_SOCKET", "/nowhere")
    .env(FOLDER, folder.path())
    .stdin(OwnedFd::from(socket))
    .stdout(OwnedFd::from(memory))
    .stderr(OwnedFd::from(theirs));
    let mut child = heir.spawn().unwrap();
    // Its descriptors are copies of these.
    drop(heir);
    assert!(child.wait().unwrap().success());
    assert_eq!(ours.receive().unwrap().unwrap().text, Message::Ready.text());
    assert!(ours.receive().unwrap().is_none());
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
}

/// The role of the child. As a test of its own it does nothing.
#[test]
fn inherits() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let path = std::path::Path::new(&folder).join("public");
    let mut inherited = Inherited::take();
    assert!(inherited.listener(&path.with_file_name("another")).is_none());
    let listener = inherited.listener(&path).expect("the socket");
    listener.accept().expect("the caller that was there before");
    assert!(inherited.listener(&path).is_none() && !inherited.has_listeners());
    let memories = inherited.memories();
    assert_eq!(memories[0].0, "memory");
    assert_eq!(&memory::read(&memories[0].1).expect("the memory")[..], b"kept");
    let holder = inherited.holder().expect("the channel");
    holder.tell(&Message::Ready, &[]).expect("a message");
    assert!(Inherited::take().holder().is_some(), "NOTIFY_SOCKET is still there");
}

#[test]
fn a_channel_is_a_descriptor() {
    let (ours, theirs) = pair().unwrap();
    let theirs = Channel::from(OwnedFd::from(theirs));
    theirs.send("STATUS=", &[]).unwrap();
    assert_eq!(ours.receive().unwrap().unwrap().text, "STATUS=");
    assert_eq!(ours.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}
