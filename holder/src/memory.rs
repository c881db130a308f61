//! A file in memory (memfd_create(2)) with content that must not be lost and must never be on a disk.
//!
//! The file is written once, whole, and sealed against growth; changed content is a new file. A reader checks a digest, so
//! that what a crash or a bug has damaged is noticed. Whoever replaces it erases it: the pages are overwritten and given
//! back to the system.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use aws_lc_rs::digest::{Context, SHA256};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use zeroize::Zeroizing;

/// Why a memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It is not a sealed memory, or of a format that this program does not know.
    #[error("it is of another format")]
    Format,
    /// Its digest is another.
    #[error("it is damaged")]
    Damaged,
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes a new memory. Of two, the one with the greater number is newer.
///
/// # Errors
/// Those of memfd_create(2) and write(2), and [`io::ErrorKind::FileTooLarge`] for more than [`LIMIT`] bytes.
pub fn write(content: &[u8], number: u64) -> io::Result<File> {
    if content.len() > LIMIT {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag that forbids to execute it.
    let file = memfd_create(NAME, flags | MemfdFlags::NOEXEC_SEAL).or_else(|_| memfd_create(NAME, flags))?;
    let file = File::from(file);
    file.set_len((HEADER + content.len()) as u64)?;
    file.write_all_at(content, HEADER as u64)?;
    file.write_all_at(&header(content, number), 0)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// Reads a memory.
///
/// # Errors
/// [`Unusable`].
pub fn read(file: &File) -> Result<Zeroizing<Vec<u8>>, Unusable> {
    // A file without this seal is none of ours, and could grow while it is read.
    if !fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::GROW)) {
        return Err(Unusable::Format);
    }
    let mut found = [0; HEADER];
    file.read_exact_at(&mut found, 0).map_err(|_| Unusable::Format)?;
    let length = file.metadata()?.len().saturating_sub(HEADER as u64);
    let length = usize::try_from(length).ok().filter(|length| *length <= LIMIT).ok_or(Unusable::Format)?;
    if !found.starts_with(MAGIC) {
        return Err(Unusable::Format);
    }
    let mut content = Zeroizing::new(vec![0; length]);
    file.read_exact_at(&mut content, HEADER as u64)?;
    if found != header(&content, number(file)) {
        return Err(Unusable::Damaged);
    }
    Ok(content)
}

/// The number of a memory; 0 if it has none.
#[must_use]
pub fn number(file: &File) -> u64 {
    let mut number = [0; 8];
    match file.read_exact_at(&mut number, MAGIC.len() as u64) {
        Ok(()) => u64::from_le_bytes(number),
        Err(_) => 0,
    }
}

/// Overwrites a memory and gives its pages back, also those that others hold descriptors of. Nothing can be done if that
/// fails.
pub fn erase(file: &File) {
    let zeros = [0; 4096];
    let mut left = file.metadata().map_or(0, |found| found.len());
    let mut at = 0;
    while left > 0 {
        let count = left.min(zeros.len() as u64);
        let Ok(length) = usize::try_from(count) else { break };
        if file.write_all_at(&zeros[..length], at).is_err() {
            break;
        }
        (at, left) = (at + count, left - count);
    }
    let _ = file.set_len(0);
}

/// The beginning of a memory: what it is, its number, its length, and a digest of all of that and of its content.
fn header(content: &[u8], number: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let mut rest = &mut header[..];
    for part in [&MAGIC[..], &number.to_le_bytes(), &(content.len() as u64).to_le_bytes()] {
        let (place, after) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = after;
    }
    let mut digest = Context::new(&SHA256);
    digest.update(&header[..HEADER - DIGEST]);
    digest.update(content);
    header[HEADER - DIGEST..].copy_from_slice(digest.finish().as_ref());
    header
}

/// The name of the file in /proc. It means nothing.
const NAME: &str = "finial";
/// The last byte is the version of this header.
const MAGIC: &[u8; 8] = b"finial\0\x01";
const DIGEST: usize = 32;
const HEADER: usize = 8 + 8 + 8 + DIGEST;
/// The longest content, in bytes.
pub const LIMIT: usize = 32 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for content in [&b""[..], b"key", &vec![7; 100_000]] {
            let file = write(content, 5).unwrap();
            assert_eq!(&read(&file).unwrap()[..], content);
            assert_eq!(number(&file), 5);
        }
    }

    #[test]
    fn each_changed_byte_is_noticed() {
        let file = write(b"content", 1).unwrap();
        for at in 0..file.metadata().unwrap().len() {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            read(&file).unwrap_err();
            file.write_all_at(&byte, at).unwrap();
        }
        read(&file).unwrap();
    }

    #[test]
    fn a_shorter_one_is_noticed_and_none_grows() {
        let file = write(b"content", 1).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length + 1).unwrap_err();
        for length in (0..length).rev() {
            file.set_len(length).unwrap();
            read(&file).unwrap_err();
        }
    }

    #[test]
    fn another_file_is_none() {
        assert!(matches!(read(&tempfile::tempfile().unwrap()), Err(Unusable::Format)));
        let file = write(b"content", 1).unwrap();
        file.write_all_at(&[2], 7).unwrap();
        assert!(matches!(read(&file), Err(Unusable::Format)));
        assert_eq!(write(&vec![0; LIMIT + 1], 1).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn an_erased_one_has_no_pages() {
        let file = write(&vec![7; 10_000], 1).unwrap();
        let other = file.try_clone().unwrap();
        erase(&file);
        assert_eq!(other.metadata().unwrap().len(), 0);
        read(&other).unwrap_err();
    }
}
