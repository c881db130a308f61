//! Go's `flag` package: one or two dashes, `-f v` or `-f=v`, switches never take the next word, and parsing stops at
//! the first word that is no flag. What follows there is ignored by every command, as by spire-agent's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::golang;
use super::print::Format;

/// The flags of one command.
#[derive(Debug)]
pub(super) struct FlagSet {
    /// What the usage is titled with.
    pub(super) name: &'static str,
    /// Sorted by name.
    pub(super) flags: &'static [Flag],
}

/// One flag.
#[derive(Debug)]
pub(super) struct Flag {
    name: &'static str,
    kind: Kind,
    usage: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// With its default.
    Text(&'static str),
    Switch,
    Integer,
    /// With its default, in seconds.
    Duration(u64),
    Format,
}

/// A flag with any text for a value.
pub(super) const fn text(name: &'static str, default: &'static str, usage: &'static str) -> Flag {
    Flag { name, kind: Kind::Text(default), usage }
}

/// A flag that is there or not.
pub(super) const fn switch(name: &'static str, usage: &'static str) -> Flag {
    Flag { name, kind: Kind::Switch, usage }
}

/// A flag with a number.
pub(super) const fn integer(name: &'static str, usage: &'static str) -> Flag {
    Flag { name, kind: Kind::Integer, usage }
}

/// A flag with a duration, which is `seconds` without it.
pub(super) const fn duration(name: &'static str, seconds: u64, usage: &'static str) -> Flag {
    Flag { name, kind: Kind::Duration(seconds), usage }
}

/// `-output`.
pub(super) const fn output() -> Flag {
    Flag {
        name: "output",
        kind: Kind::Format,
        usage: "Desired output format (pretty, json); default: pretty.",
    }
}

impl FlagSet {
    /// Reads the words after the command.
    ///
    /// # Errors
    /// At the first word that is wrong.
    pub(super) fn parse(&self, arguments: &[String]) -> Result<Values, FlagError> {
        let mut values = Values { set: self.flags, given: BTreeMap::new() };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let Some(body) = word.strip_prefix('-').filter(|body| !body.is_empty()) else { break };
            if body == "-" {
                break;
            }
            let body = body.strip_prefix('-').unwrap_or(body);
            if body.starts_with(['-', '=']) {
                return Err(FlagError::Syntax(word.clone()));
            }
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (body, None),
            };
            let flag = self.flags.iter().find(|flag| flag.name == name);
            let flag = flag.ok_or_else(|| FlagError::Undefined(name.to_owned()))?;
            let value = match (value, flag.kind) {
                (Some(value), _) => value,
                (None, Kind::Switch) => "true",
                (None, _) => words.next().ok_or(FlagError::Missing(flag.name))?,
            };
            let value = flag.read(value, values.given.get(flag.name))?;
            values.given.insert(flag.name, value);
        }
        Ok(values)
    }

    /// Go's `PrintDefaults` under its title, without the last line end.
    pub(super) fn usage(&self) -> String {
        let mut text = format!("Usage of {}:", self.name);
        for flag in self.flags {
            let (kind, default) = match flag.kind {
                Kind::Text("") => (" string", String::new()),
                Kind::Text(default) => (" string", format!(" (default {default:?})")),
                Kind::Switch => ("", String::new()),
                Kind::Integer => (" int", String::new()),
                Kind::Duration(seconds) => (" value", format!(" (default {seconds}s)")),
                Kind::Format => (" value", String::new()),
            };
            let _ = write!(text, "\n  -{}{kind}\n    \t{}{default}", flag.name, flag.usage);
        }
        text
    }
}

impl Flag {
    fn read(&self, text: &str, before: Option<&Value>) -> Result<Value, FlagError> {
        let refuse = |reason| FlagError::Invalid { flag: self.name, value: text.to_owned(), reason };
        match self.kind {
            Kind::Text(_) => Ok(Value::Text(text.to_owned())),
            Kind::Switch => golang::parse_bool(text)
                .map(Value::Switch)
                .ok_or_else(|| FlagError::Switch { flag: self.name, value: text.to_owned() }),
            Kind::Integer => {
                golang::parse_int(text).map(Value::Integer).map_err(|reason| refuse(reason.to_owned()))
            }
            Kind::Duration(_) => golang::parse_duration(text).map(Value::Duration).map_err(refuse),
            Kind::Format => {
                let format = Format::parse(text).map_err(|reason| refuse(reason.to_string()))?;
                match before {
                    Some(Value::Format(before)) if *before != format => {
                        Err(refuse(format!("the output format has already been set to {:?}", before.name())))
                    }
                    _ => Ok(Value::Format(format)),
                }
            }
        }
    }
}

/// The flags that were given, and the defaults of the others.
#[derive(Debug)]
pub(super) struct Values {
    set: &'static [Flag],
    given: BTreeMap<&'static str, Value>,
}

#[derive(Debug)]
enum Value {
    Text(String),
    Switch(bool),
    Integer(i64),
    Duration(Option<Duration>),
    Format(Format),
}

impl Values {
    /// The text, or its default.
    pub(super) fn text(&self, name: &str) -> &str {
        match self.given.get(name) {
            Some(Value::Text(text)) => text,
            _ => self.set.iter().find(|flag| flag.name == name).map_or("", |flag| match flag.kind {
                Kind::Text(default) => default,
                _ => "",
            }),
        }
    }

    /// The text, if it was given.
    pub(super) fn given_text(&self, name: &str) -> Option<String> {
        if let Some(Value::Text(text)) = self.given.get(name) { Some(text.clone()) } else { None }
    }

    /// Whether it was turned on or off.
    pub(super) fn given_switch(&self, name: &str) -> Option<bool> {
        if let Some(Value::Switch(on)) = self.given.get(name) { Some(*on) } else { None }
    }

    /// Whether it is on.
    pub(super) fn switch(&self, name: &str) -> bool {
        self.given_switch(name).unwrap_or_default()
    }

    /// The number, if it was given.
    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        if let Some(Value::Integer(number)) = self.given.get(name) { Some(*number) } else { None }
    }

    /// The duration, or its default; none if it is not positive.
    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        match self.given.get(name) {
            Some(Value::Duration(duration)) => *duration,
            _ => self.set.iter().find(|flag| flag.name == name).and_then(|flag| match flag.kind {
                Kind::Duration(seconds) => Some(Duration::from_secs(seconds)),
                _ => None,
            }),
        }
    }

    /// `-output`.
    pub(super) fn format(&self) -> Format {
        if let Some(Value::Format(format)) = self.given.get("output") { *format } else { Format::default() }
    }
}

/// Why flags cannot be read, in Go's words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FlagError {
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    #[error("flag provided but not defined: -{0}")]
    Undefined(String),
    #[error("flag needs an argument: -{0}")]
    Missing(&'static str),
    #[error("invalid boolean value {value:?} for -{flag}: parse error")]
    Switch { flag: &'static str, value: String },
    #[error("invalid value {value:?} for flag -{flag}: {reason}")]
    Invalid { flag: &'static str, value: String, reason: String },
}

#[cfg(test)]
mod tests;
