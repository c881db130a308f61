//! Collects the problems and warnings that all readers of a configuration find.

use std::cell::RefCell;
use std::fmt;

use crate::{Errors, Problem, Unknown, Warning};

/// The findings so far. Readers share it by reference, because several sections of a file are read at a time.
#[derive(Debug, Default)]
pub(crate) struct Report {
    errors: RefCell<Errors>,
    warnings: RefCell<Vec<Warning>>,
}

impl Report {
    pub(crate) fn problem(&self, line: impl Into<Option<u32>>, message: impl Into<String>) {
        let problem = Problem { line: line.into(), message: message.into() };
        let problems = &mut self.errors.borrow_mut().problems;
        // Some keys are read twice, and would be reported twice.
        if problems.len() < MOST && !problems.contains(&problem) {
            problems.push(problem);
        }
    }

    /// Reports a setting of spire-agent that Finial does not have yet.
    pub(crate) fn not_supported(&self, line: impl Into<Option<u32>>, what: &str) {
        self.problem(line, not_supported(what));
    }

    pub(crate) fn unknown(&self, unknown: Unknown) {
        self.errors.borrow_mut().unknown.push(unknown);
    }

    pub(crate) fn warn(&self, warning: impl Into<Warning>) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() < MOST {
            warnings.push(warning.into());
        }
    }

    /// Warns that something in the file does nothing.
    pub(crate) fn ignored(&self, line: impl Into<Option<u32>>, message: impl fmt::Display) {
        match line.into() {
            Some(line) => self.warn(format!("{message} (line {line})")),
            None => self.warn(message.to_string()),
        }
    }

    /// Returns all errors in the order of the file, and all warnings.
    pub(crate) fn finish(self) -> (Errors, Vec<Warning>) {
        let mut errors = self.errors.into_inner();
        errors.problems.sort_by_key(|problem| problem.line);
        (errors, self.warnings.into_inner())
    }
}

/// The message for a setting of spire-agent that Finial does not have yet.
pub(crate) fn not_supported(what: &str) -> String {
    format!("not supported yet: {what}; remove it, or keep spire-agent here until finial has it")
}

/// The most findings of each kind: more than people read. A malicious file could have a million.
const MOST: usize = 100;
