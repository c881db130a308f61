//! What a restart does not lose: the sockets, and what the agent had for its callers.
//!
//! `disk` is the same on a disk, encrypted. A holder (systemd, or `finial keep`) has the descriptors of both while no agent runs (crate `holder`). `content` is the
//! form of the memory, `sealer` the task that writes it, `handover` the way from one agent to
//! another, and [`Continuity`] what the agent does with both when it starts.

mod content;
mod disk;
mod handover;
mod lock;
mod sealer;
mod successor;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cache::JwtKey;
use config::Settings;
use holder::{Holder, Inherited, Message, Named, memory};
use identity::{Bundle, Entry, JwtSvid, PrivateKey, X509Svid};
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};
use transport::{BindError, Listener, Options};

use self::disk::SealedFile;
pub(crate) use self::handover::{Line, Post};
use self::lock::{Attempt, Lock};
pub(crate) use self::sealer::{Changes, Sealer};

/// What is kept in sealed memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contents {
    /// The agent's own identity; `None` before attestation and after a refusal.
    pub(crate) own: Option<Own>,
    /// All bundles. The first is that of the agent's own trust domain.
    pub(crate) bundles: Vec<Arc<Bundle>>,
    /// The entries that the server authorises, by ascending ID.
    pub(crate) entries: Vec<Arc<Entry>>,
    pub(crate) svids: Vec<Minted>,
    pub(crate) tokens: Vec<(JwtKey, Arc<JwtSvid>)>,
}

/// The agent's own identity.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    /// Its keys, by slot; none if they are on the disk.
    pub(crate) keys: Vec<(String, PrivateKey)>,
    /// The certificate chain of its SVID.
    pub(crate) chain: Vec<Bytes>,
    pub(crate) reattestable: bool,
}

/// An SVID of a workload.
#[derive(Debug, Clone)]
pub(crate) struct Minted {
    pub(crate) entry_id: Arc<str>,
    /// The revision of the entry that it was signed for.
    pub(crate) revision: i64,
    pub(crate) svid: Arc<X509Svid>,
}

/// What the agent was started with, and whom it tells what to keep.
#[derive(Debug)]
pub(crate) struct Continuity {
    inherited: Inherited,
    holder: Option<Arc<Holder>>,
    memories: Named<File>,
    /// Copies of the sockets that this agent listens on.
    sockets: Mutex<Named<OwnedFd>>,
    /// The agent that this one is about to replace.
    predecessor: Option<Line>,
    /// Held while this agent is the one that serves.
    lock: Mutex<Option<Lock>>,
    /// The sealed cache on the disk, if one is configured.
    disk: Option<Arc<SealedFile>>,
}

impl Continuity {
    /// What the holder has passed to this process. Called once, before there are other threads.
    pub(crate) fn take() -> Self {
        let mut inherited = Inherited::take();
        let memories = inherited.memories();
        let holder = inherited.holder();
        if matches!(holder, Some(Holder::Keep(_))) {
            // Whoever starts a keeper in place of one that was killed needs the sockets' paths.
            let _ = set_parent_process_death_signal(Some(Signal::TERM));
        }
        if let Some(Holder::Keep(channel)) = &holder
            && matches!(channel.receive(), Ok(None))
        {
            // It ended before this process could ask to be told.
            eprintln!("the keeper of this agent is gone");
            std::process::exit(1);
        }
        let holder = holder.map(Arc::new);
        Self {
            holder,
            inherited,
            memories,
            sockets: Mutex::default(),
            predecessor: None,
            lock: Mutex::default(),
            disk: None,
        }
    }

    /// Keeps what the agent has on the disk, too, if that is configured.
    ///
    /// # Errors
    /// Why the key cannot be used.
    pub(crate) fn use_disk(&mut self, settings: &Settings) -> Result<(), String> {
        if let Some(sealed_cache) = &settings.experimental.sealed_cache {
            let default = || settings.data_dir.join("sealed-cache");
            let path = sealed_cache.path.clone().unwrap_or_else(default);
            self.disk = Some(Arc::new(SealedFile::open(sealed_cache, path)?));
        }
        Ok(())
    }

