//! Prints headlines, and a table at the end.

use std::time::Duration;
#[expect(clippy::disallowed_types, reason = "nothing here runs on tokio's clock")]
use std::time::Instant;

use crate::steps::{Outcome, Step, Verdict};

/// The outcomes of the steps so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    lines: Vec<(&'static str, Duration, Outcome)>,
}

impl Report {
    #[expect(clippy::disallowed_types, reason = "nothing here runs on tokio's clock")]
    pub(crate) fn run(&mut self, step: &'static Step) {
        println!("\n=== {}: {}", step.name, step.what);
        let start = Instant::now();
        let outcome = (step.run)();
        let took = start.elapsed();
        println!("=== {}: {}, {}", step.name, outcome.verdict.word(), clock(took));
        self.lines.push((step.name, took, outcome));
    }

    /// Prints the table. Returns false if a step failed.
    pub(crate) fn finish(&self) -> bool {
        println!("\n=== summary");
        for (name, took, outcome) in &self.lines {
            println!("{name:12}{:9}{:>7}  {}", outcome.verdict.word(), clock(*took), outcome.note);
            for detail in &outcome.details {
                println!("{:30}{detail}", "");
            }
        }
        let tests = self.lines.iter().find_map(|(_, _, outcome)| outcome.tests);
        if let Some(count) = tests {
            println!("{count}");
        }
        self.lines.iter().all(|(_, _, outcome)| !matches!(outcome.verdict, Verdict::Failed))
    }
}

fn clock(took: Duration) -> String {
    format!("{}:{:02}", took.as_secs() / 60, took.as_secs() % 60)
}
