//! `data_dir`, the keys, and the SVID that an earlier run has left.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use config::{KeyManager, Settings};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::socket::may_write;
use super::{Line, at, roughly};
use crate::keys::{KeyError, Keys};
use crate::store::{Data, Store};

/// What an earlier run has left.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// The X.509 authorities, DER.
    pub(super) bundle: Vec<Bytes>,
    /// What the agent can do with its SVID.
    pub(super) svid: Svid,
}

/// The state of the stored SVID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Svid {
    /// There is none.
    #[default]
    None,
    /// The file is corrupt.
    Corrupt,
    /// It is there without its key, because the agent keeps keys in memory or the key file is gone.
    WithoutKey,
    /// It expired at this time.
    Expired(SystemTime),
    /// It is valid until this time.
    Valid(SystemTime),
}

/// The lines, and what was found.
pub(super) fn lines(settings: &Settings, now: SystemTime) -> (Vec<Line>, Stored) {
    let directory = settings.plugins().ok().and_then(|plugins| match &plugins.key_manager {
        KeyManager::Disk { directory } => Some(directory.as_path()),
        KeyManager::Memory => None,
    });
    let mut lines = vec![folder_line("data-dir", "data_dir", &settings.data_dir)];
    let keys = directory.map(|directory| {
        lines.push(folder_line("key-store", "directory of KeyManager \"disk\"", directory));
        Keys::peek(directory)
    });
    let data = Store::peek(&settings.data_dir);
    let stored = match &data {
        Ok(Ok(data)) => Stored { bundle: data.bundle.clone(), svid: svid(data, keys.as_ref(), now) },
        Ok(Err(_)) => Stored { svid: Svid::Corrupt, ..Stored::default() },
        Err(_) => Stored::default(),
    };
    if let Some(Err(reason @ KeyError::Corrupt { .. })) = &keys {
        lines.push(Line::failure("key-store", reason.to_string(), "Move keys.json away."));
    } else if let Some(Err(reason)) = &keys {
        lines.push(Line::failure("key-store", reason.to_string(), "Let the agent's user read keys.json."));
    }
    lines.push(match data {
        Err(reason) => Line::failure(
            SVID,
            format!("agent-data.json cannot be read: {reason}"),
            "Let the agent's user read the files in data_dir.",
        ),
        Ok(Err(reason)) => Line::warning(
            SVID,
            format!("agent-data.json is corrupt: {reason}"),
            "Nothing, if the node can attest again: the agent keeps the file aside and does so.",
        ),
        Ok(Ok(_)) => svid_line(stored.svid, directory.is_some(), now),
    });
    (lines, stored)
}

fn svid(data: &Data, keys: Option<&Result<Keys, KeyError>>, now: SystemTime) -> Svid {
    let Some(leaf) = data.svid.first() else { return Svid::None };
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return Svid::Corrupt };
    let has_key = matches!(keys, Some(Ok(keys)) if keys.key_of(leaf).is_some());
    let end = at(certificate.validity().not_after.timestamp());
    match has_key {
        false => Svid::WithoutKey,
        true if end <= now => Svid::Expired(end),
        true => Svid::Valid(end),
    }
}

fn svid_line(svid: Svid, on_disk: bool, now: SystemTime) -> Line {
    match svid {
        Svid::None => Line::ok(SVID, "there is no stored SVID: the node will attest"),
        Svid::Valid(end) => {
            let left = roughly(end.duration_since(now).unwrap_or_default());
            Line::ok(SVID, format!("the stored SVID is valid for {left}: the agent goes on with it"))
        }
        Svid::Expired(end) => {
            let since = roughly(now.duration_since(end).unwrap_or_default());
            Line::warning(
                SVID,
                format!("the stored SVID has expired {since} ago: the node must attest again"),
                "Nothing, if it can: by a join token it cannot without a new one.",
            )
        }
        Svid::WithoutKey if on_disk => Line::warning(
            SVID,
            "the stored SVID has no key in keys.json: the node must attest again",
            "Keep data_dir and the folder of the keys together.",
        ),
        Svid::WithoutKey => Line::ok(SVID, "keys are kept in memory: the node attests at each start"),
        Svid::Corrupt => Line::warning(
            SVID,
            "the certificate in agent-data.json is malformed: the node must attest again",
            "Nothing, if it can.",
        ),
    }
}

/// The line of a folder that must be writable.
fn folder_line(name: &'static str, setting: &str, folder: &Path) -> Line {
    let shown = folder.display();
    let fail = |reason: io::Error| {
        Line::failure(
            name,
            format!("{shown} ({setting}) cannot be written: {reason}"),
            "Mount it writable, with space left, and give the agent's user write access.",
        )
    };
    match fs::metadata(folder) {
        Ok(found) if !found.is_dir() => fail(io::ErrorKind::NotADirectory.into()),
        Ok(_) => match probe(folder) {
            Ok(()) => Line::ok(name, format!("{shown} can be written")),
            Err(reason) => fail(reason),
        },
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => {
            let above =
                folder.ancestors().skip(1).find(|above| above.exists() && !above.as_os_str().is_empty());
            let above = above.unwrap_or_else(|| Path::new("."));
            let can =
                if above.is_dir() { may_write(above) } else { Err(io::ErrorKind::NotADirectory.into()) };
            match can {
                Ok(()) => Line::ok(name, format!("{shown} does not exist and can be made")),
                Err(reason) => fail(reason),
            }
        }
        Err(reason) => fail(reason),
    }
}

/// Writes a file and removes it. Its name is new, so nothing of others is touched.
fn probe(folder: &Path) -> io::Result<()> {
    let file = folder.join(format!(".finial-check.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)
        .and_then(|mut opened| io::Write::write_all(&mut opened, b"probe"));
    if !matches!(&written, Err(reason) if reason.kind() == io::ErrorKind::AlreadyExists) {
        let _ = fs::remove_file(&file);
    }
    written
}

const SVID: &str = "stored-svid";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Status;
    use super::*;

    #[test]
    fn a_folder_is_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(folder_line("data-dir", "data_dir", folder.path()).status, Status::Ok);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let absent = folder.path().join("a/b");
        assert!(folder_line("data-dir", "data_dir", &absent).summary.contains("can be made"));
        assert!(!absent.exists());
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.join("below"), file] {
            assert_eq!(folder_line("data-dir", "data_dir", &path).status, Status::Failure, "{path:?}");
        }
    }

    #[test]
    fn each_state_of_the_svid_has_a_line() {
        let now = at(1_000_000);
        let hour = Duration::from_hours(1);
        let status = |svid, on_disk| svid_line(svid, on_disk, now).status;
        assert_eq!(status(Svid::None, true), Status::Ok);
        assert_eq!(status(Svid::Valid(now + hour), true), Status::Ok);
        assert!(svid_line(Svid::Valid(now + hour), true, now).summary.contains("for 60 minutes"));
        assert!(svid_line(Svid::Expired(now - hour), true, now).summary.contains("60 minutes ago"));
        assert_eq!(status(Svid::WithoutKey, true), Status::Warning);
        assert_eq!(status(Svid::WithoutKey, false), Status::Ok);
    }
}
