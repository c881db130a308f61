//! Each row of [`ROWS`] through `validate` and `run` of finial, up to the moment when its socket is open, and through
//! `validate` of the real agent. `validate` and `run` say the same, and nobody panics.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use harness::{build_finial, needs, skipped};
use libtest_mimic::{Failed, Trial};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::rows::{ROWS, Row};

/// What becomes of a configuration. The words are the beginning of a message.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Both agents take it, and finial opens its socket.
    Serves,
    /// As [`Self::Serves`], and finial says these words in one line, at `validate` and at the start.
    Warns(&'static str),
    /// Both agents take it. It is not run: it would log nothing that a test can wait for, or use something outside the
    /// test's folder.
    Quiet,
    /// Both agents take it, and neither can run with it: finial's `validate` notes why, and `run` ends with that.
    NotRun(&'static str),
    /// Both agents refuse it, in these words first.
    Refused(&'static str),
    /// Both agents refuse it, finial in these words.
    OwnWords(&'static str),
    /// Finial refuses what spire-agent takes, on purpose (`CHANGELOG.md`, `docs/configuration.md`).
    Ours(&'static str),
}

pub(super) fn trials() -> Vec<Trial> {
    let ours = Trial::test("configurations_at_their_limits", || {
        let finial = build_finial();
        each(|row, case| {
            check_validate(row, &case.validate(&finial));
            check_run(row, case, &finial);
        })
    });
    let name = "configurations_at_their_limits_by_the_real_agent";
    let real = match needs("SPIRE_AGENT", "spire-agent") {
        Ok(real) => Trial::test(name, move || each(|row, case| check_real(row, &case.validate(&real)))),
        Err(reason) => skipped(name, &reason),
    };
    vec![ours, real]
}

fn each(check: impl Fn(&Row, &Case)) -> Result<(), Failed> {
    for row in ROWS {
        check(row, &Case::new(row));
    }
    Ok(())
}

/// A row, written to a folder.
struct Case {
    folder: tempfile::TempDir,
    /// The log line by which a socket is open.
    opened: &'static str,
}

#[derive(Debug)]
struct Output {
    success: bool,
    out: String,
    err: String,
}

impl Output {
    /// The reason in the line of a refusal by `validate`.
    fn reason(&self) -> &str {
        self.err.split_once("is invalid: ").map_or("", |(_, reason)| reason)
    }
}

impl Case {
    fn new(row: &Row) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().display().to_string();
        let filled = |text: &str| {
            let text = text.replace("DIR", &path).replace("LONG", &"x".repeat(200));
            text.replace("TD300", &"a".repeat(300))
        };
        let keys = filled(row.keys);
        fs::write(
            folder.path().join("agent.conf"),
            format!(
                "agent {{\n data_dir = \"{path}/data\"\n socket_path = \"{path}/s/api.sock\"\n server_address = \
                 \"127.0.0.1\"\n server_port = 1\n trust_domain = \"example.org\"\n insecure_bootstrap = true\n \
                 {keys}\n}}\nplugins {{\n NodeAttestor \"join_token\" {{}}\n KeyManager \"memory\" {{}}\n \
                 WorkloadAttestor \"unix\" {{}}\n}}\n{}\n",
                filled(row.rest)
            ),
        )
        .expect("written");
        let off = row.keys.contains("disable_workload_api = true disable_sds_api = true");
        Self { folder, opened: if off { "Starting Admin APIs" } else { "Starting agent APIs" } }
    }

    fn command(&self, program: &Path, order: &str) -> Command {
        let mut command = Command::new(program);
        command.args([order, "-config"]).arg(self.folder.path().join("agent.conf"));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    fn validate(&self, program: &Path) -> Output {
        output(self.command(program, "validate").output().expect("it runs"))
    }

    fn run(&self, program: &Path) -> Child {
        let mut command = self.command(program, "run");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
    }
}

fn output(output: std::process::Output) -> Output {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { success: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
}

fn check_validate(row: &Row, said: &Output) {
    let keys = (row.keys, row.rest);
    match row.verdict {
        Verdict::Serves | Verdict::Quiet => {
            assert!(said.success && said.err.is_empty(), "{keys:?}: {said:?}")
        }
        Verdict::Warns(words) => {
            assert!(said.success && said.err.is_empty(), "{keys:?}: {said:?}");
            assert_eq!(said.out.matches(words).count(), 1, "{keys:?}: {said:?}");
        }
        Verdict::NotRun(words) => {
            let note = format!("note: the file is valid, but finial will not run with it: {words}");
            assert!(said.success && said.err.starts_with(&note), "{keys:?}: {said:?}");
        }
        Verdict::Refused(words) | Verdict::OwnWords(words) | Verdict::Ours(words) => {
            assert!(!said.success && said.reason().starts_with(words), "{keys:?}: {said:?}");
        }
    }
}

fn check_real(row: &Row, said: &Output) {
    let keys = (row.keys, row.rest);
    match row.verdict {
        Verdict::Serves | Verdict::Quiet | Verdict::Warns(_) | Verdict::NotRun(_) | Verdict::Ours(_) => {
            assert!(said.success, "{keys:?}: {said:?}");
        }
        Verdict::Refused(words) => {
            assert!(!said.success && said.reason().starts_with(words), "{keys:?}: {said:?}");
        }
        Verdict::OwnWords(words) => {
            assert!(!said.success, "{keys:?}: {said:?}");
            let same = said.reason().starts_with(words) && words.len() > "open ".len();
            assert!(
                !same || words.starts_with("could not parse"),
                "{keys:?}: the words are the same: {said:?}"
            );
        }
    }
}

/// Runs finial until its socket is open, or until it ends, and compares with the verdict.
fn check_run(row: &Row, case: &Case, finial: &Path) {
    if matches!(row.verdict, Verdict::Quiet) {
        return;
    }
    let keys = (row.keys, row.rest);
    let mut child = case.run(finial);
    let mut out = String::new();
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    let opened = loop {
        let begin = out.len();
        if lines.read_line(&mut out).expect("text") == 0 {
            break false;
        }
        if out[begin..].contains(case.opened) {
            break true;
        }
    };
    if opened {
        let pid = i32::try_from(child.id()).expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
    }
    lines.read_to_string(&mut out).expect("text");
    let said = Output { out, ..output(child.wait_with_output().expect("it ends")) };
    let all = said.out.clone() + &said.err;
    assert!(!all.contains("panicked"), "{keys:?}: {said:?}");
    match row.verdict {
        Verdict::Serves | Verdict::Quiet => assert!(opened && said.success, "{keys:?}: {said:?}"),
        Verdict::Warns(words) => {
            assert!(opened && said.success, "{keys:?}: {said:?}");
            assert_eq!(all.matches(words).count(), 1, "{keys:?}: {said:?}");
        }
        Verdict::NotRun(words)
        | Verdict::Refused(words)
        | Verdict::OwnWords(words)
        | Verdict::Ours(words) => {
            assert!(!opened && !said.success && said.err.starts_with(words), "{keys:?}: {said:?}");
        }
    }
}