    /// Takes what a running agent with the same data folder has, if there is one.
    /// Only agents with a keeper replace each other.
    ///
    /// # Errors
    /// Why the other agent does not hand over.
    pub(crate) async fn succeed(&mut self, data_dir: &Path) -> Result<(), handover::Refused> {
        if !self.has_keeper() {
            return Ok(());
        }
        let until = Instant::now() + PATIENCE;
        loop {
            match Lock::attempt(data_dir) {
                Attempt::Taken(lock) => {
                    self.set_lock(Some(lock));
                    return Ok(());
                }
                Attempt::Impossible if self.inherited.has_listeners() => return Ok(()),
                Attempt::Another | Attempt::Impossible => {}
            }
            match self.take_from(data_dir).await {
                Ok(()) => return Ok(()),
                Err(reason) if Instant::now() >= until => return Err(reason),
                // It may be on its way out.
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Takes what the agent has that serves.
    async fn take_from(&mut self, data_dir: &Path) -> Result<(), handover::Refused> {
        let Some(line) = Line::connect(data_dir).await? else { return Ok(()) };
        let things = line.take().await?;
        // What this process was started with is older.
        drop(self.inherited.leftovers());
        for (name, descriptor) in things {
            self.inherited.add(name, descriptor);
        }
        self.memories.splice(..0, self.inherited.memories());
        self.predecessor = Some(line);
        info!("Another agent serves this socket; this one takes over when it has synced with the server");
        Ok(())
    }

    /// Whether this agent may serve in the place of a predecessor that is gone before it was ready: no other process does.
    pub(crate) fn may_serve(&self, data_dir: &Path) -> bool {
        match Lock::attempt(data_dir) {
            Attempt::Taken(lock) => {
                self.set_lock(Some(lock));
                true
            }
            Attempt::Another => false,
            Attempt::Impossible => true,
        }
    }

    /// Waits until no other agent serves, and is the one that does from then on.
    pub(crate) async fn until_alone(&self, data_dir: PathBuf) {
        let lock = tokio::task::spawn_blocking(move || Lock::take(&data_dir)).await;
        self.set_lock(lock.ok().flatten());
    }

    /// Another agent serves from now on.
    pub(crate) fn yields(&self) {
        self.set_lock(None);
    }

    fn set_lock(&self, lock: Option<Lock>) {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = lock;
    }

    /// The agent that this one is about to replace.
    pub(crate) fn predecessor(&mut self) -> Option<Line> {
        self.predecessor.take()
    }

    /// Listens at a path: on the socket that was passed, if one is bound there. A new socket is given to the holder, too.
    ///
    /// # Errors
    /// [`BindError`].
    pub(crate) fn listen(
        &mut self,
        name: &str,
        path: &Path,
        options: Options,
    ) -> Result<Listener, BindError> {
        if let Some(socket) = self.inherited.listener(path) {
            debug!(path = %path.display(), "Continuing with the socket of the last process");
            // Whoever has passed it has it.
            self.remember(name, &socket);
            return Listener::inherit(socket, path, options);
        }
        let listener = Listener::bind(path, options)?;
        self.hold(name, &listener);
        Ok(listener)
    }

    /// Where this agent waits for its successor; `None` without a keeper, or if there can be no such socket.
    pub(crate) fn post(&mut self, data_dir: &Path) -> Option<Post> {
        if !self.has_keeper() {
            return None;
        }
        let listener = match self.inherited.listener(&handover::path(data_dir)) {
            Some(listener) => {
                self.remember(HANDOVER, &listener);
                Ok(listener)
            }
            None => Post::open(data_dir).inspect(|listener| self.hold(HANDOVER, listener)),
        };
        let post = listener.and_then(Post::new);
        post.inspect_err(|reason| {
            let path = handover::path(data_dir);
            warn!(path = %path.display(), error = %reason, "A later agent cannot take over from this one");
        })
        .ok()
    }

    /// Gives a new socket to the holder. An agent that replaces another one gives it later, when it serves.
    pub(crate) fn hold(&self, name: &str, listener: &impl AsFd) {
        self.remember(name, listener);
        if self.predecessor.is_none() {
            self.store(name, listener);
        }
    }

    /// Keeps a copy of a socket, for a successor.
    fn remember(&self, name: &str, listener: &impl AsFd) {
        if let Ok(copy) = listener.as_fd().try_clone_to_owned() {
            self.sockets().push((name.to_owned(), copy));
        }
    }

    /// No code panics while it holds the lock.
    fn sockets(&self) -> MutexGuard<'_, Named<OwnedFd>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives all sockets to the holder: this agent has replaced another one.
    pub(crate) fn took_over(&self) {
        for (name, socket) in &*self.sockets() {
            self.store(name, socket);
        }
    }

    /// Tells the holder that callers are served.
    pub(crate) fn serves(&self) {
        self.tell(&Message::Ready, &[]);
    }

    /// Has the holder close what was passed and is not used: callers would wait for ever in the backlog of a socket that
    /// nobody serves.
    pub(crate) fn drop_leftovers(&mut self) {
        for name in self.inherited.leftovers() {
            info!(name, "Closing a socket of the last process that this configuration does not have");
            // A socket of this process has taken the place of one with its name.
            if !self.sockets().iter().any(|(used, _)| *used == name) {
                self.tell(&Message::Remove(name), &[]);
            }
        }
    }

    fn has_keeper(&self) -> bool {
        matches!(self.holder.as_deref(), Some(Holder::Keep(_)))
    }

    /// Gives a socket to the holder, in place of another of this name.
    fn store(&self, name: &str, socket: &impl AsFd) {
        self.tell(&Message::Remove(name.to_owned()), &[]);
        self.tell(&Message::Store(name.to_owned()), &[socket.as_fd()]);
    }

    fn tell(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) {
        if let Some(holder) = &self.holder
            && let Err(reason) = holder.tell(message, descriptors)
        {
            warn!(error = %reason, ?message, "The holder of the sockets does not take a message");
        }
    }

    /// What the last process had. One that cannot be used is thrown away.
    pub(crate) fn recall(&self) -> Option<Contents> {
        if let Some((_, file)) = self.memories.first() {
            let read = memory::read(file).map_err(|reason| reason.to_string());
            match read.and_then(|text| content::decode(&text, SystemTime::now())) {
                Ok(contents) => return Some(contents),
                Err(reason) => {
                    warn!(error = %reason, "The memory of the last process cannot be used; it is thrown away");
                }
            }
        }
        let read = self.disk.as_ref()?.read().transpose()?;
        match read.and_then(|text| content::decode(&text, SystemTime::now())) {
            Ok(contents) => Some(contents),
            Err(reason) => {
                warn!(error = %reason, "The sealed cache cannot be used; it is written anew");
                None
            }
        }
    }

    /// Starts to keep what the agent has from now on; `None` if nobody would hold it.
    pub(crate) fn sealer(&self) -> Option<Sealer> {
        if self.holder.is_none() && self.disk.is_none() {
            return None;
        }
        let held = self.memories.iter();
        // It writes nothing before somebody has read them (`recall`).
        let held = held.filter_map(|(name, file)| Some((name.clone(), file.try_clone().ok()?)));
        Some(Sealer::new(self.holder.clone(), self.disk.clone(), held.collect()))
    }
}

/// The name of the public socket at the holder.
pub(crate) const PUBLIC: &str = "public";
/// The name of the socket on which the agent waits for its successor.
const HANDOVER: &str = "handover";
/// How long to try to take over from an agent that does not answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// The wait after a hand-over that came to nothing.
const PAUSE: Duration = Duration::from_millis(100);
/// The name of the admin socket at the holder.
pub(crate) const ADMIN: &str = "admin";
