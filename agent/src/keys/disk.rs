//! `KeyManager "disk"`: the file `keys.json`, as spire-agent writes it (SPIRE, `keymanager/disk`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::PrivateKey;
use zeroize::Zeroizing;

use super::{AgentKey, KeyError};
use crate::store::write_atomic;

/// The file with the agent's keys.
#[derive(Debug, Clone)]
pub struct Disk {
    file: PathBuf,
    /// Keys of the file that the agent cannot use. They are written back unchanged.
    others: BTreeMap<String, PrivateKey>,
}

impl Disk {
    /// Creates the folder (mode 0700) if it is missing, and checks that it is writable.
    ///
    /// # Errors
    /// [`KeyError::Disk`].
    pub fn open(directory: PathBuf) -> Result<Self, KeyError> {
        let failed = |path: &Path, source| KeyError::Disk { path: path.to_owned(), source };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|source| failed(&directory, source))?;
        let probe = directory.join(".probe");
        write_atomic(&probe, b"probe").map_err(|source| failed(&probe, source))?;
        let _ = fs::remove_file(&probe);
        Ok(Self::at(&directory))
    }

    /// The file in a folder that may be absent.
    pub(super) fn at(directory: &Path) -> Self {
        Self { file: directory.join("keys.json"), others: BTreeMap::new() }
    }

    /// Reads the file. Returns the agent's keys by slot.
    pub(super) fn load(mut self) -> Result<(Self, BTreeMap<String, AgentKey>), KeyError> {
        let mut keys = BTreeMap::new();
        for (name, key) in self.read()? {
            match AgentKey::import(&key) {
                Some(key) => drop(keys.insert(name, key)),
                None => drop(self.others.insert(name, key)),
            }
        }
        Ok((self, keys))
    }

    fn read(&self) -> Result<BTreeMap<String, PrivateKey>, KeyError> {
        let text = match fs::read_to_string(&self.file) {
            Ok(text) => Zeroizing::new(text),
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(source) => return Err(KeyError::Disk { path: self.file.clone(), source }),
        };
        let corrupt = |reason: String| KeyError::Corrupt { path: self.file.clone(), reason };
        let parsed: File = serde_json::from_str(&text).map_err(|reason| corrupt(reason.to_string()))?;
        let mut keys = BTreeMap::new();
        for (name, encoded) in parsed.keys.unwrap_or_default() {
            let encoded = Zeroizing::new(encoded);
            let der =
                STANDARD.decode(&*encoded).map_err(|_| corrupt(format!("key {name:?} is not base64")))?;
            keys.insert(name, PrivateKey::from_pkcs8(der));
        }
        Ok(keys)
    }

    /// Writes these keys on a blocking thread. A slow disk delays only the renewal.
    pub(super) async fn keep(&self, keys: BTreeMap<String, AgentKey>) -> Result<(), KeyError> {
        let disk = self.clone();
        let saving = tokio::task::spawn_blocking(move || disk.save(&keys));
        match tokio::time::timeout(WRITE_LIMIT, saving).await {
            Ok(saved) => saved.unwrap_or_else(|stopped| {
                Err(KeyError::Disk { path: self.file.clone(), source: io::Error::other(stopped) })
            }),
            Err(_) => Err(KeyError::Slow(self.file.clone())),
        }
    }

    fn save(&self, held: &BTreeMap<String, AgentKey>) -> Result<(), KeyError> {
        let mut keys = self.others.clone();
        for (name, key) in held {
            keys.insert(name.clone(), key.export()?);
        }
        // The JSON is written by hand into a buffer that is large enough, so that no copy of a key stays behind when a
        // buffer grows.
        let size: usize = keys.iter().map(|(name, key)| name.len() + key.pkcs8().len() * 3 / 2 + 64).sum();
        let mut text = Zeroizing::new(String::with_capacity(size + 64));
        text.push_str("{\n\t\"keys\": {\n");
        for (place, (name, key)) in keys.iter().enumerate() {
            text.push_str(if place == 0 { "" } else { ",\n" });
            text.push_str("\t\t");
            text.push_str(&serde_json::Value::from(&**name).to_string());
            text.push_str(": \"");
            STANDARD.encode_string(key.pkcs8(), &mut text);
            text.push('"');
        }
        text.push_str("\n\t}\n}");
        write_atomic(&self.file, text.as_bytes())
            .map_err(|source| KeyError::Disk { path: self.file.clone(), source })
    }
}

/// How long a renewal of the agent's SVID waits for its new key to reach the disk.
pub(super) const WRITE_LIMIT: Duration = Duration::from_secs(30);

#[derive(serde::Deserialize)]
struct File {
    keys: Option<BTreeMap<String, String>>,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::Keys;
    use super::*;

    #[tokio::test]
    async fn keys_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("keys");
        let mut keys = Keys::disk(directory.clone()).unwrap();
        let first = keys.renew(None).await.unwrap();
        keys.renew(Some(&first.key)).await.unwrap();
        let again = Keys::disk(directory.clone()).unwrap();
        let names: Vec<_> = again.held.keys().collect();
        assert_eq!(names, ["agent-svid-A", "agent-svid-B"]);
        assert_eq!(again.held["agent-svid-A"], first.key);
        let mode = fs::metadata(directory.join("keys.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(directory.join("keys.json")).unwrap();
        assert!(text.starts_with("{\n\t\"keys\": {\n\t\t\"agent-svid-A\": \""), "{text}");
    }

    #[tokio::test]
    async fn keys_of_others_are_written_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        fs::write(&file, "{\"keys\":{\"another\":\"AAEC\"}}").unwrap();
        let mut keys = Keys::disk(folder.path().to_owned()).unwrap();
        assert!(keys.held.is_empty());
        keys.renew(None).await.unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("\"another\": \"AAEC\"") && text.contains("agent-svid-A"), "{text}");
    }

    #[test]
    fn a_corrupt_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "{", "{\"keys\":{\"agent-svid-A\":\"%\"}}"] {
            fs::write(folder.path().join("keys.json"), text).unwrap();
            let error = Keys::disk(folder.path().to_owned()).unwrap_err().to_string();
            assert!(error.contains("keys.json") && error.contains("move it away"), "{error}");
        }
    }
}
