//! Lines to the two streams. A closed pipe (`… | head`) is no reason to crash.

use std::io::{self, Write as _};

/// A line, or several, to standard output.
pub(super) fn out(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// A line, or several, to standard error.
pub(super) fn err(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
