//! One open stream. It is the body of its own response: polled for the next frame, it hears what the client says and what
//! the caller may have now, asks the machine, and answers. No task and no channel of its own, and its size is asserted:
//! a node has hundreds of streams, a gateway thousands, nearly all of them idle.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use budget::Charge;
use bytes::Bytes;
use http_body::{Body, Frame};
use identity::WorkloadUpdate;
use latest::Updates;
use tokio::time::{Instant, Sleep};
use tokio_stream::Stream as _;
use tokio_stream::wrappers::WatchStream;
use tonic::Status;
use tracing::{debug, error, info, warn};
use transport::{Peer, Words};

use crate::framing::{Inbound, Message};
use crate::node::NodeFacts;
use crate::reply::{self, Frames};
use crate::service::{Admission, Admit, BoxFuture, Called, Shared, no_room, status_of, status_of_request};
use crate::stream::{Heard, Next, Push, Stream};

/// See the module.
pub(crate) struct Session<A, B> {
    shared: Arc<Shared<A>>,
    peer: Arc<Peer>,
    inbound: Inbound<B>,
    updates: Updates<WorkloadUpdate>,
    machine: Stream,
    start: Instant,
    out: Frames,
    /// When to look at the machine again without an event.
    look: Option<Pin<Box<Sleep>>>,
    held: Option<Box<Held>>,
    /// All that is kept for the stream beside itself.
    kept: Charge,
    /// The client has said its last; what it has asked for is still answered.
    heard_out: bool,
    over: bool,
}

/// What a stream has that waits for names: it attests its caller again, with backoff, and sooner when there is news.
struct Held {
    at: Pin<Box<Sleep>>,
    wait: Duration,
    attested: Instant,
    /// Runs beside everything else: it can take as long as a container may take to show.
    attesting: Option<BoxFuture<Result<Admission, Status>>>,
    news: WatchStream<u64>,
    /// How many names the agent has been told of.
    sought: usize,
}

impl<A: Admit, B: Body<Data = Bytes> + Unpin> Session<A, B> {
    /// A stream whose caller has been let in; `first` is what it has asked for before, and has said of itself.
    pub(crate) fn new(
        shared: Arc<Shared<A>>,
        peer: Arc<Peer>,
        inbound: Inbound<B>,
        admission: Admission,
        first: Option<(Message, NodeFacts)>,
        kept: Charge,
    ) -> Result<Self, Status> {
        let salt = shared.admit.random();
        let mut session = Self {
            machine: Stream::new(Arc::clone(&shared.options), Arc::clone(&shared.secrets), salt),
            shared,
            peer,
            inbound,
            updates: admission.updates,
            start: Instant::now(),
            out: Frames::default(),
            look: None,
            held: None,
            kept,
            heard_out: false,
            over: false,
        };
        if let Some((message, node)) = first {
            session.machine.set_node(node);
            session.request(&message)?;
        }
        Ok(session)
    }

    /// The next response, or the end.
    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Push>, Status>> {
        loop {
            self.hear(cx)?;
            // Most polls are about an ACK, for which nobody needs the time.
            let next = if self.machine.is_settled() {
                Ok(Next::Wait(None))
            } else {
                self.machine.next(self.start.elapsed(), SystemTime::now())
            };
            match next {
                Ok(Next::Push(push)) => {
                    debug!(
                        pid = self.peer.process.pid,
                        version_info = push.version_info(),
                        nonce = push.nonce(),
                        count = push.resources.len(),
                        "Sending StreamSecrets response"
                    );
                    self.settle();
                    return Poll::Ready(Ok(Some(push)));
                }
                Ok(Next::Wait(until)) => self.look_at(until.map(|until| self.start + until)),
                Err(refusal) => {
                    if self.peer.complain("refused") {
                        let words = refusal.to_string();
                        error!(pid = self.peer.process.pid, error = %Words(&words), "Error building stream secrets response");
                    }
                    return Poll::Ready(Err(status_of(&refusal)));
                }
            }
            if self.heard_out {
                return Poll::Ready(Ok(None));
            }
            self.settle();
            if let Some(look) = &mut self.look
                && look.as_mut().poll(cx).is_ready()
            {
                self.look = None;
                continue;
            }
            let Some(held) = &mut self.held else { return Poll::Pending };
            match ready!(held.poll(cx, &self.shared, &self.peer)) {
                Ok(admission) => self.updates = admission.updates,
                Err(status) => return Poll::Ready(Err(status)),
            }
        }
    }

    /// Takes in all that has come.
    fn hear(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        while !self.heard_out
            && let Poll::Ready(said) = self.inbound.poll_message(cx, self.machine.knows_node())
        {
            match said {
                Some(Ok(message)) => self.request(&message)?,
                Some(Err(reason)) => return Err(status_of_request(&reason)),
                None => self.heard_out = true,
            }
        }
        while let Poll::Ready(update) = self.updates.poll_next(cx) {
            self.machine.update(update.ok_or_else(|| Status::unavailable("agent is shutting down"))?);
        }
        self.charge()
    }

    /// Charges what is kept now.
    fn charge(&mut self) -> Result<(), Status> {
        let held = if self.held.is_some() { HELD } else { 0 };
        let kept = self.inbound.kept() + self.machine.kept() + held;
        if kept == self.kept.amount() {
            return Ok(());
        }
        self.kept.set(kept).map_err(no_room)
    }

