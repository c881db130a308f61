//! Replaces environment variables in the raw text of the file, before it is parsed (`-expandEnv`).

/// Replaces `$NAME` and `${NAME}` in the whole text, also in comments and strings, as Go's `os.Expand` does: an unset
/// variable is empty, `$$` becomes `$`, a `$` before no name stays, `${}` and an unclosed `${` are removed.
#[must_use]
pub fn expand_env(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (name, width) = shell_name(rest);
        match name {
            "$" => expanded.push('$'),
            "" if width == 0 => expanded.push('$'),
            "" => {}
            name => expanded.push_str(&lookup(name).unwrap_or_default()),
        }
        rest = &rest[width..];
    }
    expanded.push_str(rest);
    expanded
}

/// The variable's name at the start of the text, and how many bytes it takes with its braces.
fn shell_name(text: &str) -> (&str, usize) {
    if let Some(inner) = text.strip_prefix('{') {
        return match inner.find('}') {
            // A `${` alone is removed, and so is `${}`.
            None => ("", 1),
            Some(0) => ("", 2),
            Some(end) => (&inner[..end], end + 2),
        };
    }
    let special = |c: &char| matches!(c, '*' | '#' | '$' | '@' | '!' | '?' | '-' | '0'..='9');
    if text.chars().next().as_ref().is_some_and(special) {
        return (&text[..1], 1);
    }
    let end = text.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    (&text[..end], end)
}

#[cfg(test)]
mod tests {
    use super::expand_env;

    #[test]
    fn follows_os_expand() {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "A_b2" => Some("two".to_owned()),
            "1" => Some("one".to_owned()),
            "x y" => Some("odd".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("$A", "1"),
            ("${A}x$A", "1x1"),
            ("$A_b2-", "two-"),
            ("$UNSET.", "."),
            ("$$A", "$A"),
            ("${$}", "$"),
            ("$", "$"),
            ("a$", "a$"),
            ("$ A", "$ A"),
            ("$\"", "$\""),
            ("${}x", "x"),
            ("${A", "A"),
            ("$12", "one2"),
            ("${x y}", "odd"),
            ("$é", "$é"),
        ] {
            assert_eq!(expand_env(text, lookup), expected, "{text}");
        }
    }
}
