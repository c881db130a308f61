//! The issuance log: a file with a line of JSON for each SVID that was handed out.
//!
//! A thread writes it, because a disk may take its time. Lines that it cannot keep up with are left out and counted, so
//! that callers never wait.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::{error, warn};

use super::{Event, Kind, What};

/// The handle of the thread that writes. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct File {
    queue: SyncSender<String>,
    left_out: Arc<AtomicU64>,
    /// Whether the file must be opened anew.
    reopen: Arc<AtomicBool>,
}

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    spiffe_id: &'a str,
    kind: Kind,
    entry_id: &'a str,
    /// The selectors by which the entry was matched. The caller has more.
    selectors: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial_number: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audience: Option<&'a str>,
    expires_at: String,
    method: &'a str,
    pid: i32,
    uid: u32,
    caller_group: &'a str,
}

impl File {
    /// Opens the file, or makes it, and starts the thread.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn start(path: &Path) -> io::Result<Self> {
        let file = crate::logging::open(path)?;
        let (queue, lines) = sync_channel(QUEUE);
        let (left_out, reopen) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let writer = Writer {
            path: path.to_owned(),
            file,
            left_out: Arc::clone(&left_out),
            reopen: Arc::clone(&reopen),
        };
        thread::Builder::new().name("issuance".into()).stack_size(STACK).spawn(move || writer.run(&lines))?;
        Ok(Self { queue, left_out, reopen })
    }

    /// Has the file opened anew before the next line, because it was moved.
    pub(crate) fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }

    pub(super) fn write(&self, event: &Event, caller_group: &str) {
        let Some(line) = line(event, caller_group) else { return };
        if self.queue.try_send(line).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn line(event: &Event, caller_group: &str) -> Option<String> {
    let What::Issued { entry, kind, detail, not_after } = &event.what else { return None };
    let line = Line {
        time: rfc3339(event.at),
        spiffe_id: entry.spiffe_id.as_str(),
        kind: *kind,
        entry_id: &entry.id,
        selectors: entry.selectors.iter().map(ToString::to_string).collect(),
        serial_number: (*kind == Kind::X509).then_some(detail),
        audience: (*kind == Kind::Jwt).then_some(detail),
        expires_at: rfc3339(*not_after),
        method: event.method,
        pid: event.pid,
        uid: event.uid,
        caller_group,
    };
    serde_json::to_string(&line).ok().map(|line| line + "\n")
}

struct Writer {
    path: PathBuf,
    file: std::fs::File,
    left_out: Arc<AtomicU64>,
    reopen: Arc<AtomicBool>,
}

impl Writer {
    fn run(mut self, lines: &Receiver<String>) {
        let mut fails = false;
        while let Ok(line) = lines.recv() {
            let written = self.write(&line);
            if let (Err(reason), false) = (&written, fails) {
                error!(path = %self.path.display(), error = %reason, "Cannot write the issuance log");
            }
            fails = written.is_err();
            let left_out = self.left_out.swap(0, Ordering::Relaxed);
            if left_out > 0 {
                warn!(path = %self.path.display(), count = left_out, "Lines of the issuance log were left out: its disk is slow");
            }
        }
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.reopen.swap(false, Ordering::Relaxed) {
            self.file = crate::logging::open(&self.path)?;
        }
        self.file.write_all(line.as_bytes())
    }
}

fn rfc3339(time: std::time::SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

/// The most lines that wait.
const QUEUE: usize = 1024;
/// The stack of the thread, in bytes.
const STACK: usize = 64 * 1024;
