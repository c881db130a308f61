//! Profiles in files, at an interval: the names, the folder and the times of spire-agent (`pkg/common/profiling`).
//!
//! As there, nothing removes old files.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use config::{Dumps, ProfileKind};
use time::OffsetDateTime;
use tracing::{debug, warn};

use super::cpu::Recording;
use super::{Error, heap};
use crate::golang;

/// Starts the thread that writes, which ends with the process.
pub(super) fn start(dumps: Dumps) {
    if dumps.kinds.is_empty() {
        warn!(error = "there are no dumpers active", "Failed to run profiling");
        return;
    }
    let work = move || Dumper::new(&dumps.kinds).run(&dumps);
    if let Err(reason) = thread::Builder::new().name("profile-dumps".to_owned()).spawn(work) {
        warn!(error = %reason, "Failed to run profiling");
    }
}

struct Dumper {
    folder: PathBuf,
    /// Samples since the last dump, or since the start. `None` if the CPU is not to be dumped, or somebody else samples it.
    recording: Option<Recording>,
    /// Failures that the log has told already.
    failures: BTreeSet<String>,
}

#[derive(Debug, thiserror::Error)]
enum DumpError {
    #[error(transparent)]
    Profile(#[from] Error),
    #[error("{}: {}", folder.display(), golang::os_error(source))]
    Folder { folder: PathBuf, source: io::Error },
}

impl Dumper {
    fn new(kinds: &[ProfileKind]) -> Self {
        let mut dumper = Self { folder: FOLDER.into(), recording: None, failures: BTreeSet::new() };
        if kinds.contains(&ProfileKind::Cpu) {
            let recording = Recording::start().map_err(DumpError::from);
            dumper.recording = dumper.judge(recording);
        }
        dumper
    }

    fn run(&mut self, dumps: &Dumps) {
        loop {
            thread::sleep(dumps.every);
            let now = OffsetDateTime::now_utc();
            for kind in &dumps.kinds {
                let dumped = self.dump(*kind, now);
                self.judge(dumped);
            }
        }
    }

    /// Writes one profile.
    fn dump(&mut self, kind: ProfileKind, now: OffsetDateTime) -> Result<(), DumpError> {
        let profile = match kind {
            ProfileKind::Heap => heap::profile()?,
            ProfileKind::Cpu => {
                // The next one starts when the last one has ended.
                let finished = self.recording.take().map(|recording| recording.profile());
                self.recording = Some(Recording::start()?);
                match finished {
                    Some(profile) => profile?,
                    None => return Ok(()),
                }
            }
        };
        let path = self.folder.join(file_name(now, kind));
        write(&self.folder, kind, &path, &profile)?;
        debug!(path = %path.display(), "Wrote a profile");
        Ok(())
    }

    /// Logs a failure, once.
    fn judge<T>(&mut self, result: Result<T, DumpError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(reason) => {
                let reason = reason.to_string();
                if !self.failures.contains(&reason) {
                    warn!(error = %reason, "Cannot write a profile");
                    self.failures.insert(reason);
                }
                None
            }
        }
    }
}

/// Writes the file under another name first, so that nobody reads half of it.
fn write(folder: &Path, kind: ProfileKind, path: &Path, profile: &[u8]) -> Result<(), DumpError> {
    let unfinished = folder.join(format!("{TAG}_current_{}_profile", kind.name()));
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::write(&unfinished, profile))
        .and_then(|()| fs::rename(&unfinished, path));
    // The name of the file would make another failure of each.
    written.map_err(|source| DumpError::Folder { folder: folder.to_owned(), source })
}

/// The time is UTC, where spire-agent takes the local one.
fn file_name(now: OffsetDateTime, kind: ProfileKind) -> String {
    let (date, time) = (now.date(), now.time());
    format!(
        "{:04}-{:02}-{:02}_{:02}{:02}{:02}_{TAG}_{}.pb.gz",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second(),
        kind.name()
    )
}

/// Below the working directory.
const FOLDER: &str = ".profiles";
const TAG: &str = "agent";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_the_names_of_spire_agent() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_001).unwrap();
        assert_eq!(file_name(now, ProfileKind::Cpu), "2027-01-15_080001_agent_cpu.pb.gz");
        assert_eq!(file_name(now, ProfileKind::Heap), "2027-01-15_080001_agent_heap.pb.gz");
    }

    #[test]
    fn a_file_is_whole_and_alone_in_a_folder_that_is_made() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join(".profiles");
        let path = folder.join("x.pb.gz");
        write(&folder, ProfileKind::Heap, &path, b"1").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"1");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        let in_the_way = write(&path, ProfileKind::Heap, &path.join("x"), b"1").unwrap_err();
        assert!(in_the_way.to_string().contains("x.pb.gz"), "{in_the_way}");
    }
}
