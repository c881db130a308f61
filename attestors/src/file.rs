//! Reads files that other processes write: never waits for a writer, never reads more than a limit, and in async code
//! never on a thread that serves callers.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

/// Reads the text of a regular file of at most `most` bytes. It is zeroized when dropped, because it may be a secret.
///
/// Anything but a regular file is refused: a FIFO would hold up the agent until a process writes to it, and a device
/// may never end.
///
/// # Errors
/// The file cannot be read, is not a regular file, is longer than `most` bytes or is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<Zeroizing<String>> {
    let mut bytes = read_bytes(path, most)?;
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(other) => {
            drop(Zeroizing::new(other.into_bytes()));
            Err(invalid("is not UTF-8: is it the right file?".to_owned()))
        }
    }
}

/// As [`read_text`], for any content.
///
/// # Errors
/// The file cannot be read, is not a regular file or is longer than `most` bytes.
pub fn read_bytes(path: &Path, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    // Without this flag, opening a FIFO waits for its writer. It changes nothing for regular files.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(invalid("is not a regular file (a FIFO?): give the path of a regular file".to_owned()));
    }
    let too_long = || invalid(format!("is longer than {most} bytes: is it the right file?"));
    if metadata.len() > most {
        return Err(too_long());
    }
    // The buffer has its full size from the start: one that grows leaves copies that are not zeroized.
    let length = usize::try_from(metadata.len()).map_err(|_| too_long())?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(length + 1));
    // The file may have grown since.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(too_long());
    }
    Ok(bytes)
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// As [`read_text`], on another thread: a disk or file server that does not answer holds up only the caller.
///
/// # Errors
/// As [`read_text`], and after [`FILE_LIMIT`].
pub async fn load_text(path: &Path, most: u64) -> io::Result<Zeroizing<String>> {
    elsewhere(path, move |path| read_text(path, most)).await
}

/// As [`read_bytes`], on another thread.
///
/// # Errors
/// As [`read_bytes`], and after [`FILE_LIMIT`].
pub async fn load_bytes(path: &Path, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    elsewhere(path, move |path| read_bytes(path, most)).await
}

async fn elsewhere<T: Send + 'static>(
    path: &Path,
    read: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let silent = |limit: &str| {
        io::Error::new(io::ErrorKind::TimedOut, format!("is not read {limit}: does its disk answer?"))
    };
    let reader = Reader::of(path).ok_or_else(|| silent("by earlier attempts"))?;
    let reading = tokio::task::spawn_blocking(move || read(&reader.0));
    match tokio::time::timeout(FILE_LIMIT, reading).await {
        Ok(read) => read.unwrap_or_else(|stopped| Err(io::Error::other(stopped))),
        Err(_) => Err(silent(&format!("within {FILE_LIMIT:?}"))),
    }
}

/// A thread that reads a file. Nothing ends one whose disk does not answer, and the runtime has a limited number of
/// them, so a file that is asked for again and again gets only [`READERS`].
struct Reader(PathBuf);

static READING: Mutex<BTreeMap<PathBuf, usize>> = Mutex::new(BTreeMap::new());

impl Reader {
    /// `None` if the file has too many.
    fn of(path: &Path) -> Option<Self> {
        let mut reading = READING.lock().unwrap_or_else(PoisonError::into_inner);
        let count = reading.entry(path.to_owned()).or_default();
        (*count < READERS).then(|| {
            *count += 1;
            Self(path.to_owned())
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut reading = READING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = reading.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                reading.remove(&self.0);
            }
        }
    }
}

/// The most threads that read one file.
const READERS: usize = 8;
/// How long reading one file may take.
pub const FILE_LIMIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert_eq!(read_text(&path, 5).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&path, "12345").unwrap();
        assert_eq!(*read_text(&path, 5).unwrap(), "12345");
        assert!(read_text(&path, 4).unwrap_err().to_string().starts_with("is longer than 4 bytes"));
        // A projected token is a symbolic link.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(*read_text(&link, 5).unwrap(), "12345");
    }

    #[test]
    fn what_might_never_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        for path in [&*fifo, folder.path(), Path::new("/dev/zero")] {
            let reason = read_text(path, 1024).unwrap_err().to_string();
            assert!(reason.starts_with("is not a regular file (a FIFO?): "), "{reason}");
        }
    }

    #[tokio::test]
    async fn a_disk_that_does_not_answer_takes_few_threads() {
        let (answer, answers) = std::sync::mpsc::channel::<()>();
        let answers = std::sync::Arc::new(Mutex::new(answers));
        let hangs = || {
            let answers = std::sync::Arc::clone(&answers);
            move |_: &Path| answers.lock().unwrap().recv().map_err(io::Error::other)
        };
        let path = Path::new("/hangs");
        let mut reads: Vec<_> = (0..READERS).map(|_| Box::pin(elsewhere(path, hangs()))).collect();
        for read in &mut reads {
            assert!(futures_util::poll!(read).is_pending());
        }
        let reason = elsewhere(path, hangs()).await.unwrap_err().to_string();
        assert!(reason.starts_with("is not read by earlier attempts"), "{reason}");
        elsewhere(Path::new("/answers"), |_| Ok(())).await.unwrap();
        (0..READERS).for_each(|_| answer.send(()).unwrap());
        for read in reads {
            read.await.unwrap();
        }
        elsewhere(path, |_| Ok(())).await.unwrap();
    }
}
