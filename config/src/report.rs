//! The list that all readers of a configuration write their findings to.

use std::cell::RefCell;

use crate::{Errors, Problem, Unknown, Warning};

/// Findings so far. Shared by reference: sections of one file are read side by side.
#[derive(Debug, Default)]
pub(crate) struct Report {
    errors: RefCell<Errors>,
    warnings: RefCell<Vec<Warning>>,
}

impl Report {
    pub(crate) fn problem(&self, line: impl Into<Option<u32>>, message: impl Into<String>) {
        let problem = Problem { line: line.into(), message: message.into() };
        let problems = &mut self.errors.borrow_mut().problems;
        // Some keys are read twice.
        if problems.len() < MOST && !problems.contains(&problem) {
            problems.push(problem);
        }
    }

    /// A key that spire-agent has and we do not have yet.
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

    /// All errors, in the order of the file, and all warnings.
    pub(crate) fn finish(self) -> (Errors, Vec<Warning>) {
        let mut errors = self.errors.into_inner();
        errors.problems.sort_by_key(|problem| problem.line);
        (errors, self.warnings.into_inner())
    }
}

/// The message for something of spire-agent's that is not built yet.
pub(crate) fn not_supported(what: &str) -> String {
    format!("not supported yet: {what}; remove it, or keep spire-agent here until finial has it")
}

/// More findings than anybody reads; a file made to hurt could have a million.
const MOST: usize = 100;
