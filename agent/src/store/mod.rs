//! The file `<data_dir>/agent-data.json`, in spire-agent's format, so that either program can continue where the other
//! stopped.

mod keeper;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::error;

pub(crate) use self::keeper::Keeper;

/// The file with the agent's data.
#[derive(Debug)]
pub struct Store {
    file: PathBuf,
}

/// The content of the file. It has no key, so it may be printed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Data {
    /// The certificate chain of the agent's SVID, DER, leaf first; empty before attestation.
    pub svid: Vec<Bytes>,
    /// The X.509 authorities of the agent's trust domain, DER.
    pub bundle: Vec<Bytes>,
    /// Whether the agent gets its next SVID by another attestation instead of a renewal.
    pub reattestable: bool,
    /// Whether the agent bootstraps or re-bootstraps, as spire-agent numbers the two.
    pub bootstrap_use: i32,
    /// When the server's authority was first found to be unknown, in RFC 3339; empty if it is known. The file has Go's
    /// zero time then.
    pub bootstrap_start_time: String,
    /// Attempts to connect since `bootstrap_start_time`.
    pub connection_attempts: i64,
}

impl Store {
    /// The file in a data folder. Creates the folder if it is missing.
    ///
    /// # Errors
    /// If the folder cannot be created.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(data_dir)?;
        Ok(Self { file: data_dir.join(FILE) })
    }

    /// Reads the file. Without a file the data is empty. A malformed file is moved aside and logged, and the data is
    /// empty: the agent attests again, and nothing is lost.
    ///
    /// # Errors
    /// If the file exists and cannot be read.
    pub fn load(&self) -> io::Result<Data> {
        let text = match fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(Data::default()),
            Err(reason) if reason.kind() == io::ErrorKind::InvalidData => {
                return Ok(self.set_aside("not UTF-8"));
            }
            Err(reason) => return Err(reason),
        };
        match parse(&text) {
            Ok(data) => Ok(data),
            Err(reason) => Ok(self.set_aside(&reason)),
        }
    }

    /// Reads the file in a data folder and changes nothing. Without a file the data is empty. The inner error says why
    /// [`Store::load`] would set the file aside.
    ///
    /// # Errors
    /// If the file exists and cannot be read.
    pub(crate) fn peek(data_dir: &Path) -> io::Result<Result<Data, String>> {
        match fs::read_to_string(data_dir.join(FILE)) {
            Ok(text) => Ok(parse(&text)),
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => Ok(Ok(Data::default())),
            Err(reason) if reason.kind() == io::ErrorKind::InvalidData => Ok(Err("not UTF-8".to_owned())),
            Err(reason) => Err(reason),
        }
    }

    /// Replaces the file atomically.
    ///
    /// # Errors
    /// If the file cannot be written. The old one is still there.
    pub fn save(&self, data: &Data) -> io::Result<()> {
        let file = File {
            svid: certificates(&data.svid),
            bundle: certificates(&data.bundle),
            reattestable: data.reattestable,
            bootstrap_use: data.bootstrap_use,
            bootstrap_start_time: Some(match &*data.bootstrap_start_time {
                "" => ZERO_TIME.into(),
                time => time.into(),
            }),
            connection_attempts: data.connection_attempts,
        };
        write_atomic(&self.file, &serde_json::to_vec(&file)?)
    }

    fn set_aside(&self, reason: &str) -> Data {
        let aside = self.file.with_extension("json.corrupt");
        let kept = fs::rename(&self.file, &aside);
        let place = if kept.is_ok() { aside.display().to_string() } else { "its place".into() };
        error!(path = %self.file.display(), error = reason, kept = %place,
            "agent-data.json is corrupt: it is kept aside, and the agent attests anew");
        Data::default()
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    svid: Option<Vec<String>>,
    bundle: Option<Vec<String>>,
    #[serde(default)]
    reattestable: bool,
    #[serde(default)]
    bootstrap_use: i32,
    #[serde(default)]
    bootstrap_start_time: Option<String>,
    #[serde(default)]
    connection_attempts: i64,
}

