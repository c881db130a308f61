//! One open stream. It is the body of its own response: when it is polled for the next frame, it takes in the
//! client's requests and the caller's updates, asks the state machine, and sends. It has no task and no channel of
//! its own, and a test limits its size: a node has hundreds of streams, a gateway thousands, nearly all of them idle.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
use tracing::{debug, error, info};
use transport::{Peer, Words};

use crate::feeds::Feeds;
use crate::framing::Inbound;
use crate::machine::{Machine, Next, Push, RequestKind};
use crate::reply::{self, Frames};
use crate::requests::{DELTA, Names, take};
use crate::service::{
    Admission, Admit, BoxFuture, Called, Shared, Told, no_room, status_of, status_of_request,
};
use crate::wire::Protocol;

/// One open stream, as a response body.
pub(crate) struct Session<A, B> {
    shared: Arc<Shared<A>>,
    peer: Arc<Peer>,
    inbound: Inbound<B>,
    updates: Updates<WorkloadUpdate>,
    machine: Machine,
    start: Instant,
    out: Frames,
    /// When the machine must be asked again without an event.
    timer: Option<Pin<Box<Sleep>>>,
    held: Option<Box<Held>>,
    /// What is followed besides the updates; most streams have nothing.
    feeds: Option<Box<Feeds>>,
    /// Memory that the stream takes beside its own type.
    kept: Charge,
    /// The client has ended its side. What it has asked for is still sent.
    request_ended: bool,
    over: bool,
}

/// State of a stream that waits for names. It attests its caller again with backoff, and sooner when [`Admit::news`]
/// grows.
struct Held {
    at: Pin<Box<Sleep>>,
    wait: Duration,
    attested: Instant,
    /// The attestation that is running. It may take as long as a container takes to show up.
    attesting: Option<BoxFuture<Result<Admission, Status>>>,
    news: WatchStream<u64>,
    /// How many names [`Admit::sought`] was told of.
    sought: usize,
    /// The names that all streams wait for, with those of this one.
    all: Arc<AtomicUsize>,
}

impl<A: Admit, B: Body<Data = Bytes> + Unpin> Session<A, B> {
    /// A stream for an admitted caller. The machine has taken the requests that came before.
    pub(crate) fn new(
        shared: Arc<Shared<A>>,
        peer: Arc<Peer>,
        inbound: Inbound<B>,
        mut machine: Machine,
        admission: Admission,
        kept: Charge,
    ) -> Self {
        machine.may_remove(admission.is_complete);
        Self {
            shared,
            peer,
            inbound,
            updates: admission.updates,
            machine,
            start: Instant::now(),
            out: Frames::default(),
            timer: None,
            held: None,
            feeds: None,
            kept,
            request_ended: false,
            over: false,
        }
    }

    /// The next response; `None` at the end of the call.
    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Push>, Status>> {
        loop {
            self.take_events(cx)?;
            // Most polls come from an ACK, after which nothing is due: no clock is read then.
            let next = if self.machine.is_settled() {
                Ok(Next::Wait(None))
            } else {
                if self.machine.answered() {
                    self.work_for_names(LOOKUP);
                }
                self.machine.next(self.start.elapsed(), SystemTime::now())
            };
            match next {
                Ok(Next::Push(push)) => {
                    self.sending(&push);
                    self.settle();
                    return Poll::Ready(Ok(Some(push)));
                }
                Ok(Next::Wait(until)) => {
                    self.set_timer(until.map(|until| self.start + until));
                    if self.follow() {
                        continue;
                    }
                }
                Err(refusal) => {
                    if self.peer.complain("refused") {
                        let words = refusal.to_string();
                        error!(pid = self.peer.process.pid, error = %Words(&words), "Error building stream secrets response");
                    }
                    return Poll::Ready(Err(status_of(&refusal)));
                }
            }
            if self.request_ended {
                return Poll::Ready(Ok(None));
            }
            self.settle();
            if let Some(timer) = &mut self.timer
                && timer.as_mut().poll(cx).is_ready()
            {
                self.timer = None;
                continue;
            }
            let Some(held) = &mut self.held else { return Poll::Pending };
            match ready!(held.poll(cx, &self.shared, &self.peer)) {
                // A caller that is attested in full does not lose identities because an attestor is away.
                Ok(admission) if !admission.is_complete && self.machine.removes() => {}
                Ok(admission) => {
                    self.updates = admission.updates;
                    self.machine.may_remove(admission.is_complete);
                }
                Err(status) => return Poll::Ready(Err(status)),
            }
        }
    }

