//! Proofs about the process on the other end of a connection. Every handler names in its type the proof that it needs,
//! and only the door makes proofs.

use std::sync::Arc;

use identity::Selectors;
use transport::Peer;

use crate::manager::Proof;

/// Proof that somebody could connect, and no more. It is enough for health checks and for what operators read.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Anonymous;

/// Proof that the process on the other end of a connection is attested.
#[derive(Debug, Clone)]
pub struct Caller {
    pub(super) peer: Arc<Peer>,
    pub(super) selectors: Selectors,
    pub(super) is_complete: bool,
}

/// Proof that an authorised [`Caller`] of the admin socket may have the identities of these selectors.
#[derive(Debug, Clone)]
pub struct Delegate {
    pub(super) selectors: Selectors,
}

impl Caller {
    /// The connection that the process calls on.
    #[must_use]
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Whether no attestor failed. A caller that is not attested in full may have identities that do not show.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }
}

impl Proof for Caller {
    fn selectors(&self) -> &Selectors {
        &self.selectors
    }
}

impl Proof for Delegate {
    fn selectors(&self) -> &Selectors {
        &self.selectors
    }
}
