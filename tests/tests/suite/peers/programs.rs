//! Programs of others that run beside a test and print lines.

use std::fmt::Debug;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use dev::{Options, Server};
use harness::{Agent, Conf, needs};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::super::{register, server_with};

/// The path of a program that `tests/peers/programs` pins. `cargo verify` builds all of them.
///
/// # Errors
/// The reason for skipping the test.
pub(super) fn pinned(name: &str) -> Result<PathBuf, String> {
    needs(&name.to_uppercase().replace('-', "_"), name)
}

/// A server, and an agent that asks it five times a second, and knows every process of this user as
/// `spiffe://example.org/web`.
pub(super) async fn following(options: Options) -> (Server, Agent) {
    let server = server_with(options).await;
    let conf =
        Conf { agent: "experimental { sync_interval = \"200ms\" }".into(), ..Conf::join_token(&server) };
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let agent = Agent::start(&conf);
    (server, agent)
}

/// A running program. Dropping it ends it.
pub(super) struct Program {
    name: String,
    child: Child,
    input: ChildStdin,
    lines: UnboundedReceiver<String>,
    /// What it has printed, as far as the test has read it.
    printed: Vec<String>,
}

impl Program {
    pub(super) fn start(name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("it starts");
        let input = child.stdin.take().expect("piped");
        let (sender, lines) = unbounded_channel();
        tokio::spawn(read(child.stdout.take().expect("piped"), sender.clone()));
        tokio::spawn(read(child.stderr.take().expect("piped"), sender));
        Self { name: name.to_owned(), child, input, lines, printed: Vec::new() }
    }

    /// Writes a line to the program.
    pub(super) async fn say(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.expect("it reads");
    }

    /// Waits for the next line that contains this text, and returns it.
    pub(super) async fn prints(&mut self, text: &str) -> String {
        self.prints_all(&[text]).await.remove(0)
    }

    /// Waits until, from now on, each of these texts was in a line, in any order. Returns these lines in theirs.
    pub(super) async fn prints_all(&mut self, texts: &[impl AsRef<str> + Debug]) -> Vec<String> {
        let mut found = vec![None; texts.len()];
        while found.iter().any(Option::is_none) {
            let line = timeout(PATIENCE, self.lines.recv()).await.ok().flatten();
            let Some(line) = line else {
                panic!("{} did not print {texts:?}; it printed:\n{}", self.name, self.printed.join("\n"));
            };
            for (text, found) in texts.iter().zip(&mut found) {
                if line.contains(text.as_ref()) {
                    found.get_or_insert_with(|| line.clone());
                }
            }
            self.printed.push(line);
        }
        found.into_iter().flatten().collect()
    }

    /// All that it has printed so far.
    pub(super) fn log(&mut self) -> String {
        while let Ok(line) = self.lines.try_recv() {
            self.printed.push(line);
        }
        self.printed.join("\n")
    }

    /// The program's pid.
    pub(super) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Kills the program, and waits until nobody writes to its output any more.
    pub(super) async fn end(&mut self) {
        self.child.kill().await.expect("it is a child");
        while self.lines.recv().await.is_some() {}
    }

    /// Whether the program has not ended, by itself or by a crash.
    pub(super) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("it is a child").is_none()
    }
}

async fn read(pipe: impl AsyncRead + Unpin, lines: UnboundedSender<String>) {
    let mut reader = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = reader.next_line().await {
        if lines.send(line).is_err() {
            return;
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(100);
