//! The task that writes the memory whenever something in it has changed.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use holder::{Holder, Message, memory};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{error, warn};

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
        Self { holder, disk, held, number, trouble: String::new() }
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
        loop {
            let came = tokio::select! {
                came = made.changed() => came,
                // The first one has something already.
                came = manager.changed() => came,
            };
            if came.is_err() {
                return;
            }
            let count = *made.borrow_and_update();
            let present = manager.borrow_and_update().clone();
            let Some(manager) = present else {
                // There is nothing to write yet.
                written.send_replace(count);
                continue;
            };
            let Ok(mut contents) = manager.contents().await else { return };
            contents.own = own.borrow().clone();
            drop(manager);
            let began = Instant::now();
            self.write(contents).await;
            written.send_replace(count);
            sleep((began.elapsed() * SHARE).max(PAUSE)).await;
        }
    }

    async fn write(&mut self, contents: Contents) {
        let (number, disk) = (self.number + 1, self.disk.clone());
        // Encoding a thousand SVIDs takes milliseconds, and a disk what it likes, which callers need not wait for.
        let written = tokio::task::spawn_blocking(move || {
            let text = content::encode(&contents)?;
            if let Some(disk) = disk {
                disk.write(&text)?;
            }
            memory::write(&text, number).map_err(|reason| reason.to_string())
        });
        let written = written.await.unwrap_or_else(|reason| Err(reason.to_string()));
        let stored = written.and_then(|file| self.store(number, &file).map(|name| (name, file)));
        match stored {
            Ok((name, file)) => {
                self.number = number;
                let old: Vec<(String, File)> = self.held.drain(..).collect();
                self.held.push((name.clone(), file));
                for (old, file) in old {
                    memory::erase(&file);
                    if old != name
                        && let Some(holder) = &self.holder
                        && let Err(reason) = holder.tell(&Message::Remove(old), &[])
                    {
                        warn!(error = %reason, "The holder of the memory does not take a message");
                    }
                }
                self.trouble.clear();
            }
            Err(reason) if self.trouble == reason => {}
            Err(reason) => {
                error!(error = %reason, "What callers have is not kept: a restart has to ask the server");
                self.trouble = reason;
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
/// The pause after a write, as a multiple of what it took.
const SHARE: u32 = 20;