    fn request(&mut self, message: &Message) -> Result<(), Status> {
        let request = message.request().map_err(|reason| status_of_request(&reason))?;
        let pid = self.peer.process.pid;
        debug!(pid, resource_names = %Names(request.resource_names.iter().copied()), version_info = %Words(request.version_info),
            nonce = %Words(request.response_nonce), "Received StreamSecrets request");
        let nonce = request.response_nonce;
        match self.machine.request(request).map_err(|refusal| status_of(&refusal))? {
            Heard::Nack(reason) if self.peer.complain("nack") => {
                error!(pid, error = %Words(&reason), "Envoy reported errors applying secrets");
            }
            // Two pushes in a row make the first ACK look like this: nothing to worry about.
            Heard::Stale { expected } if self.peer.complain("stale nonce") => {
                warn!(pid, nonce = %Words(nonce), expect = %expected, "Received unexpected nonce; ignoring request");
            }
            Heard::Asked | Heard::Ack | Heard::Nack(_) | Heard::Stale { .. } => {}
        }
        Ok(())
    }

    fn look_at(&mut self, until: Option<Instant>) {
        match (until, &mut self.look) {
            (None, look) => *look = None,
            (Some(until), Some(look)) if look.deadline() == until => {}
            (Some(until), look) => *look = Some(Box::pin(tokio::time::sleep_until(until))),
        }
    }

    /// Begins or ends the waiting for names.
    fn settle(&mut self) {
        let unresolved = self.machine.unresolved();
        let count = unresolved.len();
        if self.held.as_ref().map_or(0, |held| held.sought) < count {
            self.shared.admit.sought(&self.peer, unresolved);
        }
        if let Some(held) = &mut self.held {
            held.sought = count;
        }
        if count == 0 {
            self.held = None;
        } else if self.held.is_none() {
            if self.peer.complain("held") {
                info!(pid = self.peer.process.pid, resource_names = %Names(self.machine.unresolved()),
                    "Workload is not authorized for the requested identities (yet); the stream is held");
            }
            self.held = Some(Box::new(Held::new(
                WatchStream::from_changes(self.shared.admit.news()),
                self.start,
                count,
            )));
        }
    }
}

impl Held {
    fn new(news: WatchStream<u64>, attested: Instant, sought: usize) -> Self {
        let at = Box::pin(tokio::time::sleep(AGAIN_FIRST));
        Self { at, wait: AGAIN_FIRST * 2, attested, attesting: None, news, sought }
    }

    /// What a new attestation comes to. A first one can be incomplete: a group was added, an attestor was down, a label
    /// came later. One that fails is tried again.
    fn poll<A: Admit>(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Arc<Shared<A>>,
        peer: &Arc<Peer>,
    ) -> Poll<Result<Admission, Status>> {
        loop {
            if let Some(attesting) = &mut self.attesting {
                let admitted = ready!(attesting.as_mut().poll(cx));
                self.attesting = None;
                self.rest(f64::from(shared.admit.random()) / f64::from(u32::MAX));
                match admitted {
                    Ok(admission) => return Poll::Ready(Ok(admission)),
                    Err(status) => debug!(pid = peer.process.pid, error = %status,
                        "Attesting a held stream again failed"),
                }
            }
            while let Poll::Ready(Some(_)) = Pin::new(&mut self.news).poll_next(cx) {
                // Not at once each time: a node where pods come and go has news all the time.
                let soon = self.attested + AGAIN_FIRST;
                if soon < self.at.deadline() {
                    self.at.as_mut().reset(soon);
                }
            }
            ready!(self.at.as_mut().poll(cx));
            if !peer.process.is_alive() {
                return Poll::Ready(Err(Status::unavailable("workload attestation failed")));
            }
            let (shared, peer) = (Arc::clone(shared), Arc::clone(peer));
            self.attesting =
                Some(Box::pin(async move { shared.admit.admit(peer, Called::HeldStream).await }));
        }
    }

    /// Until the next attempt; `jitter` is from 0 to 1.
    fn rest(&mut self, jitter: f64) {
        self.attested = Instant::now();
        self.at.as_mut().reset(self.attested + self.wait.mul_f64(0.5 + 0.5 * jitter));
        self.wait = (self.wait * 2).min(AGAIN_MOST);
    }
}

impl<A: Admit, B: Body<Data = Bytes> + Unpin> Body for Session<A, B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(bytes) = self.out.next() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if self.over {
            return Poll::Ready(None);
        }
        let end = match ready!(self.poll_push(cx)) {
            Ok(Some(push)) => {
                self.out = push.frames();
                return Poll::Ready(self.out.next().map(|bytes| Ok(Frame::data(bytes))));
            }
            Ok(None) => Status::ok(""),
            Err(status) => status,
        };
        self.over = true;
        Poll::Ready(Some(Ok(Frame::trailers(reply::trailers(&end)))))
    }
}

/// Names that a caller asks for, as the log may have them.
struct Names<I>(I);

impl<'a, I: ExactSizeIterator<Item = &'a str> + Clone> fmt::Display for Names<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(names) = self;
        f.write_str("[")?;
        for (place, name) in names.clone().take(NAMES_SHOWN).enumerate() {
            write!(f, "{}\"{}\"", if place > 0 { ", " } else { "" }, Words(name))?;
        }
        match names.len().saturating_sub(NAMES_SHOWN) {
            0 => f.write_str("]"),
            more => write!(f, " and {more} more]"),
        }
    }
}

const NAMES_SHOWN: usize = 8;
/// Bytes of what a held stream has beside itself: its timer, its attestation while one runs.
const HELD: usize = 1024;
/// After the first attestation, and after news.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MOST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    /// As large as what `http2` gives a call to read.
    type Boxed = Box<()>;

    /// What a stream costs beside HTTP/2's part. A field more here is paid for by every stream of the node.
    #[test]
    fn a_stream_is_small() {
        assert!(size_of::<Session<(), Boxed>>() <= 440, "{}", size_of::<Session<(), Boxed>>());
    }
}
