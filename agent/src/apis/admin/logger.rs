//! The level of the log, read and set while the agent runs.

use config::LogLevel;
use proto::logger::logger_server;
use proto::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest};
use proto::types;
use tonic::{Request, Response, Status};
use tracing::info;

use crate::logging;

/// The service.
#[derive(Debug, Clone)]
pub(super) struct Logger {
    /// That of agent.conf.
    launch: LogLevel,
}

impl Logger {
    pub(super) fn new(launch: LogLevel) -> Self {
        Self { launch }
    }

    fn answer(&self) -> Response<types::Logger> {
        let level = |level| i32::from(to_wire(level));
        let current = logging::level().unwrap_or(self.launch);
        Response::new(types::Logger { current_level: level(current), launch_level: level(self.launch) })
    }
}

#[tonic::async_trait]
impl logger_server::Logger for Logger {
    async fn get_logger(&self, _: Request<GetLoggerRequest>) -> Result<Response<types::Logger>, Status> {
        info!("GetLogger Called");
        Ok(self.answer())
    }

    async fn set_log_level(
        &self,
        request: Request<SetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let level = types::LogLevel::try_from(request.get_ref().new_level)
            .map_err(|_| Status::invalid_argument("unsupported log level"))?;
        let level = from_wire(level)
            .ok_or_else(|| Status::invalid_argument("newLevel value cannot be LogLevel_UNSPECIFIED"))?;
        info!(new_log_level = %level, "SetLogLevel Called");
        logging::set_level(level);
        Ok(self.answer())
    }

    async fn reset_log_level(
        &self,
        _: Request<ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        info!(launch_log_level = %self.launch, "ResetLogLevel Called");
        logging::set_level(self.launch);
        Ok(self.answer())
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

/// `None`: unspecified.
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
