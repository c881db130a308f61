//! Logs in spire-agent's form: logrus `text` and `json`, its levels, and a log file (SPIRE, `pkg/common/log`).
//!
//! The subscriber is our own because the agent uses no spans and the form is given: the time first, the message under
//! `msg`, and the fields sorted. Targets of other crates are capped at `warn`, so that no level prints a header or a
//! token.
//!
//! A caller that logs never waits. It puts its line into a bounded queue, and a thread of its own writes the queue out.
//! If nobody reads standard output or the disk is slow, the least important lines are left out and counted.

mod queue;
mod writer;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use config::{LogFormat, LogLevel};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

use writer::{Sink, Writer};

/// Starts logging for the whole process, and the thread that writes the lines to `file`, or to standard output without
/// one. `location` adds the source file and line to each log line.
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

static STARTED: OnceLock<Started> = OnceLock::new();

/// The most bytes of lines that wait to be written. This is about two thousand lines: minutes of an agent at `info`,
/// and memory that an agent can always spare.
const QUEUE_BYTES: usize = 256 * 1024;

/// A function that makes the log line, in the configured form, that tells how many lines were left out.
fn left_out(format: LogFormat) -> fn(u64) -> String {
    fn record(count: u64) -> Record<'static> {
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
        let level = level().map_or(Level::INFO, tracing_level);
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
        if self.location
            && let (Some(file), Some(line)) = (event.metadata().file(), event.metadata().line())
        {
            fields.fields.insert("file".into(), Value::Text(format!("{file}:{line}")));
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
        self.writer.push(*event.metadata().level(), record.line(self.format));
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

#[derive(Default)]
struct Fields {
    message: String,
    fields: BTreeMap<String, Value>,
}

#[derive(Clone)]
enum Value {
    Text(String),
    /// A number or a boolean, which JSON writes without quotes.
    Bare(String),
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
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Bare(value.to_string()));
    }
}

struct Record<'a> {
    level: &'a str,
    message: String,
    fields: BTreeMap<String, Value>,
    time: OffsetDateTime,
}

impl Record<'_> {
    fn line(&self, format: LogFormat) -> String {
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

    fn text(&self, whole_seconds: bool) -> String {
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

    fn json(&self) -> String {
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
        format!("{}\n", serde_json::Value::Object(object))
    }
}

/// The text, quoted if logrus would quote it: if it is empty or has a character other than these.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/@^+".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) { text.to_owned() } else { format!("{text:?}") }
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
    fn a_fifo_is_a_log_file_once_somebody_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reason = open(&fifo).unwrap_err().to_string();
        assert!(reason.starts_with("is a FIFO that nobody reads: start its reader first"), "{reason}");
        let mut reader = OpenOptions::new();
        let _reads = reader.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&fifo).unwrap();
        let file = open(&fifo).unwrap();
        let flags = OFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK), "a line must not be lost where the reader is slow");
        open(Path::new("/dev/null")).unwrap();
    }

    #[test]
    fn whoever_asks_is_told_which_levels_are_on() {
        let writer = Writer::start(Box::new(io::sink()), QUEUE_BYTES, left_out(LogFormat::Text)).unwrap();
        let logger = Logger { format: LogFormat::Text, location: false, writer };
        tracing::subscriber::with_default(logger, || {
            assert!(tracing::enabled!(Level::INFO));
            assert!(!tracing::enabled!(Level::DEBUG));
        });
    }

    #[test]
    fn text_is_as_logrus_writes_it() {
        let expected =
            "time=\"2023-11-14T22:13:20Z\" level=info msg=\"Starting agent APIs\" a=7 b=\"x y\" e=\"\"\n";
        assert_eq!(record().text(true), expected);
        assert!(record().text(false).starts_with("time=\"2023-11-14T22:13:20.123456789Z\""));
    }

    #[test]
    fn json_is_as_logrus_writes_it() {
        let expected = r#"{"a":7,"b":"x y","e":"","level":"info","msg":"Starting agent APIs","time":"2023-11-14T22:13:20.123456789Z"}"#;
        assert_eq!(record().json().trim_end(), expected);
    }

    #[test]
    fn what_was_left_out_is_told_in_the_configured_form() {
        let said = "level=warning msg=\"Log lines were left out: the reader of the log is slow\" count=7\n";
        assert!(left_out(LogFormat::Default)(7).ends_with(said));
        assert!(left_out(LogFormat::Text)(7).ends_with(said));
        assert!(left_out(LogFormat::Json)(7).starts_with("{\"count\":7,\"level\":\"warning\","));
    }

    #[test]
    fn other_crates_are_capped() {
        assert!(ours("agent::manager") && ours("sds::service"));
        assert!(!ours("h2::codec") && !ours("tonic::transport") && !ours("agents"));
    }
}
