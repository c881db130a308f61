//! Texts of others on a terminal or a page: callers and servers choose names, audiences, IDs and reasons, and a terminal
//! would obey the control characters in them.

use serde_json::Value;

/// The value with every character escaped, in all its texts, that a terminal obeys or that changes the order of others.
pub(crate) fn plain(value: Value) -> Value {
    match value {
        Value::String(text) if text.chars().any(is_obeyed) => Value::String(escape(&text)),
        Value::Array(list) => list.into_iter().map(plain).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, field)| (name, plain(field))).collect(),
        value => value,
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if is_obeyed(character) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Whether it is a control character, or one of those that turn the direction of writing.
pub(crate) fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        let hostile =
            json!({"names": ["a\u{1b}]0;x\u{7}", "b\nc\u{9b}2J"], "id": {"x": "\u{202e}é"}, "n": 1.5});
        let harmless =
            json!({"names": ["a\\u{1b}]0;x\\u{7}", "b\\nc\\u{9b}2J"], "id": {"x": "\\u{202e}é"}, "n": 1.5});
        assert_eq!(plain(hostile), harmless);
    }
}
