//! A workload of several agents, in Go (`tests/peers/go/cross`): what one agent gives it must be accepted by each of the
//! others.

use std::path::Path;
use std::process::Stdio;

use harness::Agent;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The running workload. Dropping it ends it.
pub(super) struct Crossing {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Crossing {
    /// Starts it, and waits until each agent accepts what every other one gives.
    pub(super) async fn start(program: &Path, agents: &[&Agent]) -> Self {
        let mut command = Command::new(program);
        command.args(agents.iter().map(|agent| agent.socket())).kill_on_drop(true);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut this = Self { input: child.stdin.take(), child, lines };
        assert_eq!(this.line().await, "crossing");
        this
    }

    /// Ends it, and returns its figures.
    pub(super) async fn end(mut self) -> Value {
        drop(self.input.take());
        let figures = serde_json::from_str(&self.line().await).expect("JSON");
        assert!(self.child.wait().await.expect("waited for").success());
        figures
    }

    async fn line(&mut self) -> String {
        self.lines.next_line().await.expect("read").expect("a line")
    }
}
