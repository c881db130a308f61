//! Logs in spire-agent's form: logrus `text` and `json`, its levels, and a log file (SPIRE, `pkg/common/log`).
//!
//! The subscriber is our own because the agent uses no spans and the form is given: the time first, the message under
//! `msg`, and the fields sorted. Targets of other crates are capped at `warn`, so that no level prints a header or a
//! token.
//!
//! A caller that logs never waits. It puts its line into a bounded queue, and a thread of its own writes the queue out.
//! If nobody reads standard output or the disk is slow, the least important lines are left out and counted.

mod exported;
mod origin;
mod queue;
mod record;
mod writer;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use config::{LogFormat, LogLevel};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use time::OffsetDateTime;
use tracing::{Event, Level, Metadata, Subscriber, span};

use crate::otlp::Records;
use record::{Fields, Record, Value};
use writer::{Sink, Writer};

/// Starts logging for the whole process, and the thread that writes the lines to `file`, or to standard output without
/// one. `location` adds to each line where it comes from: `file` (name and line) and `func` (the module), as spire-agent
/// does.
///
/// # Errors
/// If the log file cannot be opened or the system refuses a thread.
pub fn start(level: LogLevel, format: LogFormat, file: Option<&Path>, location: bool) -> io::Result<()> {
    // A second start in one process (tests) keeps the first.
    if STARTED.get().is_some() {
        return Ok(());
    }
    let sink: Sink = match file {
        Some(path) => Box::new(open(path)?),
        None => Box::new(io::stdout()),
    };
    let writer = Writer::start(sink, QUEUE_BYTES, left_out(format))?;
    LEVEL.store(level as u8, Ordering::Relaxed);
    let logger = Logger { format, location, writer: Arc::clone(&writer) };
    if STARTED.set(Started { writer, file: file.map(Path::to_owned) }).is_ok() {
        let _ = tracing::subscriber::set_global_default(logger);
    }
    Ok(())
}

/// Puts each line of the agent's own, from now on, into this queue, too.
pub(crate) fn also_to(records: Arc<Records>) {
    let _ = RECORDS.set(records);
}

/// Reopens the log file after log rotation has moved it (SPIRE does so on SIGUSR2). Lines logged after this returns go
/// to the new file. A blocking thread waits for the disk.
///
/// # Errors
/// If the file cannot be opened. The old one stays in use.
pub async fn reopen() -> io::Result<()> {
    let Some(Started { writer, file: Some(path) }) = STARTED.get() else { return Ok(()) };
    let file = tokio::task::spawn_blocking(|| open(path)).await.map_err(io::Error::other)??;
    writer.switch(Box::new(file));
    Ok(())
}

/// The present log level; `None` before logging is started.
pub(crate) fn level() -> Option<LogLevel> {
    let level = LEVEL.load(Ordering::Relaxed);
    LEVELS.into_iter().find(|one| *one as u8 == level)
}

/// Changes the log level.
pub(crate) fn set_level(level: LogLevel) {
    LEVEL.store(level as u8, Ordering::Relaxed);
    // Each call site of `tracing` caches whether its level is on.
    tracing::callsite::rebuild_interest_cache();
}

/// Waits until all lines logged so far are written. The end of the process ends the writing thread too, so this is
/// called before. Gives up after `timeout`, because nobody may be reading the log.
pub fn flush(timeout: Duration) {
    if let Some(Started { writer, .. }) = STARTED.get() {
        writer.flush(timeout);
    }
}

/// Opens a log file, and creates it if it is missing. Never blocks.
///
/// # Errors
/// If the file cannot be opened, also if it is a FIFO that nobody reads.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Without this flag, opening a FIFO waits for its reader. It makes no difference for a regular file.
    options.append(true).create(true).mode(0o640).custom_flags(OFlag::O_NONBLOCK.bits());
    let file = options.open(path).map_err(|reason| {
        let unread = reason.raw_os_error() == Some(Errno::ENXIO as i32);
        if unread && path.metadata().is_ok_and(|found| found.file_type().is_fifo()) {
            io::Error::other("is a FIFO that nobody reads: start its reader first, or give a regular file")
        } else {
            reason
        }
    })?;
    // The writing thread may block, so that it does not lose lines when a pipe is full.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(file)
}

struct Started {
    writer: Arc<Writer>,
    /// The path of the log file; `None` for standard output.
    file: Option<PathBuf>,
}

/// The present [`LogLevel`] as a number; `u8::MAX` before logging is started.
static LEVEL: AtomicU8 = AtomicU8::new(u8::MAX);
const LEVELS: [LogLevel; 7] = [
    LogLevel::Panic,
    LogLevel::Fatal,
    LogLevel::Error,
    LogLevel::Warn,
    LogLevel::Info,
    LogLevel::Debug,
    LogLevel::Trace,
];

