//! The `unix` attestor: credentials, and if configured path and SHA-256 of the binary (SPIRE, `unix_posix.go`).
//!
//! Credentials, the binary's path and its device and inode are read on every call: that costs microseconds, and they
//! change (`setuid`, `exec`). Expensive facts are cached by what they depend on: a hash by the binary's device,
//! inode, size, mtime and ctime; names of users and groups by the files that define them, and for ten seconds,
//! because they may come from a network. A call that finds everything cached is answered at once, any other on a
//! thread that may block.
//!
//! A process may have 65,536 supplementary groups, and then each read of its credentials takes milliseconds. From
//! then on the callers of its group are read on other threads, one at a time and seldom, and get selectors for the first 1,024
//! of their groups.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{Context, SHA256};
use budget::Group;
use identity::Selector;
use tracing::debug;

use self::named::{NameCache, selector};
pub use self::paths::Paths;
use crate::lock;
use crate::proc::{self, Credentials};

/// The `unix` workload attestor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Unix {
    shared: Arc<Shared>,
}

/// The settings of [`Unix`], named as in agent.conf.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether to add the `path` and `sha256` selectors. A binary that cannot be read then fails the attestation.
    pub discover_workload_path: bool,
    /// The largest binary that is hashed, in bytes. 0 means any size; a negative value means that none is hashed.
    pub workload_size_limit: i64,
    /// Which paths become selectors. A hash is of the file that runs, and becomes one in any case.
    pub paths: Paths,
    /// Where proc is mounted: `/proc`, unless `HOST_PROC` is set.
    pub proc: PathBuf,
}

/// Why a process could not be attested.
#[derive(Debug, thiserror::Error)]
pub enum UnixError {
    /// A file of the process cannot be read. The process may have exited.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file under `/proc`.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The process has other credentials than when it connected. It may have run a setuid program since, and what is
    /// written to the connection may come from a child process that has not.
    #[error("process has uid {uid} and gid {gid}, other than when it connected")]
    Changed {
        /// The effective user ID now.
        uid: u32,
        /// The effective group ID now.
        gid: u32,
    },
    /// The binary is larger than `workload_size_limit`.
    #[error("workload {path} exceeds size limit ({size} > {limit})")]
    TooLarge {
        /// The path of the binary.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The configured limit in bytes.
        limit: u64,
    },
    /// The task that reads files was cancelled or has panicked.
    #[error("attestation was interrupted")]
    Interrupted,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    named: NameCache,
    hashes: Mutex<HashMap<Version, Arc<Mutex<Option<String>>>>>,
}

/// The version of a file. As long as it is the same, so is the file's hash.
#[derive(Debug, PartialEq, Eq, Hash, Clone, Copy)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Unix {
    /// Makes an attestor with these settings.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { shared: Arc::new(Shared { options, named: NameCache::default(), hashes: Mutex::default() }) }
    }

    /// Whether everything comes from one read of `/proc/PID/status`.
    pub(super) fn reads_once(&self) -> bool {
        !self.shared.options.discover_workload_path
    }

    /// Returns the selectors of a process that had these effective user and group IDs when it connected. The caller
    /// must check afterwards that the pid still names that process.
    ///
    /// # Errors
    /// [`UnixError`].
    pub async fn attest(
        &self,
        pid: i32,
        uid: u32,
        gid: u32,
        group: &Group,
    ) -> Result<Vec<Selector>, UnixError> {
        let read = |source| UnixError::Read { path: self.shared.file(pid, "status"), source };
        let credentials =
            proc::read_credentials_of(&self.shared.options.proc, pid, group).await.map_err(read)?;
        if (credentials.uid, credentials.gid) != (uid, gid) {
            return Err(UnixError::Changed { uid: credentials.uid, gid: credentials.gid });
        }
        if !self.shared.options.discover_workload_path
            && let Some(found) = self.shared.named.remembered(&credentials)
        {
            return Ok(found);
        }
        let shared = Arc::clone(&self.shared);
        let _turn = if group.is_slow() { Some(proc::slow_turn().await) } else { None };
        // Names come from NSS, which may ask a network, and hashing reads a whole binary.
        let work = tokio::task::spawn_blocking(move || shared.attest(pid, &credentials));
        work.await.map_err(|_| UnixError::Interrupted)?
    }
}

