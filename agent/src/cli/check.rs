//! `check`: looks at a node before an agent runs there.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::flags::{Flag, FlagSet, Values, duration, merged, output};
use super::print::Format;
use super::{block_on, console, load};
use crate::check::{Line, Report, Status, look, unusable};

/// Runs `check`. The exit code is 0 if nothing fails, 1 if something does, and 2 if the configuration or the flags
/// cannot be used.
pub(super) fn run(values: &Values) -> ExitCode {
    let format = values.format();
    let settings = match load::settings(values) {
        Ok(settings) => settings,
        Err(error) => {
            show(&Report(vec![unusable(&error)]), format);
            return ExitCode::from(BAD_INPUT);
        }
    };
    let Some(limit) = values.duration("timeout").filter(|limit| *limit <= LONGEST) else {
        let line = Line::failure(
            "configuration",
            "-timeout is not between 0 and one hour",
            "Give a time such as 5s.",
        );
        show(&Report(vec![line]), format);
        return ExitCode::from(BAD_INPUT);
    };
    block_on(async {
        let report = Box::pin(look(Arc::new(settings), limit)).await;
        show(&report, format);
        match report.status() {
            Status::Ok | Status::Warning => ExitCode::SUCCESS,
            Status::Failure => ExitCode::FAILURE,
        }
    })
}

fn show(report: &Report, format: Format) {
    console::out(&match format {
        Format::Pretty => report.text(),
        Format::Json => report.json(),
    });
}

/// The flags of `check`: those of `run`, and two more.
pub(super) const FLAGS: FlagSet = FlagSet { name: "check", flags: &ALL };

const ALL: [Flag; load::FLAGS.len() + 2] = merged(load::FLAGS, &OWN);
const OWN: [Flag; 2] =
    [output(), duration("timeout", 5, "How long what is looked at may take, all of it at once")];
const LONGEST: Duration = Duration::from_hours(1);
/// What the help and the manual add.
pub(super) const MORE: &str = "\
It attests nothing, spends no token, and leaves sockets alone. It writes nothing but a probe file in the folders that must
be writable, which it removes. Each line is ok, warning or failure, with what was found and what to do; -output json has the
same as {\"checks\": [{\"name\", \"status\", \"summary\", \"action\"}], \"status\"}.";
/// What the exit codes mean.
pub(super) const EXIT_CODES: &str = "0 if nothing fails (there may be warnings), 1 if something does, 2 if the \
                                     configuration or the flags cannot be used.";
/// The exit code if nothing could be looked at.
pub(super) const BAD_INPUT: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_run_are_all_there_and_sorted() {
        let usage = FLAGS.usage();
        let names: Vec<&str> = usage.lines().filter_map(|line| line.strip_prefix("  -")).collect();
        assert!(names.is_sorted() && names.len() == load::FLAGS.len() + 2, "{names:?}");
        for flag in load::RUN_FLAGS.usage().lines().filter(|line| line.starts_with("  -")) {
            assert!(usage.contains(flag), "{flag}");
        }
    }
}
