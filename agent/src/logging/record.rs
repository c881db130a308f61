//! One line of the log, as logrus writes it: as text or as JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use config::LogFormat;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};

/// The message and the fields of an event.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) message: String,
    pub(super) fields: BTreeMap<String, Value>,
}

#[derive(Clone)]
pub(super) enum Value {
    Text(String),
    /// A number or a boolean, which JSON writes without quotes.
    Bare(String),
}

impl Value {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Text(text) if text.is_empty())
    }

    /// A field that each line of a module has.
    pub(super) fn constant(text: &str) -> Self {
        match text {
            "true" | "false" => Self::Bare(text.to_owned()),
            _ => Self::Text(text.to_owned()),
        }
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(text) | Value::Bare(text)) => self.message = text,
            // logrus renames a field that has the name of one of its own.
            (name @ ("time" | "level" | "msg"), value) => {
                drop(self.fields.insert(format!("fields.{name}"), value))
            }
            (name, value) => drop(self.fields.insert(name.to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::Text(format!("{value:?}")));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::Text(value.to_owned()));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::Bare(value.to_string()));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::Bare(value.to_string()));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::Bare(value.to_string()));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Bare(value.to_string()));
    }
}

/// A line of the log.
pub(super) struct Record<'a> {
    pub(super) level: &'a str,
    pub(super) message: String,
    pub(super) fields: BTreeMap<String, Value>,
    pub(super) time: OffsetDateTime,
}

impl Record<'_> {
    /// The line in this format, with a line feed.
    pub(super) fn line(&self, format: LogFormat) -> String {
        match format {
            LogFormat::Json => self.json(),
            LogFormat::Text => self.text(false),
            LogFormat::Default => self.text(true),
        }
    }

    fn timestamp(&self, whole_seconds: bool) -> String {
        let time =
            if whole_seconds { self.time.replace_nanosecond(0).unwrap_or(self.time) } else { self.time };
        time.format(&Rfc3339).unwrap_or_default()
    }

    pub(super) fn text(&self, whole_seconds: bool) -> String {
        let mut line = format!(
            "time=\"{}\" level={} msg={}",
            self.timestamp(whole_seconds),
            self.level,
            quoted(&self.message)
        );
        for (name, Value::Text(value) | Value::Bare(value)) in &self.fields {
            let _ = write!(line, " {name}={}", quoted(value));
        }
        line.push('\n');
        line
    }

    pub(super) fn json(&self) -> String {
        let mut object = serde_json::Map::new();
        for (name, value) in &self.fields {
            let value = match value {
                Value::Text(text) => text.clone().into(),
                Value::Bare(bare) => serde_json::from_str(bare).unwrap_or_else(|_| bare.clone().into()),
            };
            object.insert(name.clone(), value);
        }
        object.insert("level".into(), self.level.into());
        object.insert("msg".into(), self.message.clone().into());
        object.insert("time".into(), self.timestamp(false).into());
        // As Go's encoder. These characters occur within strings only, and a text of the log has no others to escape.
        let line = serde_json::Value::Object(object).to_string();
        let mut escaped = String::with_capacity(line.len() + 1);
        for character in line.chars() {
            match character {
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    let _ = write!(escaped, "\\u{:04x}", u32::from(character));
                }
                _ => escaped.push(character),
            }
        }
        escaped.push('\n');
        escaped
    }
}

/// The text, quoted if logrus would quote it: if it has a character other than these.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/@^+".contains(&b);
    if text.bytes().all(plain) { text.to_owned() } else { go_quoted(text) }
}

/// The text as Go's `%q` writes it.
fn go_quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        let code = u32::from(character);
        let _ = match character {
            '"' | '\\' => write!(quoted, "\\{character}"),
            '\u{7}' => quoted.write_str("\\a"),
            '\u{8}' => quoted.write_str("\\b"),
            '\u{c}' => quoted.write_str("\\f"),
            '\u{b}' => quoted.write_str("\\v"),
            '\n' => quoted.write_str("\\n"),
            '\r' => quoted.write_str("\\r"),
            '\t' => quoted.write_str("\\t"),
            _ if code < 0x20 || code == 0x7f => write!(quoted, "\\x{code:02x}"),
            ' '..='~' => quoted.write_char(character),
            _ if is_printable(character) => quoted.write_char(character),
            _ if code < 0x10000 => write!(quoted, "\\u{code:04x}"),
            _ => write!(quoted, "\\U{code:08x}"),
        };
    }
    quoted.push('"');
    quoted
}

/// As Go's `strconv.IsPrint`, but for characters that are newer than one of the two tables.
fn is_printable(character: char) -> bool {
    // Rust escapes what is not printable, and a combining character at the beginning of a text.
    format!("a{character}").escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record<'static> {
        let fields = [
            ("b", Value::Text("x y".into())),
            ("a", Value::Bare("7".into())),
            ("e", Value::Text(String::new())),
        ];
        Record {
            level: "info",
            message: "Starting agent APIs".into(),
            fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            time: OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_456_789).unwrap(),
        }
    }

    #[test]
    fn text_is_as_logrus_writes_it() {
        let expected =
            "time=\"2023-11-14T22:13:20Z\" level=info msg=\"Starting agent APIs\" a=7 b=\"x y\" e=\n";
        assert_eq!(record().text(true), expected);
        assert!(record().text(false).starts_with("time=\"2023-11-14T22:13:20.123456789Z\""));
    }

    #[test]
    fn json_is_as_logrus_writes_it() {
        let expected = r#"{"a":7,"b":"x y","e":"","level":"info","msg":"Starting agent APIs","time":"2023-11-14T22:13:20.123456789Z"}"#;
        assert_eq!(record().json().trim_end(), expected);
    }

    #[test]
    fn texts_are_quoted_as_by_go() {
        for (text, expected) in [
            ("", ""),
            ("a-b._/@^+Z9", "a-b._/@^+Z9"),
            ("a b", r#""a b""#),
            ("it's", r#""it's""#),
            (r#"a "b" \c"#, r#""a \"b\" \\c""#),
            ("\u{7}\u{8}\u{c}\n\r\t\u{b}", r#""\a\b\f\n\r\t\v""#),
            ("\0\x1b\x7f", r#""\x00\x1b\x7f""#),
            ("ünï 漢字 🦀", r#""ünï 漢字 🦀""#),
            ("e\u{301}\u{200b}\u{feff}\u{a0}", "\"e\u{301}\\u200b\\ufeff\\u00a0\""),
            ("\u{e0001}", r#""\U000e0001""#),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }

    #[test]
    fn json_is_safe_in_html_as_by_go() {
        let mut record = record();
        record.message = "<a> & \u{2028}".into();
        assert!(record.json().contains(r#""msg":"\u003ca\u003e \u0026 \u2028""#), "{}", record.json());
    }
}
