//! Which of several agents with one data folder serves: the one that has locked `<data_dir>/agent.lock` (flock(2)). The lock
//! goes with the process, however that ends. Only agents with a keeper have it, since only they replace each other.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The lock, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "it is held, and not read")] File);

/// The outcome of an attempt.
#[derive(Debug)]
pub(super) enum Attempt {
    Taken(Lock),
    /// Another process has it.
    Another,
    /// There can be no such file.
    Impossible,
}

impl Lock {
    /// Takes the lock if it is free.
    pub(super) fn attempt(data_dir: &Path) -> Attempt {
        let Ok(file) = open(data_dir) else { return Attempt::Impossible };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Attempt::Taken(Self(file)),
            Err(Errno::WOULDBLOCK) => Attempt::Another,
            Err(_) => Attempt::Impossible,
        }
    }

    /// Waits for the lock, on this thread. `None` if there can be no such file.
    pub(super) fn take(data_dir: &Path) -> Option<Self> {
        let file = open(data_dir).ok()?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Some(Self(file)),
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }
}

fn open(data_dir: &Path) -> io::Result<File> {
    fs::create_dir_all(data_dir)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).open(data_dir.join("agent.lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_and_the_next_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let Attempt::Taken(lock) = Lock::attempt(folder.path()) else { panic!("it is free") };
        assert!(matches!(Lock::attempt(folder.path()), Attempt::Another));
        drop(lock);
        let lock = Lock::take(folder.path()).unwrap();
        assert!(matches!(Lock::attempt(folder.path()), Attempt::Another));
        drop(lock);
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(matches!(Lock::attempt(&folder.path().join("file")), Attempt::Impossible));
    }
}
