//! How names and values of labels are cleaned.

/// Replaces each run of characters that are no letter, digit or underscore of ASCII, together with an underscore that
/// follows, by one underscore (SPIRE, `telemetry/sanitize.go`: `\W+_?`).
#[must_use]
pub fn sanitize(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    let is_word = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    while let Some(next) = rest.next() {
        if is_word(&next) {
            clean.push(next);
            continue;
        }
        while rest.next_if(|c| !is_word(c)).is_some() {}
        rest.next_if_eq(&'_');
        clean.push('_');
    }
    clean
}
