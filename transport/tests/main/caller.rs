//! Other processes: this test program, started again with a role in its environment.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::RwLock;
use std::{env, io};

/// A child process that holds connections until it is told to end.
pub(crate) struct Caller {
    child: Child,
    stdin: Option<ChildStdin>,
    _stdout: BufReader<ChildStdout>,
}

impl Caller {
    /// Starts a process that opens `count` connections, and returns when they are open.
    pub(crate) fn connect(path: &Path, count: usize) -> Self {
        let mut child = program();
        child.args(["--exact", "caller::holds_connections", "--nocapture"]);
        child.env(CONNECT, path).env(COUNT, count.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = start(&mut child);
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        while !line.contains(CONNECTED) {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).expect("its output"), 0, "the child ended early");
        }
        Self { child, stdin, _stdout: stdout }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    pub(crate) fn end(mut self) {
        drop(self.stdin.take());
        self.child.wait().expect("its end");
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.child.wait().ok();
    }
}

/// Runs a process that connects and exits, while its child holds the connection until the other end closes it.
pub(crate) fn exited(path: &Path) {
    let mut child = program();
    child.args(["--exact", "caller::leaves_its_connection_to_a_child"]).env(EXIT, path).stdout(Stdio::null());
    assert!(start(&mut child).wait().expect("its end").success());
}

/// Starts a program. Until it runs, its process holds a copy of every open socket of this one.
fn start(command: &mut Command) -> Child {
    let _alone = STARTING.write().expect("nobody panics with it");
    command.spawn().expect("a child")
}

/// Held by whoever starts a program. A test that needs its sockets to be closed when it closes them reads it meanwhile.
pub(crate) static STARTING: RwLock<()> = RwLock::new(());

fn program() -> Command {
    Command::new(env::current_exe().expect("this program"))
}

const CONNECT: &str = "FINIAL_TEST_CONNECT";
const EXIT: &str = "FINIAL_TEST_EXIT";
const COUNT: &str = "FINIAL_TEST_COUNT";
const CONNECTED: &str = "connected";

/// The role of the child of [`Caller::connect`]. As a test of its own it does nothing.
#[test]
fn holds_connections() {
    let Some(path) = env::var_os(CONNECT) else { return };
    let count: usize = env::var(COUNT).expect("a count").parse().expect("a number");
    let _held: Vec<_> = (0..count).map(|_| UnixStream::connect(&path).expect("a connection")).collect();
    println!("{CONNECTED}");
    io::stdin().read_to_end(&mut Vec::new()).expect("the end of the input");
}

/// The role of the child of [`exited`].
#[test]
#[expect(clippy::zombie_processes, reason = "it ends before its child does, on purpose")]
fn leaves_its_connection_to_a_child() {
    let Some(path) = env::var_os(EXIT) else { return };
    let connection = UnixStream::connect(path).expect("a connection");
    Command::new("cat").stdin(OwnedFd::from(connection)).stdout(Stdio::null()).spawn().expect("a child");
}
