//! Go's `flag` package: a flag has one or two dashes, `-f v` equals `-f=v`, switches never take the next word, and
//! parsing stops at the first word that is not a flag. spire-agent's commands ignore the words after that.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::print::Format;
use crate::golang;

/// The flags of one command.
#[derive(Debug)]
pub(super) struct FlagSet {
    /// The name in the title of the usage.
    pub(super) name: &'static str,
    /// Sorted by name.
    pub(super) flags: &'static [Flag],
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    name: &'static str,
    kind: Kind,
    usage: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A text, with its default.
    Text(&'static str),
    Switch,
    Integer,
    /// A duration, with its default in seconds.
    Duration(u64),
    /// Texts with commas between.
    List,
    /// Texts, one for each time that the flag is given.
    Many,
    Format,
}

/// A flag whose value is any text.
pub(super) const fn text(name: &'static str, default: &'static str, usage: &'static str) -> Flag {
    Flag { name, kind: Kind::Text(default), usage }
}

/// A flag that is on or off.
pub(super) const fn switch(name: &'static str, usage: &'static str) -> Flag {
    Flag { name, kind: Kind::Switch, usage }
}

/// A flag whose value is an integer.
pub(super) const fn integer(name: &'static str, usage: &'static str) -> Flag {
    Flag { name, kind: Kind::Integer, usage }
}

/// A flag whose value is a duration; `seconds` is the default.
pub(super) const fn duration(name: &'static str, seconds: u64, usage: &'static str) -> Flag {
    Flag { name, kind: Kind::Duration(seconds), usage }
}

/// A flag whose value is a list of texts with commas between. Given again it replaces the list.
pub(super) const fn list(name: &'static str, usage: &'static str) -> Flag {
    Flag { name, kind: Kind::List, usage }
}

/// A flag that can be given several times, with a text each time.
pub(super) const fn many(name: &'static str, usage: &'static str) -> Flag {
    Flag { name, kind: Kind::Many, usage }
}

/// An old name of the flag `-output`. They may both be given if they agree.
pub(super) const fn old_output(name: &'static str, usage: &'static str) -> Flag {
    Flag { name, kind: Kind::Format, usage }
}

/// The flag `-output`.
pub(super) const fn output() -> Flag {
    Flag { name: OUTPUT, kind: Kind::Format, usage: "Desired output format (pretty, json); default: pretty." }
}

/// Two sorted lists of flags as one, which is sorted too. `N` is the sum of their lengths.
pub(super) const fn merged<const N: usize>(one: &[Flag], other: &[Flag]) -> [Flag; N] {
    let mut all = [output(); N];
    let (mut left, mut right) = (0, 0);
    while left + right < N {
        let from_one = right == other.len() || left < one.len() && precedes(&one[left], &other[right]);
        all[left + right] = if from_one { one[left] } else { other[right] };
        if from_one { left += 1 } else { right += 1 }
    }
    all
}

/// Whether the name of one flag comes before that of another.
const fn precedes(one: &Flag, other: &Flag) -> bool {
    let (one, other) = (one.name.as_bytes(), other.name.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() {
        if one[at] != other[at] {
            return one[at] < other[at];
        }
        at += 1;
    }
    one.len() < other.len()
}

impl FlagSet {
    /// Parses the words after the command.
    ///
    /// # Errors
    /// The error of the first invalid word.
    pub(super) fn parse(&self, arguments: &[String]) -> Result<Values, FlagError> {
        let mut values = Values { set: self.flags, given: BTreeMap::new(), rest: Vec::new() };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let Some(body) = word.strip_prefix('-').filter(|body| !body.is_empty()) else {
                values.rest.push(word.clone());
                break;
            };
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
            let name = if matches!(flag.kind, Kind::Format) { OUTPUT } else { flag.name };
            let value = flag.read(value, values.given.get(name))?;
            values.given.insert(name, value);
        }
        values.rest.extend(words.cloned());
        Ok(values)
    }

    /// The usage: a title and Go's `PrintDefaults`, without the last newline.
    pub(super) fn usage(&self) -> String {
        let mut text = format!("Usage of {}:", self.name);
        for flag in self.flags {
            let (kind, default) = match flag.kind {
                Kind::Text("") => (" string", String::new()),
                Kind::Text(default) => (" string", format!(" (default {default:?})")),
                Kind::Switch => ("", String::new()),
                Kind::Integer => (" int", String::new()),
                Kind::Duration(seconds) => (" value", format!(" (default {seconds}s)")),
                Kind::List | Kind::Many | Kind::Format => (" value", String::new()),
            };
            let _ = write!(text, "\n  -{}{kind}\n    \t{}{default}", flag.name, flag.usage);
        }
        text
    }
}

impl Flag {
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it never takes the next word.
    pub(super) fn is_switch(&self) -> bool {
        matches!(self.kind, Kind::Switch)
    }

