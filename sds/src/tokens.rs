//! The JWT-SVIDs of a stream. Each is followed as long as the stream asks for it, so that a new one is pushed when it
//! comes: before half the life of the last one is over.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

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

/// All JWT-SVIDs that a stream asks for.
#[derive(Debug)]
pub(crate) struct Tokens(pub(crate) Vec<Token>);

impl Tokens {
    pub(crate) fn all(tokens: Option<&Self>) -> &[Token] {
        tokens.map_or(&[], |tokens| &tokens.0)
    }
}

/// What a stream follows: one for each JWT-SVID that it asks for.
#[derive(Debug, Default)]
pub(crate) struct Feeds(Vec<Feed>);

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
        let (wanted, update) = machine.tokens();
        let Some(update) = update else { return false };
        let is =
            |feed: &Feed, token: &Token| feed.name == token.name && Arc::ptr_eq(&feed.entry, &token.entry);
        self.0.retain(|feed| wanted.iter().any(|token| is(feed, token)));
        let before = self.0.len();
        for token in wanted {
            if self.0.iter().any(|feed| is(feed, token)) {
                continue;
            }
            peer.account().work(FOLLOWING);
            let (shared, update) = (Arc::clone(shared), Arc::clone(update));
            let (entry, audience) = (Arc::clone(&token.entry), token.audience.clone());
            let id = Arc::clone(&entry.id);
            let opening = Box::pin(async move { shared.admit.follow(&update, &id, &audience).await });
            self.0.push(Feed { name: token.name.clone(), entry, state: State::Opening(opening) });
        }
        self.0.len() > before
    }

    /// Gives what has come to the machine.
    ///
    /// # Errors
    /// The status that ends the stream.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, machine: &mut Machine) -> Result<(), Status> {
        for feed in &mut self.0 {
            if let State::Opening(opening) = &mut feed.state
                && let Poll::Ready(opened) = opening.as_mut().poll(cx)
            {
                feed.state = State::Open(opened?);
            }
            let State::Open(following) = &mut feed.state else { continue };
            while let Poll::Ready(newest) = following.poll_next(cx) {
                let newest = newest.ok_or_else(|| Status::unavailable("agent is shutting down"))?;
                if let Some(svid) = &*newest {
                    machine.token(&feed.name, Arc::clone(svid));
                }
            }
        }
        Ok(())
    }
}

/// Nanoseconds that it takes to follow a JWT-SVID.
const FOLLOWING: u64 = 20_000;
