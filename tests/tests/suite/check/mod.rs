//! `finial check` on nodes that are in order and on broken ones: the program as an operator or an init container runs it.
//!
//! * `local`: what is on the node: sockets, folders, tokens, limits. `remote`: the server and the way there. `cluster`: the
//!   kubelet, the API server and the container runtime.

mod cluster;
mod local;
mod remote;

use std::path::Path;

use harness::{Conf, build_finial};
use libtest_mimic::Trial;
use serde_json::Value;
use tempfile::TempDir;

pub(super) fn trials() -> Vec<Trial> {
    [local::trials(), remote::trials(), cluster::trials()].into_iter().flatten().collect()
}

/// What `check -output json` has found.
#[derive(Debug)]
struct Found {
    code: Option<i32>,
    report: Value,
    /// All output, for what must not be in it.
    text: String,
}

impl Found {
    /// Runs the command in a new folder.
    async fn of(conf: &Conf) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self::within(conf, &folder).await
    }

    /// Runs the command in a folder with files.
    async fn within(conf: &Conf, folder: &TempDir) -> Self {
        Self::with(conf, folder.path(), &[]).await
    }

    /// Runs the command with more flags.
    async fn with(conf: &Conf, folder: &Path, flags: &[&str]) -> Self {
        // Where nobody answers, the trial need not wait long.
        let mut command = conf.command(&build_finial(), "check", folder);
        let output = command.args(["-output", "json", "-timeout", "2s"]).args(flags).output().await;
        let output = output.expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Self { code: output.status.code(), report, text: text(&output.stdout) + &text(&output.stderr) }
    }

    /// Checks that there is a line of this name and status, with these words in what was found and in what to do.
    fn says(&self, name: &str, status: &str, summary: &str, action: &str) -> &Self {
        let lines = self.report["checks"].as_array().map_or(&[][..], |lines| lines);
        let is_it = |line: &&Value| {
            let has =
                |field: &str, words: &str| line[field].as_str().is_some_and(|text| text.contains(words));
            line["name"] == name
                && line["status"] == status
                && has("summary", summary)
                && has("action", action)
        };
        assert!(
            lines.iter().any(|line| is_it(&line)),
            "{name} {status} {summary:?} {action:?} is not in {self:#?}"
        );
        self
    }

    /// Checks that this line is a failure, and that nothing else is.
    fn only_fails(&self, name: &str, summary: &str, action: &str) -> &Self {
        self.says(name, "failure", summary, action);
        assert_eq!(self.failures(), [name], "{self:#?}");
        assert_eq!((self.code, &self.report["status"]), (Some(1), &Value::from("failure")));
        self
    }

    /// The names of the lines that are failures.
    fn failures(&self) -> Vec<&str> {
        let lines = self.report["checks"].as_array().map_or(&[][..], |lines| lines);
        let failed = lines.iter().filter(|line| line["status"] == "failure");
        failed.filter_map(|line| line["name"].as_str()).collect()
    }

    /// Checks that nothing fails.
    fn passes(&self) -> &Self {
        assert_eq!((self.failures(), self.code), (Vec::new(), Some(0)), "{self:#?}");
        self
    }
}