    /// What its value is called; `None` for a switch.
    pub(super) fn value(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Switch => None,
            Kind::Text(_) => Some("text"),
            Kind::Integer => Some("number"),
            Kind::Duration(_) => Some("duration"),
            Kind::List => Some("list"),
            Kind::Many => Some("text"),
            Kind::Format => Some("format"),
        }
    }

    /// Its usage, with the default.
    pub(super) fn explained(&self) -> String {
        match self.kind {
            Kind::Text(default) if !default.is_empty() => format!("{} (default {default})", self.usage),
            Kind::Duration(seconds) => format!("{} (default {seconds}s)", self.usage),
            _ => self.usage.to_owned(),
        }
    }

    /// Parses a value. `before` is the value of an earlier occurrence of this flag.
    fn read(&self, text: &str, before: Option<&Value>) -> Result<Value, FlagError> {
        let refuse = |reason| FlagError::Invalid { flag: self.name, value: text.to_owned(), reason };
        match self.kind {
            Kind::Text(_) | Kind::List => Ok(Value::Text(text.to_owned())),
            Kind::Many => {
                let mut texts = match before {
                    Some(Value::Many(texts)) => texts.clone(),
                    _ => Vec::new(),
                };
                texts.push(text.to_owned());
                Ok(Value::Many(texts))
            }
            Kind::Switch => golang::parse_bool(text)
                .map(Value::Switch)
                .ok_or_else(|| FlagError::Switch { flag: self.name, value: text.to_owned() }),
            Kind::Integer => {
                golang::parse_int(text).map(Value::Integer).map_err(|reason| refuse(reason.to_owned()))
            }
            Kind::Duration(_) => golang::parse_duration(text).map(Value::Duration).map_err(refuse),
            Kind::Format => {
                // spire-agent compares the word with its own name of the format, so `JSON` differs from `json`.
                if let Some(Value::Format(before)) = before
                    && before.name() != text
                {
                    let name = before.name();
                    return Err(refuse(format!("the output format has already been set to {name:?}")));
                }
                let format = Format::parse(text).map_err(|reason| refuse(reason.to_string()))?;
                Ok(Value::Format(format))
            }
        }
    }
}

/// The parsed flags, with the defaults of those that were not given.
#[derive(Debug)]
pub(super) struct Values {
    set: &'static [Flag],
    given: BTreeMap<&'static str, Value>,
    /// The words after the flags.
    rest: Vec<String>,
}

#[derive(Debug)]
enum Value {
    Text(String),
    Many(Vec<String>),
    Switch(bool),
    Integer(i64),
    Duration(Option<Duration>),
    Format(Format),
}

impl Values {
    /// The text of a flag, or its default.
    pub(super) fn text(&self, name: &str) -> &str {
        match self.given.get(name) {
            Some(Value::Text(text)) => text,
            _ => self.set.iter().find(|flag| flag.name == name).map_or("", |flag| match flag.kind {
                Kind::Text(default) => default,
                _ => "",
            }),
        }
    }

    /// The text of a flag, if it was given.
    pub(super) fn given_text(&self, name: &str) -> Option<String> {
        if let Some(Value::Text(text)) = self.given.get(name) { Some(text.clone()) } else { None }
    }

    /// The texts of a list; none if it was not given. An empty value is a list of one empty text, as Go splits it.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let given = self.given_text(name);
        given.iter().flat_map(|text| text.split(',')).map(str::to_owned).collect()
    }

    /// The texts of a flag that can be given several times.
    pub(super) fn many(&self, name: &str) -> Vec<String> {
        if let Some(Value::Many(texts)) = self.given.get(name) { texts.clone() } else { Vec::new() }
    }

    /// The words after the flags. spire-agent's commands ignore them.
    pub(super) fn rest(&self) -> &[String] {
        &self.rest
    }

    /// The value of a switch, if it was given.
    pub(super) fn given_switch(&self, name: &str) -> Option<bool> {
        if let Some(Value::Switch(on)) = self.given.get(name) { Some(*on) } else { None }
    }

    /// Whether a switch is on; off if it was not given.
    pub(super) fn switch(&self, name: &str) -> bool {
        self.given_switch(name).unwrap_or_default()
    }

    /// The number of a flag, if it was given.
    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        if let Some(Value::Integer(number)) = self.given.get(name) { Some(*number) } else { None }
    }

    /// The duration of a flag, or its default; `None` if it is not positive.
    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        match self.given.get(name) {
            Some(Value::Duration(duration)) => *duration,
            _ => self.set.iter().find(|flag| flag.name == name).and_then(|flag| match flag.kind {
                Kind::Duration(seconds) => Some(Duration::from_secs(seconds)),
                _ => None,
            }),
        }
    }

    /// The value of `-output`, or its default.
    pub(super) fn format(&self) -> Format {
        if let Some(Value::Format(format)) = self.given.get(OUTPUT) { *format } else { Format::default() }
    }
}

/// Why flags cannot be parsed, in Go's words.
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

const OUTPUT: &str = "output";

#[cfg(test)]
mod tests;
