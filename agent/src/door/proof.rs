//! What was proven about who is on the other end. Every API names in the types of its functions which proof it wants, and
//! only the door makes any.

use std::sync::Arc;

use identity::Selectors;
use transport::Peer;

use crate::manager::Proof;

/// Nothing is known but that somebody could connect: enough for health and for what operators read.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Anonymous;

/// A process on the other end of a connection, attested.
#[derive(Debug, Clone)]
pub struct Caller {
    pub(super) peer: Arc<Peer>,
    pub(super) selectors: Selectors,
}

/// Somebody whose identities an authorised [`Caller`] of the admin socket may have: whoever has these selectors.
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
