//! The memory on disk, for nodes that start anew while the server is away (`experimental { sealed_cache { } }`). It is
//! encrypted with AES-256-GCM under a key that is derived from a file, so that the disk alone gives nothing away.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use config::SealedCache;
use holder::memory;
use zeroize::Zeroizing;

use crate::store::write_atomic;

/// The file and its key.
pub(crate) struct SealedFile {
    path: PathBuf,
    key: RandomizedNonceKey,
}

impl SealedFile {
    /// Reads the key.
    ///
    /// # Errors
    /// What is wrong with the key's file.
    pub(super) fn open(settings: &SealedCache, path: PathBuf) -> Result<Self, String> {
        let file = settings.key_file.display();
        let secret = attestors::file::read_bytes(&settings.key_file, KEY_FILE_BYTES).map_err(|reason| {
            format!("sealed_cache.key_file {file}: {reason}; {}", make(&settings.key_file))
        })?;
        if secret.len() < SECRET {
            return Err(format!(
                "sealed_cache.key_file {file} has {} bytes, at least {SECRET} are needed; {}",
                secret.len(),
                make(&settings.key_file)
            ));
        }
        let unusable = |_| "sealed_cache: the cryptographic library cannot make a key".to_owned();
        let mut key = Zeroizing::new([0; 32]);
        let derived = Salt::new(HKDF_SHA256, MAGIC).extract(&secret);
        let derived = derived.expand(&[b"sealed cache"], HKDF_SHA256).map_err(unusable)?;
        derived.fill(&mut *key).map_err(unusable)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &*key).map_err(unusable)?;
        Ok(Self { path, key })
    }

    /// The content of the file; `None` if there is none.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
        let sealed = match attestors::file::read_bytes(&self.path, memory::LIMIT as u64) {
            Ok(sealed) => sealed,
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(reason) => return Err(reason.to_string()),
        };
        let rest = sealed.strip_prefix(MAGIC).ok_or("it is of another format")?;
        let (nonce, text) = rest.split_at_checked(NONCE_LEN).ok_or("it is too short")?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| "it is too short")?;
        let mut text = Zeroizing::new(text.to_vec());
        let opened = self.key.open_in_place(nonce, Aad::from(MAGIC), &mut text);
        let length = opened.map_err(|_| "it is damaged, or of another key")?.len();
        text.truncate(length);
        Ok(Some(text))
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub(super) fn write(&self, text: &[u8]) -> Result<(), String> {
        let mut sealed = Zeroizing::new(Vec::with_capacity(text.len() + AES_256_GCM.tag_len()));
        sealed.extend_from_slice(text);
        let nonce = self.key.seal_in_place_append_tag(Aad::from(MAGIC), &mut *sealed);
        let nonce = nonce.map_err(|_| "the cryptographic library cannot encrypt")?;
        let file = [MAGIC, nonce.as_ref(), &sealed[..]].concat();
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(|reason| reason.to_string())?;
        }
        write_atomic(&self.path, &file).map_err(|reason| format!("{}: {reason}", self.path.display()))
    }
}

/// How to make a file for the key.
fn make(key_file: &Path) -> String {
    format!("`openssl rand -out {} 32` makes such a file", key_file.display())
}

impl fmt::Debug for SealedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The last byte is the version.
const MAGIC: &[u8] = b"finial-sealed-cache\0\x01";
/// The fewest bytes of a key's file.
const SECRET: usize = 32;
const KEY_FILE_BYTES: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(folder: &tempfile::TempDir, secret: &[u8]) -> Result<SealedFile, String> {
        let key_file = folder.path().join("key");
        fs::write(&key_file, secret).unwrap();
        SealedFile::open(&SealedCache { key_file, path: None }, folder.path().join("data/cache"))
    }

    #[test]
    fn what_is_written_is_read_with_the_same_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = sealed(&folder, &[1; 32]).unwrap();
        assert!(file.read().unwrap().is_none());
        for text in [&b""[..], b"a private key", &[9; 5000]] {
            file.write(text).unwrap();
            assert_eq!(&file.read().unwrap().unwrap()[..], text);
            let content = fs::read(&file.path).unwrap();
            assert!(!content.windows(11).any(|window| window == b"private key"));
        }
        let other = sealed(&folder, &[2; 32]).unwrap();
        assert!(other.read().unwrap_err().contains("another key"));
    }

    #[test]
    fn each_changed_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = sealed(&folder, &[1; 40]).unwrap();
        file.write(b"text").unwrap();
        let good = fs::read(&file.path).unwrap();
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 1;
            fs::write(&file.path, &bad).unwrap();
            assert!(file.read().is_err(), "{place}");
            fs::write(&file.path, &good[..place]).unwrap();
            assert!(file.read().is_err(), "{place}");
        }
    }

    #[test]
    fn a_bad_key_file_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let short = sealed(&folder, &[1; 31]).unwrap_err();
        assert!(short.contains("31 bytes") && short.contains("openssl rand"), "{short}");
        let settings = SealedCache { key_file: folder.path().join("none"), path: None };
        let absent = SealedFile::open(&settings, folder.path().join("cache")).unwrap_err();
        assert!(absent.contains("none: No such file") && absent.contains("openssl rand"), "{absent}");
        assert!(!format!("{:?}", sealed(&folder, &[65; 32]).unwrap()).contains("65"));
    }
}
