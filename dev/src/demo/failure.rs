//! Why the demo ends early, and the log that tells more.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// One reason, and the logs of what failed.
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

    /// The flags make no sense.
    pub(crate) fn usage(reason: impl Into<String>) -> Self {
        Self { code: 2, ..Self::new(reason) }
    }

    /// Ctrl-C, with the exit code that shells expect.
    pub(crate) fn interrupted() -> Self {
        Self { code: INTERRUPTED, ..Self::new("interrupted; everything is stopped") }
    }

    pub(crate) fn is_interruption(&self) -> bool {
        self.code == INTERRUPTED
    }

    /// The log of what failed, or of what had a part in it.
    #[must_use]
    pub(crate) fn with_log(mut self, log: &Path) -> Self {
        self.logs.push(log.to_owned());
        self
    }

    /// Tells all, on standard error.
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

const INTERRUPTED: u8 = 130;
const LOG_LINES: usize = 20;