fn parse(text: &str) -> Result<Data, String> {
    let file: File = serde_json::from_str(text).map_err(|reason| reason.to_string())?;
    let start = file.bootstrap_start_time.unwrap_or_default();
    Ok(Data {
        svid: ders("svid", file.svid)?,
        bundle: ders("bundle", file.bundle)?,
        reattestable: file.reattestable,
        bootstrap_use: file.bootstrap_use,
        bootstrap_start_time: if start == ZERO_TIME { String::new() } else { start },
        connection_attempts: file.connection_attempts,
    })
}

/// Decodes a list of certificates. Each element is base64 of the PEM text of one certificate; `null` is an empty list.
fn ders(field: &str, list: Option<Vec<String>>) -> Result<Vec<Bytes>, String> {
    let certificate = |encoded: &String| {
        let text = STANDARD.decode(encoded).ok()?;
        let block = pem::parse(text).ok()?;
        (block.tag() == "CERTIFICATE").then(|| Bytes::from(block.into_contents()))
    };
    let list = list.unwrap_or_default();
    list.iter()
        .map(certificate)
        .collect::<Option<_>>()
        .ok_or_else(|| format!("{field} holds something other than certificates"))
}

/// Encodes a list of certificates, for [`ders`] to decode.
fn certificates(ders: &[Bytes]) -> Option<Vec<String>> {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let encode = |der: &Bytes| {
        STANDARD.encode(pem::encode_config(&pem::Pem::new("CERTIFICATE", der.to_vec()), config))
    };
    (!ders.is_empty()).then(|| ders.iter().map(encode).collect())
}

const FILE: &str = "agent-data.json";

/// Writes a private file (mode 0600) atomically: writes a temporary file beside it, syncs and renames it, and syncs the
/// folder.
pub(crate) fn write_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    write_atomic_with_mode(path, content, 0o600)
}

/// Like [`write_atomic`], with this mode.
pub(crate) fn write_atomic_with_mode(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        // Set once more, because the umask applies to the mode of `open`.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
        return written;
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => fs::File::open(folder)?.sync_all(),
        _ => fs::File::open(".")?.sync_all(),
    }
}

/// Go's zero time, which spire-agent writes for no time.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

#[cfg(test)]
mod tests {
    use super::*;

    fn der() -> Bytes {
        Bytes::from_static(b"\x30\x03\x02\x01\x05")
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.load().unwrap(), Data::default());
        let data =
            Data { svid: vec![der(), der()], bundle: vec![der()], reattestable: true, ..Data::default() };
        store.save(&data).unwrap();
        assert_eq!(store.load().unwrap(), data);
        store.save(&Data::default()).unwrap();
        let text = fs::read_to_string(&store.file).unwrap();
        let expected = r#"{"svid":null,"bundle":null,"reattestable":false,"bootstrap_use":0,"bootstrap_start_time":"0001-01-01T00:00:00Z","connection_attempts":0}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn a_corrupt_file_is_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for text in [&b"{\"svid\":["[..], b"{\"svid\":[\"AAAA\"]}", b"\xff\xfe"] {
            fs::write(&store.file, text).unwrap();
            assert_eq!(store.load().unwrap(), Data::default());
            assert!(!store.file.exists());
            assert_eq!(fs::read(folder.path().join("agent-data.json.corrupt")).unwrap(), text);
        }
    }

    #[test]
    fn a_full_disk_leaves_the_old_file() {
        // /dev/full: every write fails with ENOSPC.
        assert_eq!(
            fs::OpenOptions::new().write(true).open("/dev/full").unwrap().write_all(b"x").unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let data = Data { bundle: vec![der()], ..Data::default() };
        store.save(&data).unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.path().join("agent-data.json.tmp")).unwrap();
        store.save(&Data::default()).unwrap_err();
        assert_eq!(store.load().unwrap(), data);
    }
}
