//! The task that writes the memory whenever something in it has changed.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use holder::{Holder, Message, Named, memory};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, warn};
use zeroize::Zeroizing;

use super::disk::SealedFile;
use super::{Contents, Own, content};
use crate::manager::Manager;

/// Counts changes of what is kept. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    made: watch::Sender<u64>,
    written: watch::Sender<u64>,
}

impl Changes {
    /// Something that is kept has changed.
    pub(crate) fn note(&self) {
        self.made.send_modify(|count| *count += 1);
    }

    /// Whether somebody keeps what is changed for a later process.
    pub(crate) fn are_kept(&self) -> bool {
        self.made.receiver_count() > 0
    }

    /// Waits until all changes so far are written, or nobody writes them.
    pub(crate) async fn written(&self) {
        let made = *self.made.borrow();
        let mut written = self.written.subscribe();
        tokio::select! {
            _ = written.wait_for(|written| *written >= made) => {}
            () = self.made.closed() => {}
        }
    }
}

/// What the task is made of.
#[derive(Debug)]
pub(crate) struct Sealer {
    /// Who keeps the memory; `None` if nobody does.
    holder: Option<Arc<Holder>>,
    /// The file on the disk, if one is configured.
    disk: Option<Arc<SealedFile>>,
    /// The memories that the holder has, the newest first.
    held: Vec<(String, File)>,
    /// The number of the newest.
    number: u64,
    /// A write to the disk that has not ended in time.
    writing: Option<JoinHandle<Result<(), String>>>,
    /// What the last attempt failed for.
    trouble: String,
}

impl Sealer {
    pub(super) fn new(
        holder: Option<Arc<Holder>>,
        disk: Option<Arc<SealedFile>>,
        held: Vec<(String, File)>,
    ) -> Self {
        let number = held.first().map_or(0, |(_, file)| memory::number(file));
        Self { holder, disk, held, number, writing: None, trouble: String::new() }
    }

    /// Writes after each change, for ever. The pauses between two writes grow with what one takes, so that many changes of a
    /// large cache cost a small part of the CPU.
    pub(crate) async fn run(
        mut self,
        changes: Changes,
        own: watch::Receiver<Option<Own>>,
        mut manager: watch::Receiver<Option<Manager>>,
    ) {
        let (mut made, written) = (changes.made.subscribe(), changes.written);
        let (mut failed, mut has_served) = (false, false);
        loop {
            let came = tokio::select! {
                came = made.changed() => came,
                // The first one has something already.
                came = manager.changed() => came,
                () = sleep(RETRY), if failed => Ok(()),
            };
            if came.is_err() {
                return;
            }
            let count = *made.borrow_and_update();
            let present = manager.borrow_and_update().clone();
            if std::mem::replace(&mut has_served, present.is_some()) && present.is_none() {
                // The agent is on its way out, and what was written last is for its successor.
                return;
            }
            // Before the first sync there is the agent's own identity, or nothing: what an earlier process had is wiped out
            // with it where it is not served.
            let mut contents = match present {
                Some(manager) => match manager.contents().await {
                    Ok(contents) => contents,
                    Err(_) => return,
                },
                None => Contents::default(),
            };
            contents.own = own.borrow().clone();
            let began = Instant::now();
            failed = !self.write(contents).await;
            written.send_replace(count);
            sleep((began.elapsed() * SHARE).clamp(PAUSE, LONGEST_PAUSE)).await;
        }
    }

    /// Writes the memory, then the disk. Returns whether both have it.
    async fn write(&mut self, contents: Contents) -> bool {
        let number = self.number + 1;
        // Encoding a thousand SVIDs takes milliseconds, which callers need not wait for.
        let encoded = tokio::task::spawn_blocking(move || {
            let text = content::encode(&contents)?;
            let file = memory::write(&text, number).map_err(|reason| reason.to_string())?;
            Ok((text, file))
        });
        let encoded = encoded.await.unwrap_or_else(|reason| Err(reason.to_string()));
        let done = match encoded {
            Ok((text, file)) => {
                let stored = self.replace(number, file).await;
                let on_disk = self.write_disk(text).await;
                stored.and(on_disk)
            }
            Err(reason) => Err(reason),
        };
        match done {
            Ok(()) => self.trouble.clear(),
            Err(ref reason) if self.trouble == *reason => {}
            Err(ref reason) => {
                error!(error = %reason, "What callers have is not kept: a restart has to ask the server");
                self.trouble.clone_from(reason);
            }
        }
        done.is_ok()
    }

    /// Gives a new memory to the holder, and erases those before it.
    async fn replace(&mut self, number: u64, file: File) -> Result<(), String> {
        let name = self.store(number, &file)?;
        self.number = number;
        let old: Named<File> = self.held.drain(..).collect();
        self.held.push((name.clone(), file));
        let names: Vec<String> =
            old.iter().map(|(name, _)| name.clone()).filter(|old| *old != name).collect();
        let erasing = move || old.iter().for_each(|(_, file)| memory::erase(file));
        tokio::task::spawn_blocking(erasing).await.map_err(|reason| reason.to_string())?;
        for old in names {
            if let Some(holder) = &self.holder
                && let Err(reason) = holder.tell(&Message::Remove(old), &[])
            {
                warn!(error = %reason, "The holder of the memory does not take a message");
            }
        }
        Ok(())
    }

    /// Writes the sealed cache, if there is one. A disk that does not answer has one write at a time.
    async fn write_disk(&mut self, text: Zeroizing<Vec<u8>>) -> Result<(), String> {
        let Some(disk) = self.disk.clone() else { return Ok(()) };
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return Err(NO_DISK.to_owned());
        }
        let mut writing = tokio::task::spawn_blocking(move || disk.write(&text));
        match timeout(DISK_LIMIT, &mut writing).await {
            Ok(written) => written.unwrap_or_else(|reason| Err(reason.to_string())),
            Err(_) => {
                self.writing = Some(writing);
                Err(NO_DISK.to_owned())
            }
        }
    }

    /// Gives a memory to the holder, and returns the name that it has there.
    fn store(&self, number: u64, file: &File) -> Result<String, String> {
        let name = if number.is_multiple_of(2) { EVEN } else { ODD }.to_owned();
        if let Some(holder) = &self.holder {
            let stored = holder.tell(&Message::Store(name.clone()), &[file.as_fd()]);
            stored.map_err(|reason| reason.to_string())?;
        }
        Ok(name)
    }
}

/// Writes a memory for another agent. Encoding a thousand SVIDs takes milliseconds, which callers need not wait for, so it is done elsewhere.
///
/// # Errors
/// Why it cannot be written.
pub(super) async fn sealed(contents: Contents, number: u64) -> Result<File, String> {
    let written = tokio::task::spawn_blocking(move || {
        let text = content::encode(&contents)?;
        memory::write(&text, number).map_err(|reason| reason.to_string())
    });
    written.await.unwrap_or_else(|reason| Err(reason.to_string()))
}

/// Two names in turn: the new memory is there before the old one goes.
pub(super) const ODD: &str = "memory-a";
const EVEN: &str = "memory-b";
/// The shortest pause between two writes.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between two writes, however long a write took.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The wait before a write that has failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a disk may take.
const DISK_LIMIT: Duration = Duration::from_secs(2);
const NO_DISK: &str = "the disk of the sealed cache does not answer";
/// The pause after a write, as a multiple of what it took.
const SHARE: u32 = 20;