impl Shared {
    fn attest(&self, pid: i32, credentials: &Credentials) -> Result<Vec<Selector>, UnixError> {
        let mut found = self.named.selectors(credentials);
        if self.options.discover_workload_path {
            let exe = self.file(pid, "exe");
            let path = fs::read_link(&exe).map_err(|source| UnixError::Read { path: exe.clone(), source })?;
            if self.options.paths.admit(&self.options.proc, &exe, &path) {
                found.extend(selector("path", path.display()));
            } else {
                let path: String = path.to_string_lossy().chars().take(SHOWN).collect();
                debug!(
                    pid,
                    path, "The path of a process's binary is another file on the host, and is left out"
                );
            }
            if self.options.workload_size_limit >= 0 {
                found.extend(selector("sha256", self.hash(&exe, &path)?));
            }
        }
        Ok(found)
    }

    fn file(&self, pid: i32, name: &str) -> PathBuf {
        self.options.proc.join(pid.to_string()).join(name)
    }

    fn hash(&self, exe: &Path, path: &Path) -> Result<String, UnixError> {
        let read = |source| UnixError::Read { path: exe.to_owned(), source };
        let file = File::open(exe).map_err(read)?;
        let version = Version::of(&file.metadata().map_err(read)?);
        let limit = u64::try_from(self.options.workload_size_limit).unwrap_or(0);
        if limit > 0 && version.size > limit {
            return Err(UnixError::TooLarge { path: path.to_owned(), size: version.size, limit });
        }
        // A call for a binary that another call is hashing waits for that one.
        let slot = self.slot(version);
        let mut hash = lock(&slot);
        if let Some(hash) = &*hash {
            return Ok(hash.clone());
        }
        Ok(hash.insert(sha256(file).map_err(read)?).clone())
    }

    fn slot(&self, version: Version) -> Arc<Mutex<Option<String>>> {
        let mut hashes = lock(&self.hashes);
        if hashes.len() >= HASHES_KEPT && !hashes.contains_key(&version) {
            hashes.clear();
        }
        Arc::clone(hashes.entry(version).or_default())
    }
}

impl Version {
    fn of(file: &fs::Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            mtime: (file.mtime(), file.mtime_nsec()),
            ctime: (file.ctime(), file.ctime_nsec()),
        }
    }
}

