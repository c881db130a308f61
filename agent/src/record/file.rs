//! The issuance log: a file with a line of JSON for each SVID that was handed out.
//!
//! A thread writes it, because a disk may take its time. Lines that it cannot keep up with are left out and counted, so
//! that callers never wait.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
    /// The bytes of the lines that wait.
    waiting: Arc<AtomicUsize>,
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
        let waiting = Arc::<AtomicUsize>::default();
        let writer = Writer {
            path: path.to_owned(),
            file,
            torn: false,
            waiting: Arc::clone(&waiting),
            left_out: Arc::clone(&left_out),
            reopen: Arc::clone(&reopen),
        };
        thread::Builder::new().name("issuance".into()).stack_size(STACK).spawn(move || writer.run(&lines))?;
        Ok(Self { queue, waiting, left_out, reopen })
    }

    /// Has the file opened anew before the next line, because it was moved.
    pub(crate) fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }

    pub(super) fn write(&self, event: &Event, caller_group: &str) {
        if let Some(line) = line(event, caller_group) {
            self.send(line);
        }
    }

    fn send(&self, line: String) {
        let bytes = line.len();
        let waiting = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        if waiting + bytes > BYTES || self.queue.try_send(line).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
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
    /// Whether the file ends with a part of a line, because its disk was full.
    torn: bool,
    waiting: Arc<AtomicUsize>,
    left_out: Arc<AtomicU64>,
    reopen: Arc<AtomicBool>,
}

impl Writer {
    fn run(mut self, lines: &Receiver<String>) {
        let mut fails = false;
        while let Ok(line) = lines.recv() {
            let written = self.write(&line);
            self.waiting.fetch_sub(line.len(), Ordering::Relaxed);
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

    /// Writes one line. A file that cannot be opened anew is tried again with the next line; the old one stays in use.
    fn write(&mut self, line: &str) -> io::Result<()> {
        let mut reopened = Ok(());
        if self.reopen.swap(false, Ordering::Relaxed) {
            match crate::logging::open(&self.path) {
                Ok(file) => (self.file, self.torn) = (file, false),
                Err(reason) => {
                    self.reopen.store(true, Ordering::Relaxed);
                    reopened = Err(reason);
                }
            }
        }
        if self.torn {
            self.write_all(b"\n")?;
        }
        self.write_all(line.as_bytes())?;
        reopened
    }

    fn write_all(&mut self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = &rest[written..];
                    self.torn = !rest.is_empty();
                }
                Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
                Err(reason) => return Err(reason),
            }
        }
        Ok(())
    }
}

fn rfc3339(time: std::time::SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

/// The most lines that wait, and their bytes: an entry may have long selectors.
const QUEUE: usize = 1024;
const BYTES: usize = 1024 * 1024;
/// The stack of the thread, in bytes.
const STACK: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    fn writer(path: &Path, file: fs::File) -> Writer {
        let (waiting, left_out, reopen) = (Arc::default(), Arc::default(), Arc::default());
        Writer { path: path.to_owned(), file, torn: false, waiting, left_out, reopen }
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let (queue, lines) = sync_channel(QUEUE);
        let file = File { queue, waiting: Arc::default(), left_out: Arc::default(), reopen: Arc::default() };
        (0..9).for_each(|_| file.send("x".repeat(BYTES / 4)));
        assert_eq!((lines.try_iter().count(), file.left_out.load(Ordering::Relaxed)), (4, 5));
        assert_eq!(file.waiting.load(Ordering::Relaxed), BYTES);
    }

    #[test]
    fn a_file_that_cannot_be_opened_anew_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("away/new"));
        let mut writer = writer(&new, fs::File::create(&old).unwrap());
        writer.reopen.store(true, Ordering::Relaxed);
        assert_eq!(writer.write("a\n").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read_to_string(&old).unwrap(), "a\n");
        fs::create_dir(folder.path().join("away")).unwrap();
        writer.write("b\n").unwrap();
        assert_eq!(fs::read_to_string(&new).unwrap(), "b\n");
    }

    #[test]
    fn a_line_after_a_torn_one_stands_alone() {
        let (mut reader, pipe) = io::pipe().unwrap();
        let file = fs::File::from(std::os::fd::OwnedFd::from(pipe));
        // A pipe is full as a disk can be.
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut writer = writer(Path::new("unused"), file);
        writer.write(&"x".repeat(1 << 20)).unwrap_err();
        let mut held = vec![0; 1 << 20];
        let torn = reader.read(&mut held).unwrap();
        assert!(torn > 0 && held[..torn].iter().all(|byte| *byte == b'x'));
        writer.write("b\n").unwrap();
        drop(writer);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest.trim_start_matches('x'), "\nb\n");
    }
}
