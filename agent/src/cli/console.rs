//! Writes lines to standard output and standard error. A closed pipe (`… | head`) is ignored.

use std::io::{self, Write as _};

/// Writes a text and a newline to standard output.
pub(super) fn out(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Writes a text and a newline to standard error.
pub(super) fn err(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