fn sha256(mut file: File) -> io::Result<String> {
    use std::fmt::Write as _;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => context.update(&buffer[..n]),
        }
    }
    Ok(context.finish().as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

/// Binaries whose hash is cached. A node runs fewer.
const HASHES_KEPT: usize = 1024;
/// How much of a path is logged.
const SHOWN: usize = 256;

mod named;
mod paths;

#[cfg(test)]
mod tests {
    use nix::unistd::{getegid, geteuid};

    use super::*;

    fn values(selectors: &[Selector]) -> Vec<String> {
        selectors.iter().map(ToString::to_string).collect()
    }

    fn attestor(discover_workload_path: bool, workload_size_limit: i64) -> Unix {
        let proc = "/proc".into();
        Unix::new(Options { discover_workload_path, workload_size_limit, paths: Paths::Host, proc })
    }

    fn group() -> Group {
        let limits = budget::Limits { whole: 1, spare: 0, group: 1, account: 1, work: 1 };
        budget::Budget::new(limits).group("")
    }

    #[tokio::test]
    async fn own_process() {
        let pid = std::process::id().try_into().unwrap();
        let found = values(
            &attestor(true, 0).attest(pid, geteuid().as_raw(), getegid().as_raw(), &group()).await.unwrap(),
        );
        let exe = std::env::current_exe().unwrap();
        assert!(found.contains(&format!("unix:uid:{}", geteuid())));
        assert!(found.contains(&format!("unix:gid:{}", getegid())));
        assert!(found.contains(&format!("unix:path:{}", exe.display())));
        let hash = sha256(File::open(exe).unwrap()).unwrap();
        assert!(found.contains(&format!("unix:sha256:{hash}")));
    }

    #[tokio::test]
    async fn path_and_hash_are_asked_for() {
        let pid = std::process::id().try_into().unwrap();
        let plain = values(
            &attestor(false, 0).attest(pid, geteuid().as_raw(), getegid().as_raw(), &group()).await.unwrap(),
        );
        assert!(!plain.iter().any(|s| s.starts_with("unix:path") || s.starts_with("unix:sha256")));
        let unhashed = values(
            &attestor(true, -1).attest(pid, geteuid().as_raw(), getegid().as_raw(), &group()).await.unwrap(),
        );
        assert!(unhashed.iter().any(|s| s.starts_with("unix:path")));
        assert!(!unhashed.iter().any(|s| s.starts_with("unix:sha256")));
        assert!(matches!(
            attestor(true, 1).attest(pid, geteuid().as_raw(), getegid().as_raw(), &group()).await,
            Err(UnixError::TooLarge { limit: 1, .. })
        ));
    }

    #[tokio::test]
    async fn a_process_that_is_gone() {
        assert!(matches!(
            attestor(false, 0).attest(i32::MAX, 0, 0, &group()).await,
            Err(UnixError::Read { .. })
        ));
    }

    #[tokio::test]
    async fn other_credentials_than_at_connect() {
        let pid = std::process::id().try_into().unwrap();
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        for (uid, gid) in [(uid + 1, gid), (uid, gid + 1)] {
            assert!(matches!(
                attestor(false, 0).attest(pid, uid, gid, &group()).await,
                Err(UnixError::Changed { .. })
            ));
        }
    }

    #[tokio::test]
    async fn a_command_name_that_is_not_utf8() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("7")).unwrap();
        let status = b"Name:\t\xd0\xd0\nUid:\t0\t5\t0\t0\nGid:\t0\t6\t0\t0\nGroups:\t\n";
        fs::write(folder.path().join("7/status"), status).unwrap();
        let unix = Unix::new(Options { proc: folder.path().to_owned(), ..Options::default() });
        assert!(values(&unix.attest(7, 5, 6, &group()).await.unwrap()).contains(&"unix:uid:5".to_owned()));
    }

    #[tokio::test]
    async fn a_process_of_very_many_groups_has_the_first_of_them_and_makes_its_callers_slow() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("7")).unwrap();
        let groups: String = (100_000..165_536).map(|gid| format!("{gid} ")).collect();
        let status = format!("Name:\tx\nUid:\t0\t5\t0\t0\nGid:\t0\t6\t0\t0\nGroups:\t{groups}\n");
        fs::write(folder.path().join("7/status"), status).unwrap();
        let unix = Unix::new(Options { proc: folder.path().to_owned(), ..Options::default() });
        let group = group();
        for slow in [false, true] {
            assert_eq!(group.is_slow(), slow);
            let found = values(&unix.attest(7, 5, 6, &group).await.unwrap());
            assert!(found.contains(&"unix:supplementary_gid:101023".to_owned()));
            assert!(!found.contains(&"unix:supplementary_gid:101024".to_owned()));
        }
    }

    #[test]
    fn a_binary_is_hashed_once_and_anew_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let exe = folder.path().join("exe");
        fs::write(&exe, "one").unwrap();
        let unix = attestor(true, 0);
        let first = unix.shared.hash(&exe, &exe).unwrap();
        let version = Version::of(&fs::metadata(&exe).unwrap());
        // The cached hash is used: a planted value comes back.
        *unix.shared.slot(version).lock().unwrap() = Some("planted".into());
        assert_eq!(unix.shared.hash(&exe, &exe).unwrap(), "planted");
        fs::write(&exe, "three").unwrap();
        let second = unix.shared.hash(&exe, &exe).unwrap();
        assert!(second != "planted" && second != first);
    }
}
