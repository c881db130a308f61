//! The commands `debug getinfo` and `logger …`, which call the agent's admin socket.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use proto::debug::debug_client::DebugClient;
use proto::debug::{GetInfoRequest, GetInfoResponse};
use proto::logger::logger_client::LoggerClient;
use proto::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest};
use proto::types::{LogLevel, Logger};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::client::{self, RpcError};
use super::flags::{Flag, FlagSet, Values, output, text};
use super::print::{Format, escape_html};
use super::{block_on, console};
use crate::golang;

#[cfg(test)]
mod tests;

/// A command of the admin socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admin {
    GetInfo,
    LoggerGet,
    LoggerSet,
    LoggerReset,
}

/// Runs the command.
pub(super) fn run(command: Admin, values: &Values) -> ExitCode {
    if command == Admin::LoggerSet
        && let Err(reason) = level(values)
    {
        console::err(&format!("Error: {reason}"));
        return ExitCode::FAILURE;
    }
    block_on(async {
        match client::within(Some(LIMIT), ask(command, values)).await {
            Ok(text) => {
                console::out(&text);
                ExitCode::SUCCESS
            }
            Err(error) => {
                let task = match command {
                    Admin::GetInfo => "",
                    Admin::LoggerGet => "error fetching logger: ",
                    Admin::LoggerSet => "failed to set log level: ",
                    Admin::LoggerReset => "failed to reset logger: ",
                };
                console::err(&format!("Error: {task}{error}"));
                ExitCode::FAILURE
            }
        }
    })
}

/// The value of `-level`.
fn level(values: &Values) -> Result<LogLevel, String> {
    let given = values.text("level");
    if given.is_empty() {
        return Err("a value (-level) must be set".to_owned());
    }
    match given.to_lowercase().as_str() {
        "panic" => Ok(LogLevel::Panic),
        "fatal" => Ok(LogLevel::Fatal),
        "error" => Ok(LogLevel::Error),
        "warn" | "warning" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        "trace" => Ok(LogLevel::Trace),
        _ => Err(format!("the value {given:?} is not a valid setting")),
    }
}

/// Calls the agent and returns the output.
async fn ask(command: Admin, values: &Values) -> Result<String, RpcError> {
    let channel = client::connect(socket(values)).await?;
    let format = values.format();
    let mut logger = LoggerClient::new(channel.clone());
    let answer = match command {
        Admin::GetInfo => {
            let info = DebugClient::new(channel).get_info(GetInfoRequest {}).await?.into_inner();
            return Ok(match format {
                Format::Pretty => info_text(&info),
                Format::Json => info_json(&info),
            });
        }
        Admin::LoggerGet => logger.get_logger(GetLoggerRequest {}).await?,
        Admin::LoggerReset => logger.reset_log_level(ResetLogLevelRequest {}).await?,
        Admin::LoggerSet => {
            let new_level = level(values).map_or(0, i32::from);
            logger.set_log_level(SetLogLevelRequest { new_level }).await?
        }
    };
    let answer = answer.into_inner();
    Ok(match format {
        Format::Pretty => logger_text(&answer),
        Format::Json => logger_json(&answer),
    })
}

/// The path of the admin socket. An empty `-socketPath`, as from a script with an unset variable, means the default.
pub(super) fn socket(values: &Values) -> &Path {
    Path::new(Some(values.text("socketPath")).filter(|path| !path.is_empty()).unwrap_or(DEFAULT_SOCKET))
}