    /// Logs a push, and counts the work that a long one is.
    fn sending(&self, push: &Push) {
        let (pid, version_info, nonce) = (self.peer.process.pid, push.version_info(), push.nonce());
        let (count, removed) = (push.resources.len(), push.removed.len());
        match self.machine.protocol() {
            Protocol::Sotw => debug!(pid, version_info, nonce, count, "Sending StreamSecrets response"),
            Protocol::Delta => {
                debug!(target: DELTA, pid, version_info, nonce, count, removed, "Sending DeltaSecrets response");
            }
        }
        self.shared.admit.pushed(&self.peer, self.machine.protocol(), push, self.machine.fed().1);
        let bytes: usize = push.resources.iter().map(|encoded| encoded.resource.len()).sum();
        if bytes > BYTES_FREE {
            self.peer.account().work(bytes as u64 / BYTES_A_NANOSECOND);
        }
    }

    /// Tells of an answer to the response that was sent at this time.
    fn answered(&self, sent: Option<Duration>, kind: &RequestKind) {
        let (Some(sent), protocol) = (sent, self.machine.protocol()) else { return };
        match kind {
            RequestKind::Ack => {
                let after = self.start.elapsed().saturating_sub(sent);
                self.shared.admit.tell(protocol, Told::Acked { after });
            }
            RequestKind::Nack(_) => self.shared.admit.tell(protocol, Told::Nacked),
            RequestKind::Asked | RequestKind::Stale { .. } => {}
        }
    }

    /// Takes in all requests and updates that have come.
    fn take_events(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        let mut taken = 0;
        while !self.request_ended
            && let Poll::Ready(message) = self.inbound.poll_message(cx, self.machine.knows_node())
        {
            match message {
                Some(Ok(message)) => {
                    let sent = self.machine.unanswered();
                    let kind = take(&mut self.machine, &self.peer, &message)?;
                    self.answered(sent, &kind);
                    // A request of a few bytes can change a list of thousands.
                    self.work_for_names(CHANGE);
                    taken += 1;
                    let is_turn = self.machine.names() > NAMES_FREE || taken % REQUESTS == 0;
                    if is_turn && !self.peer.account().may_work() {
                        // The rest has to wait for a turn.
                        cx.waker().wake_by_ref();
                        break;
                    }
                }
                Some(Err(reason)) => return Err(status_of_request(&reason)),
                None => self.request_ended = true,
            }
        }
        while let Poll::Ready(update) = self.updates.poll_next(cx) {
            self.machine.update(update.ok_or_else(|| Status::unavailable("agent is shutting down"))?);
        }
        if let Some(feeds) = &mut self.feeds {
            feeds.poll(cx, &mut self.machine)?;
        }
        self.charge()
    }

    /// Counts work that grows with the names of the stream. A usual stream has one, which costs nothing to speak of.
    fn work_for_names(&self, each: u64) {
        let names = self.machine.names();
        if names > NAMES_FREE {
            self.peer.account().work(names as u64 * each);
        }
    }

    /// Follows what the stream asks for besides the updates. Returns whether there is something new to poll.
    fn follow(&mut self) -> bool {
        if self.machine.fed().0.is_none() {
            self.feeds = None;
            return false;
        }
        self.feeds.get_or_insert_default().follow(&self.machine, &self.shared, &self.peer)
    }

    /// Charges the memory that is kept now.
    fn charge(&mut self) -> Result<(), Status> {
        let held = if self.held.is_some() { HELD_BYTES } else { 0 };
        let kept = self.inbound.kept() + self.machine.kept() + held;
        if kept == self.kept.amount() {
            return Ok(());
        }
        self.kept.set(kept).map_err(no_room)
    }

    fn set_timer(&mut self, until: Option<Instant>) {
        match (until, &mut self.timer) {
            (None, timer) => *timer = None,
            (Some(until), Some(timer)) if timer.deadline() == until => {}
            (Some(until), timer) => *timer = Some(Box::pin(tokio::time::sleep_until(until))),
        }
    }

