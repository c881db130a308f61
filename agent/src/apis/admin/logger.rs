//! The Logger service: reads and sets the log level while the agent runs.

use config::LogLevel;
use proto::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest};
use proto::types;
use tonic::Status;
use tracing::info;

use crate::door::Anonymous;
use crate::logging;

/// The service `spire.api.agent.logger.v1.Logger`.
#[derive(Debug)]
pub(super) struct Logger {
    /// The level of agent.conf.
    launch: LogLevel,
}

impl Logger {
    pub(super) fn new(launch: LogLevel) -> Self {
        Self { launch }
    }

    pub(super) fn get(&self, _: Anonymous, _: GetLoggerRequest) -> types::Logger {
        info!(method = "GetLogger", "GetLogger Called");
        self.levels()
    }

    pub(super) fn set(&self, _: Anonymous, request: SetLogLevelRequest) -> Result<types::Logger, Status> {
        let level = types::LogLevel::try_from(request.new_level)
            .map_err(|_| Status::invalid_argument("unsupported log level"))?;
        let level = from_wire(level)
            .ok_or_else(|| Status::invalid_argument("newLevel value cannot be LogLevel_UNSPECIFIED"))?;
        info!(method = "SetLogLevel", new_log_level = %level, "SetLogLevel Called");
        logging::set_level(level);
        Ok(self.levels())
    }

    pub(super) fn reset(&self, _: Anonymous, _: ResetLogLevelRequest) -> types::Logger {
        info!(method = "ResetLogLevel", launch_log_level = %self.launch, "ResetLogLevel Called");
        logging::set_level(self.launch);
        self.levels()
    }

    fn levels(&self) -> types::Logger {
        let level = |level| i32::from(to_wire(level));
        let current = logging::level().unwrap_or(self.launch);
        types::Logger { current_level: level(current), launch_level: level(self.launch) }
    }
}

fn to_wire(level: LogLevel) -> types::LogLevel {
    match level {
        LogLevel::Panic => types::LogLevel::Panic,
        LogLevel::Fatal => types::LogLevel::Fatal,
        LogLevel::Error => types::LogLevel::Error,
        LogLevel::Warn => types::LogLevel::Warn,
        LogLevel::Info => types::LogLevel::Info,
        LogLevel::Debug => types::LogLevel::Debug,
        LogLevel::Trace => types::LogLevel::Trace,
    }
}

/// The level; `None` if it is unspecified.
fn from_wire(level: types::LogLevel) -> Option<LogLevel> {
    Some(match level {
        types::LogLevel::Unspecified => return None,
        types::LogLevel::Panic => LogLevel::Panic,
        types::LogLevel::Fatal => LogLevel::Fatal,
        types::LogLevel::Error => LogLevel::Error,
        types::LogLevel::Warn => LogLevel::Warn,
        types::LogLevel::Info => LogLevel::Info,
        types::LogLevel::Debug => LogLevel::Debug,
        types::LogLevel::Trace => LogLevel::Trace,
    })
}
