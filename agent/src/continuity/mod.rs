//! What a restart does not lose: the sockets, and what the agent had for its callers.
//!
//! A holder (systemd, or `finial keep`) has the descriptors of both while no agent runs (crate `holder`). `content` is the
//! form of the memory, `sealer` the task that writes it, and [`Continuity`] what the agent does with both when it starts.

mod content;
mod sealer;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use cache::JwtKey;
use holder::{Holder, Inherited, Message, memory};
use identity::{Bundle, Entry, JwtSvid, PrivateKey, X509Svid};
use rustix::process::{Signal, set_parent_process_death_signal};
use tracing::{debug, info, warn};
use transport::{BindError, Listener, Options};

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
    memories: Vec<(String, File)>,
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
        Self { holder: holder.map(Arc::new), inherited, memories }
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
            return Listener::inherit(socket, path, options);
        }
        let listener = Listener::bind(path, options)?;
        self.hold(name, &listener);
        Ok(listener)
    }

    /// Gives a socket to the holder.
    pub(crate) fn hold(&self, name: &str, listener: &Listener) {
        self.tell(&Message::Remove(name.to_owned()), &[]);
        self.tell(&Message::Store(name.to_owned()), &[listener.as_fd()]);
    }

    /// Has the holder close what was passed and is not used: callers would wait for ever in the backlog of a socket that
    /// nobody serves.
    pub(crate) fn drop_leftovers(&mut self) {
        for name in self.inherited.leftovers() {
            info!(name, "Closing a socket of the last process that this configuration does not have");
            self.tell(&Message::Remove(name), &[]);
        }
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
        let (_, file) = self.memories.first()?;
        let read = memory::read(file).map_err(|reason| reason.to_string());
        match read.and_then(|text| content::decode(&text, SystemTime::now())) {
            Ok(contents) => Some(contents),
            Err(reason) => {
                warn!(error = %reason, "The memory of the last process cannot be used; it is thrown away");
                None
            }
        }
    }

    /// Starts to keep what the agent has from now on; `None` if nobody would hold it.
    pub(crate) fn sealer(&self) -> Option<Sealer> {
        let holder = self.holder.clone()?;
        let held = self.memories.iter();
        // It writes nothing before somebody has read them (`recall`).
        let held = held.filter_map(|(name, file)| Some((name.clone(), file.try_clone().ok()?)));
        Some(Sealer::new(holder, held.collect()))
    }
}

/// The name of the public socket at the holder.
pub(crate) const PUBLIC: &str = "public";
/// The name of the admin socket at the holder.
pub(crate) const ADMIN: &str = "admin";