/// The queue of a receiver of OTLP, if one is configured.
static RECORDS: OnceLock<Arc<Records>> = OnceLock::new();

static STARTED: OnceLock<Started> = OnceLock::new();

/// The most bytes of lines that wait to be written. This is about two thousand lines: minutes of an agent at `info`,
/// and memory that an agent can always spare.
const QUEUE_BYTES: usize = 256 * 1024;

/// The number of lines that were left out because nobody read them, as far as the log has told it.
pub(crate) fn lines_left_out() -> u64 {
    LEFT_OUT.load(Ordering::Relaxed)
}

static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// A function that makes the log line, in the configured form, that tells how many lines were left out.
fn left_out(format: LogFormat) -> fn(u64) -> String {
    fn record(count: u64) -> Record<'static> {
        LEFT_OUT.fetch_add(count, Ordering::Relaxed);
        Record {
            level: "warning",
            message: "Log lines were left out: the reader of the log is slow".to_owned(),
            fields: BTreeMap::from([("count".to_owned(), Value::Bare(count.to_string()))]),
            time: OffsetDateTime::now_utc(),
        }
    }
    match format {
        LogFormat::Json => |count| record(count).line(LogFormat::Json),
        LogFormat::Text => |count| record(count).line(LogFormat::Text),
        LogFormat::Default => |count| record(count).line(LogFormat::Default),
    }
}

/// Writes one line in the text form to standard output. For errors that occur before logging is started.
pub fn line(level: &str, message: &str, fields: &[(&str, String)]) {
    let fields =
        fields.iter().map(|(name, value)| ((*name).to_owned(), Value::Text(value.clone()))).collect();
    let record = Record { level, message: message.to_owned(), fields, time: OffsetDateTime::now_utc() };
    let _ = io::stdout().write_all(record.text(true).as_bytes());
}

struct Logger {
    format: LogFormat,
    location: bool,
    writer: Arc<Writer>,
}

impl Subscriber for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let level = match level() {
            Some(LogLevel::Panic) => return false,
            Some(LogLevel::Fatal) => return metadata.target() == FATAL && !metadata.is_span(),
            level => level.map_or(Level::INFO, tracing_level),
        };
        let most = if ours(metadata.target()) {
            level
        } else if metadata.target().starts_with("kube") {
            // These crates log each error that they also return, and without its cause.
            return false;
        } else {
            level.min(Level::WARN)
        };
        // `tracing::enabled!` asks with metadata that is not an event, so only spans are excluded.
        !metadata.is_span() && *metadata.level() <= most
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(level().map_or(Level::INFO, tracing_level).into())
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let (metadata, named) = (event.metadata(), &mut fields.fields);
        let module = metadata.module_path().unwrap_or_else(|| metadata.target());
        // A line that belongs elsewhere names a target; the target is the module otherwise.
        for (name, value) in origin::fields(metadata.target()) {
            match named.get(*name) {
                None => drop(named.insert((*name).to_owned(), Value::constant(value))),
                Some(own) if own.is_empty() => drop(named.remove(*name)),
                Some(_) => {}
            }
        }
        if self.location {
            let file = metadata.file().and_then(|file| Path::new(file).file_name()).unwrap_or_default();
            let line = metadata.line().unwrap_or_default();
            named.insert("file".into(), Value::Text(format!("{}:{line}", file.display())));
            named.insert("func".into(), Value::Text(module.to_owned()));
        }
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let record =
            Record { level, message: fields.message, fields: fields.fields, time: OffsetDateTime::now_utc() };
        self.writer.push(*metadata.level(), record.line(self.format));
        if let Some(records) = RECORDS.get()
            && exported::is_wanted(metadata.target(), module)
        {
            records.push(exported::record(record, *metadata.level()));
        }
    }

    // The agent uses no spans, so all have one id.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Whether a log target belongs to a crate of this workspace.
fn ours(target: &str) -> bool {
    let crate_name = target.split("::").next().unwrap_or_default();
    matches!(
        crate_name,
        "agent"
            | "attestors"
            | "budget"
            | "cache"
            | "config"
            | "finial"
            | "http2"
            | "identity"
            | "sds"
            | "transport"
    )
}

/// The target of the line that tells why the agent ends, which the level `fatal` still shows. spire-agent writes it at the
/// level `error`, and nothing at `fatal` and `panic`.
pub(crate) const FATAL: &str = "agent::fatal";

fn tracing_level(level: LogLevel) -> Level {
    match level {
        LogLevel::Panic | LogLevel::Fatal | LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    }
}

#[cfg(test)]
mod tests;
