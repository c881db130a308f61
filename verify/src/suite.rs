//! Runs `cargo test` and counts the tests.
//!
//! It does not use nextest, whose prebuilt programs are in no package registry, and which takes five minutes to build
//! on two cores.

use std::io::{self, BufRead, BufReader};
use std::process::{Command, Stdio};
use std::{fmt, ops};

/// The numbers of tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl ops::AddAssign for Count {
    fn add_assign(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(f, "{} tests: {passed} passed, {failed} failed, {skipped} skipped", passed + failed + skipped)
    }
}

/// Runs the tests. Returns whether cargo succeeded, the counts, and the skipped tests with their reasons.
pub(crate) fn run(cargo: &mut Command) -> io::Result<(bool, Count, Vec<String>)> {
    let cargo = cargo.args(["test", "--workspace", "--no-fail-fast"]);
    let mut child = cargo.stdout(Stdio::piped()).spawn()?;
    let (mut count, mut skipped) = (Count::default(), Vec::new());
    for line in BufReader::new(child.stdout.take().expect("it is piped")).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some(result) = line.strip_prefix("test result: ") {
            count += counted(result);
        }
        skipped.extend(ignored(&line));
    }
    Ok((child.wait()?.success(), count, skipped))
}

/// The counts in libtest's result: `ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`.
fn counted(result: &str) -> Count {
    let words: Vec<_> = result.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
    let number_before = |wanted| {
        let place = words.iter().position(|word| *word == wanted)?;
        words.get(place.checked_sub(1)?)?.parse().ok()
    };
    let number = |wanted| number_before(wanted).unwrap_or(0);
    Count { passed: number("passed"), failed: number("failed"), skipped: number("ignored") }
}

/// The name and reason of a skipped test, by libtest's line `test some::name ... ignored, a reason`; `None` for other
/// lines.
fn ignored(line: &str) -> Option<String> {
    let (name, reason) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
    Some(format!("{}{}", name.trim_end(), reason.replacen(',', ":", 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_libtest_prints() {
        let line = "FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s";
        assert_eq!(counted(line), Count { passed: 12, failed: 3, skipped: 1 });
        assert_eq!(counted("nonsense"), Count::default());
    }

    #[test]
    fn names_what_was_skipped() {
        let reason = ignored("test live::envoy ... ignored, no Envoy here");
        assert_eq!(reason.as_deref(), Some("live::envoy: no Envoy here"));
        assert_eq!(ignored("test live::envoy ... ignored").as_deref(), Some("live::envoy"));
        assert_eq!(ignored("test live::envoy ... ok"), None);
    }
}
