//! The reason why the demo ends early, with the logs that explain it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A reason, the logs of the programs that failed, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    reason: String,
    logs: Vec<PathBuf>,
    code: u8,
}

impl Failure {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), logs: Vec::new(), code: 1 }
    }

    /// A failure because of invalid flags. The exit code is 2.
    pub(crate) fn usage(reason: impl Into<String>) -> Self {
        Self { code: 2, ..Self::new(reason) }
    }

    /// The end by Ctrl-C. The exit code is the one that shells expect.
    pub(crate) fn interrupted() -> Self {
        Self { code: INTERRUPTED, ..Self::new("interrupted; everything is stopped") }
    }

    pub(crate) fn is_interruption(&self) -> bool {
        self.code == INTERRUPTED
    }

    /// Adds the log of a program that failed or had a part in the failure.
    #[must_use]
    pub(crate) fn with_log(mut self, log: &Path) -> Self {
        self.logs.push(log.to_owned());
        self
    }

    /// Prints the ends of the logs and the reason to standard error.
    pub(crate) fn show(&self) -> ExitCode {
        for log in &self.logs {
            let text = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("\n--- the end of {}:", log.display());
            for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
                eprintln!("    {line}");
            }
        }
        eprintln!("\ndemo: {self}");
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// 128 plus the number of SIGINT.
const INTERRUPTED: u8 = 130;
/// How many lines of each log are printed.
const LOG_LINES: usize = 20;
