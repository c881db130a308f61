//! Reads `log_level` and `log_format`.

use super::{Agent, accept};
use crate::{LogFormat, LogLevel};

impl Agent<'_> {
    pub(super) fn log_level(&self) -> LogLevel {
        let level = self.text("log_level", self.overrides.log_level.as_ref());
        level.map_or_else(LogLevel::default, |text| accept(&self.section, &text, parse_level))
    }

    pub(super) fn log_format(&self) -> LogFormat {
        let format = self.text("log_format", self.overrides.log_format.as_ref());
        format.map_or_else(LogFormat::default, |text| accept(&self.section, &text, parse_format))
    }
}

fn parse_level(name: &str) -> Result<LogLevel, String> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "panic" => LogLevel::Panic,
        "fatal" => LogLevel::Fatal,
        "error" => LogLevel::Error,
        "warn" | "warning" => LogLevel::Warn,
        "info" => LogLevel::Info,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
        _ => {
            return Err(format!(
                "could not start logger: not a valid logrus Level: {name:?}; \
                 write one of panic, fatal, error, warn, info, debug, trace"
            ));
        }
    })
}

fn parse_format(name: &str) -> Result<LogFormat, String> {
    match name.to_ascii_lowercase().as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("could not start logger: unknown logger format: {name:?}; write text or json")),
    }
}