    /// Begins to wait when names are unresolved, and ends it when none are.
    fn settle(&mut self) {
        let unresolved = self.machine.unresolved();
        let count = unresolved.len();
        if self.held.as_ref().map_or(0, |held| held.sought) < count {
            self.shared.admit.sought(&self.peer, self.machine.protocol(), unresolved);
        }
        if let Some(held) = &mut self.held {
            held.set(count);
        }
        if count == 0 {
            self.held = None;
        } else if self.held.is_none() {
            if self.peer.complain("held") {
                info!(pid = self.peer.process.pid, resource_names = %Names(self.machine.unresolved()),
                    "Workload is not authorized for the requested identities (yet); the stream is held");
            }
            let news = WatchStream::from_changes(self.shared.admit.news());
            let all = Arc::clone(&self.shared.held_names);
            self.held = Some(Box::new(Held::new(news, self.start, count, all)));
        }
    }
}

impl Held {
    fn new(news: WatchStream<u64>, attested: Instant, sought: usize, all: Arc<AtomicUsize>) -> Self {
        let at = Box::pin(tokio::time::sleep(RETRY_FIRST));
        all.fetch_add(sought, Ordering::Relaxed);
        Self { at, wait: RETRY_FIRST * 2, attested, attesting: None, news, sought, all }
    }

    /// The stream waits for this many names now.
    fn set(&mut self, sought: usize) {
        self.all.fetch_add(sought, Ordering::Relaxed);
        self.all.fetch_sub(self.sought, Ordering::Relaxed);
        self.sought = sought;
    }

    /// Attests the caller again when that is due; ready with the new subscription. A first attestation can be
    /// incomplete: a group was added, an attestor was down, a label came later. One that fails is tried again.
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
                self.schedule(f64::from(shared.admit.random()) / f64::from(u32::MAX));
                match admitted {
                    Ok(admission) => return Poll::Ready(Ok(admission)),
                    Err(status) => debug!(pid = peer.process.pid, error = %status,
                        "Attesting a held stream again failed"),
                }
            }
            while let Poll::Ready(news) = Pin::new(&mut self.news).poll_next(cx) {
                if news.is_none() {
                    // The attestor was configured anew. Its successor may find more, and has news of its own.
                    let fresh = shared.admit.news();
                    if fresh.has_changed().is_err() {
                        break;
                    }
                    self.news = WatchStream::from_changes(fresh);
                }
                // News does not attest at once, because a node where pods come and go has news all the time.
                let soon = self.attested + RETRY_FIRST;
                if soon < self.at.deadline() {
                    self.at.as_mut().reset(soon);
                }
            }
            ready!(self.at.as_mut().poll(cx));
            if !peer.process.is_alive() {
                return Poll::Ready(Err(Status::unavailable("workload attestation failed")));
            }
            let (shared, caller) = (Arc::clone(shared), Arc::clone(peer));
            let attempt = async move { shared.admit.admit(caller, Called::HeldStream).await };
            // An attempt takes more than the stream. Where there is no room for it, the stream waits for the next one.
            let Ok(charge) = peer.account().charge(size_of_val(&attempt)) else {
                self.schedule(1.0);
                continue;
            };
            self.attesting = Some(Box::pin(async move {
                let admitted = attempt.await;
                drop(charge);
                admitted
            }));
        }
    }

    /// Sets the time of the next attempt; `jitter` is from 0 to 1.
    fn schedule(&mut self, jitter: f64) {
        self.attested = Instant::now();
        self.at.as_mut().reset(self.attested + self.wait.mul_f64(0.5 + 0.5 * jitter));
        self.wait = (self.wait * 2).min(RETRY_MAX);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
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

/// Nanoseconds that it takes to look up a name, and to copy one into a changed list.
const LOOKUP: u64 = 100;
const CHANGE: u64 = 20;
/// Requests that are taken before others have a turn, if the turn of this one is over.
const REQUESTS: u32 = 8;
/// Bytes that the kernel copies in a nanosecond. A few bytes can ask for all of a node's roots.
const BYTES_A_NANOSECOND: u64 = 4;
/// Bytes that are sent without being counted.
const BYTES_FREE: usize = 16 * 1024;
/// Names that are looked up without being counted.
const NAMES_FREE: usize = 16;
/// Bytes that a waiting stream takes beside itself: its timer, and its attestation while one runs.
const HELD_BYTES: usize = 1024;
/// Pause before the second attestation, and the least between two.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    /// As large as the request body of `http2`, which holds one pointer.
    type Boxed = Box<()>;

    /// Bytes that a stream takes beside its part in `http2`. Every stream of the node pays for a new field here.
    #[test]
    fn a_stream_is_small() {
        assert!(size_of::<Session<(), Boxed>>() <= 440, "{}", size_of::<Session<(), Boxed>>());
    }
}