/// The agent's information as text, without the last newline.
fn info_text(info: &GetInfoResponse) -> String {
    let uptime = Duration::from_secs(info.uptime.try_into().unwrap_or_default());
    let sync = match info.last_sync_success {
        0 => "(never)".to_owned(),
        seconds => time(seconds),
    };
    let mut text = format!(
        "Agent Debug Info:\n\
        \x20 Uptime:                          {}\n\
        \x20 Last Sync Success:               {sync}\n\
        \x20 Cached X.509 SVIDs:              {}\n\
        \x20 Cached JWT SVIDs:                {}\n\
        \x20 Cached SVID Store X.509 SVIDs:   {}",
        golang::duration(uptime),
        info.cached_x509_svids_count,
        info.cached_jwt_svids_count,
        info.cached_svidstore_x509_svids_count,
    );
    if !info.svid_chain.is_empty() {
        text.push_str("\n  SVID Chain:");
    }
    for (place, cert) in info.svid_chain.iter().enumerate() {
        let id = cert
            .id
            .as_ref()
            .map_or_else(|| "(none)".to_owned(), |id| format!("spiffe://{}{}", id.trust_domain, id.path));
        let _ = write!(
            text,
            "\n    [{place}] SPIFFE ID:  {id}\n        Subject:    {}\n        Expires At: {}",
            cert.subject,
            time(cert.expires_at)
        );
    }
    text
}

fn info_json(info: &GetInfoResponse) -> String {
    let chain: Vec<Value> = info
        .svid_chain
        .iter()
        .map(|cert| {
            let mut shown = serde_json::Map::new();
            shown.insert("expires_at".to_owned(), cert.expires_at.to_string().into());
            if let Some(id) = &cert.id {
                shown.insert("id".to_owned(), json!({"path": id.path, "trust_domain": id.trust_domain}));
            }
            shown.insert("subject".to_owned(), cert.subject.clone().into());
            Value::Object(shown)
        })
        .collect();
    escape_html(
        &json!({
            "cached_jwt_svids_count": info.cached_jwt_svids_count,
            "cached_svidstore_x509_svids_count": info.cached_svidstore_x509_svids_count,
            "cached_x509_svids_count": info.cached_x509_svids_count,
            "last_sync_success": info.last_sync_success.to_string(),
            "svid_chain": chain,
            "svids_count": info.svids_count,
            "uptime": info.uptime,
        })
        .to_string(),
    )
}

/// The two levels as text: two lines and an empty one, without the last newline.
fn logger_text(logger: &Logger) -> String {
    format!(
        "Logger Level : {}\nLaunch Level : {}\n",
        name(logger.current_level()),
        name(logger.launch_level())
    )
}

fn logger_json(logger: &Logger) -> String {
    json!({
        "current_level": logger.current_level().as_str_name(),
        "launch_level": logger.launch_level().as_str_name(),
    })
    .to_string()
}

/// The name of a level, as logrus prints it.
fn name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Unspecified => "unspecified",
        LogLevel::Panic => "panic",
        LogLevel::Fatal => "fatal",
        LogLevel::Error => "error",
        LogLevel::Warn => "warning",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

/// A Unix time in RFC 3339, as Go prints it.
fn time(seconds: i64) -> String {
    let format = &time::format_description::well_known::Rfc3339;
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|time| time.format(format).ok());
    time.unwrap_or_else(|| seconds.to_string())
}

/// How long a command waits for an agent that does not answer.
const LIMIT: Duration = client::CONNECT_LIMIT;

const DEFAULT_SOCKET: &str = "/tmp/spire-agent/private/admin.sock";
pub(super) const SOCKET: Flag =
    text("socketPath", DEFAULT_SOCKET, "Path to the SPIRE Agent admin API socket");
pub(super) const GET_INFO: FlagSet = FlagSet { name: "debug getinfo", flags: &[output(), SOCKET] };
pub(super) const LOGGER_GET: FlagSet = FlagSet { name: "logger get", flags: &[output(), SOCKET] };
pub(super) const LOGGER_RESET: FlagSet = FlagSet { name: "logger reset", flags: &[output(), SOCKET] };
pub(super) const LOGGER_SET: FlagSet = FlagSet {
    name: "logger set",
    flags: &[
        text("level", "", "The new log level, one of (panic, fatal, error, warn, info, debug, trace)"),
        output(),
        SOCKET,
    ],
};
