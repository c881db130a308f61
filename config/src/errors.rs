//! The problems of a configuration, all at once, and its warnings.

use std::fmt;

use thiserror::Error;

/// Everything that keeps a configuration from being used.
///
/// It is displayed with one problem on each line, and with `unknown configuration detected` (SPIRE's words) at the
/// end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Error)]
pub struct Errors {
    /// The problems, in the order of the file. Those without a line come first.
    pub problems: Vec<Problem>,
    /// Keys that spire-agent does not know either, by section. For each section spire-agent logs `Unknown
    /// configuration detected` with the fields `section` and `keys`.
    pub unknown: Vec<Unknown>,
}

impl Errors {
    pub(crate) fn is_empty(&self) -> bool {
        self.problems.is_empty() && self.unknown.is_empty()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for problem in &self.problems {
            write!(f, "{separator}{problem}")?;
            separator = "\n";
        }
        if self.unknown.is_empty() {
            return Ok(());
        }
        write!(f, "{separator}unknown configuration detected")?;
        for unknown in &self.unknown {
            for key in &unknown.keys {
                write!(f, "\n  {}: {key}", unknown.section)?;
            }
        }
        Ok(())
    }
}

/// One thing that must be changed in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line of the file that is wrong; `None` for a flag or something that is missing.
    pub line: Option<u32>,
    /// What is wrong and what to do, in spire-agent's words if it has any.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.line {
            Some(line) => write!(f, " (line {line})"),
            None => Ok(()),
        }
    }
}

/// The unknown keys of one section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// spire-agent's name of the section: `top-level`, `agent`, `health check`, `Prometheus`, …
    pub section: String,
    /// The keys, sorted by name.
    pub keys: Vec<UnknownKey>,
}

impl Unknown {
    /// The value of the log field `keys`: the names, sorted, with commas.
    #[must_use]
    pub fn keys(&self) -> String {
        self.keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>().join(",")
    }
}

/// An unknown key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKey {
    /// The key as it is written.
    pub name: String,
    /// The line of the file.
    pub line: u32,
    /// What to do about it, if an older version had the key.
    pub hint: Option<&'static str>,
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (line {})", self.name, self.line)?;
        match self.hint {
            Some(hint) => write!(f, ": {hint}"),
            None => Ok(()),
        }
    }
}

/// Something to log when the configuration is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The message, in spire-agent's words if it has any.
    pub message: String,
    /// The value of the log field `alert_type`, which comes with `alert=true`, if spire-agent's line has these fields.
    pub alert_type: Option<&'static str>,
}

impl Warning {
    /// The fields of the log line.
    #[must_use]
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let alert = |kind: &str| vec![("alert", "true".to_owned()), ("alert_type", kind.to_owned())];
        self.alert_type.map(alert).unwrap_or_default()
    }
}

impl From<String> for Warning {
    fn from(message: String) -> Self {
        Self { message, alert_type: None }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
