//! What a stream asks for that does not come with its caller's updates: JWT-SVIDs, and the system's roots. Each is
//! followed as long as the stream asks for it, so that a new one is pushed when it comes.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use identity::{Entry, JwtSvid};
use latest::Updates;
use tonic::Status;
use transport::Peer;

use crate::machine::Machine;
use crate::service::{Admit, BoxFuture, Shared};

/// The newest JWT-SVID of an entry for an audience; `None` until the server has signed one.
pub type Following = Updates<Option<Arc<JwtSvid>>>;

/// A JWT-SVID that a stream asks for.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) name: Box<str>,
    /// The entry that grants it.
    pub(crate) entry: Arc<Entry>,
    pub(crate) audience: Vec<String>,
    /// The newest; `None` until one comes.
    pub(crate) svid: Option<Arc<JwtSvid>>,
}

/// The system's roots, DER; `None` until they are read.
pub type SystemRoots = Updates<Option<Arc<Vec<Bytes>>>>;

/// Everything of that kind that a stream asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fed {
    pub(crate) tokens: Vec<Token>,
    pub(crate) wants_roots: bool,
    /// The newest; `None` until they come.
    pub(crate) roots: Option<Arc<Vec<Bytes>>>,
}

impl Fed {
    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty() && !self.wants_roots
    }
}

/// What a stream follows: one feed for each JWT-SVID that it asks for, and one for the roots.
#[derive(Debug, Default)]
pub(crate) struct Feeds {
    tokens: Vec<Feed>,
    roots: Option<SystemRoots>,
}

struct Feed {
    name: Box<str>,
    entry: Arc<Entry>,
    state: State,
}

enum State {
    Opening(BoxFuture<Result<Following, Status>>),
    Open(Following),
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Feeds {
    /// Follows what the machine wants and nothing else. Returns whether there is something new to poll.
    pub(crate) fn follow<A: Admit>(
        &mut self,
        machine: &Machine,
        shared: &Arc<Shared<A>>,
        peer: &Peer,
    ) -> bool {
        let (Some(fed), Some(update)) = machine.fed() else { return false };
        let wants_roots = fed.wants_roots && self.roots.is_none();
        if wants_roots {
            self.roots = Some(shared.admit.system_roots());
        } else if !fed.wants_roots {
            self.roots = None;
        }
        let wanted = &fed.tokens;
        let is =
            |feed: &Feed, token: &Token| feed.name == token.name && Arc::ptr_eq(&feed.entry, &token.entry);
        self.tokens.retain(|feed| wanted.iter().any(|token| is(feed, token)));
        let before = self.tokens.len();
        for token in wanted {
            if self.tokens.iter().any(|feed| is(feed, token)) {
                continue;
            }
            peer.account().work(FOLLOWING);
            let (shared, update) = (Arc::clone(shared), Arc::clone(update));
            let (entry, audience) = (Arc::clone(&token.entry), token.audience.clone());
            let id = Arc::clone(&entry.id);
            let opening = Box::pin(async move { shared.admit.follow(&update, &id, &audience).await });
            self.tokens.push(Feed { name: token.name.clone(), entry, state: State::Opening(opening) });
        }
        wants_roots || self.tokens.len() > before
    }

    /// Gives what has come to the machine.
    ///
    /// # Errors
    /// The status that ends the stream.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, machine: &mut Machine) -> Result<(), Status> {
        for feed in &mut self.tokens {
            if let State::Opening(opening) = &mut feed.state
                && let Poll::Ready(opened) = opening.as_mut().poll(cx)
            {
                feed.state = State::Open(opened?);
            }
            let State::Open(following) = &mut feed.state else { continue };
            while let Poll::Ready(newest) = following.poll_next(cx) {
                let newest = newest.ok_or_else(stopping)?;
                if let Some(svid) = &*newest {
                    machine.token(&feed.name, Arc::clone(svid));
                }
            }
        }
        let Some(roots) = &mut self.roots else { return Ok(()) };
        while let Poll::Ready(newest) = roots.poll_next(cx) {
            if let Some(roots) = &*newest.ok_or_else(stopping)? {
                machine.roots(Arc::clone(roots));
            }
        }
        Ok(())
    }
}

fn stopping() -> Status {
    Status::unavailable("agent is shutting down")
}

/// Nanoseconds that it takes to follow a JWT-SVID.
pub(crate) const FOLLOWING: u64 = 20_000;
